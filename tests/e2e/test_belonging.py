"""Which connections belong together: everything of one client on one backend, two clients wherever the hash puts them."""

import re
import socket
import time
from typing import Any

from pymongo import MongoClient
from pymongo.driver_info import DriverInfo

from playground.servers import Server
from tests.e2e.machines import Machine
from tests.e2e.peers import PASSWORD, USER, Raw, Scripted, Splitter, at_home, client, hello, in_threads, key_of
from tests.harness import wait_for

RUNS, AT_ONCE = 100, 50


def backends_in_use(machines: list[Machine], route: str) -> dict[str, int]:
    """Connections by backend, over all machines."""
    total: dict[str, int] = {}
    for machine in machines:
        for backend, count in machine.connections(route).items():
            total[backend] = total.get(backend, 0) + count
    return total


def wait_quiet(machines: list[Machine], route: str) -> None:
    wait_for(lambda: not backends_in_use(machines, route), f"nobody uses {route}")


def open_many(mongo: "MongoClient[dict[str, Any]]", threads: int) -> None:
    """Use the client in many threads at once, which makes its pool grow."""

    def work(_: int) -> None:
        for _ in range(10):
            mongo.lab.items.insert_one({})
            list(mongo.lab.items.find({}, batch_size=5).limit(20))

    assert not in_threads(threads, work)


def test_two_clients_that_differ_in_their_identity_alone(machines: list[Machine], mongos: list[Server]) -> None:
    addresses = [server.address for server in mongos]
    names = [next(at_home(address, addresses)) for address in addresses]
    for name, address in zip(names, addresses, strict=True):
        with Raw(machines[0].port, name), Raw(machines[1].port, name), Raw(machines[0].port, name):
            wait_for(
                lambda wanted={address: 3}: backends_in_use(machines, "mongo") == wanted, f"{name} is on {address}"
            )
        wait_quiet(machines, "mongo")


def test_one_identity_from_two_addresses(machines: list[Machine], mongos: list[Server]) -> None:
    with Splitter([machine.port for machine in machines], ("127.0.0.1", "127.0.0.2", "127.0.0.3")) as splitter:
        held = [Raw(splitter.port, "app@roaming") for _ in range(12)]
        assert len({each.backend for each in held}) == 1
        wait_for(lambda: list(backends_in_use(machines, "mongo").values()) == [12], "all twelve are on one backend")
        for each in held:
            each.close()
    wait_quiet(machines, "mongo")


def test_append_metadata_monitor_and_round_trip_timer(machines: list[Machine]) -> None:
    with (
        Splitter([machine.port for machine in machines]) as splitter,
        client(splitter.port, "app@growing", heartbeatFrequencyMS=500) as mongo,
    ):
        mongo.lab.items.find_one()
        before = wait_for(lambda: splitter.taken >= 3 and splitter.taken, "monitor, timer and pool are connected")
        mongo.append_metadata(DriverInfo("Mongoengine", "0.29"))
        open_many(mongo, before + 8)
        wait_for(lambda: sum(backends_in_use(machines, "mongo").values()) == splitter.taken, "all are counted")
        assert splitter.taken >= before + 2
        assert len(backends_in_use(machines, "mongo")) == 1
    wait_quiet(machines, "mongo")


def test_authenticated_pool_and_its_monitors(machines: list[Machine]) -> None:
    with Splitter([machine.ports["guarded"] for machine in machines]) as splitter:
        options = {"username": USER, "password": PASSWORD, "minPoolSize": 6}
        with client(splitter.port, "app@guarded", **options) as mongo:
            open_many(mongo, 6)
            wait_for(lambda: splitter.taken >= 8, "pool, monitor and timer are connected")
            wait_for(
                lambda: list(backends_in_use(machines, "guarded").values()) == [splitter.taken], "all are together"
            )
    wait_quiet(machines, "guarded")


def test_fifty_first_connections_at_once(machines: list[Machine], scripted: list[Scripted]) -> None:
    """A new client's first connections race through four workers that propose different backends."""
    ports = [machine.ports["crowd"] for machine in machines]
    started, split = time.monotonic(), 0
    for run in range(RUNS):
        message = hello(f"app@crowd{run}")
        sockets = [socket.socket() for _ in range(AT_ONCE)]
        for index, each in enumerate(sockets):
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", ports[index % 2]))
        for each in sockets:
            each.settimeout(10)
            each.sendall(message)
        answers = {each.recv(4096).partition(b"127.0.0.1:")[2][:5] for each in sockets}
        split += len(answers) != 1 or b"" in answers
        for each in sockets:
            each.close()
    print(f"{RUNS} clients x {AT_ONCE} connections in {time.monotonic() - started:.1f} s, {split} split")
    assert split == 0
    wait_quiet(machines, "crowd")
    logged = r" route=crowd .* key="
    wait_for(lambda: sum(len(re.findall(logged, each.text())) for each in machines) == RUNS * AT_ONCE, "all are logged")
    everywhere = [machine.placed() for machine in machines]
    for key in (key_of(f"app@crowd{run}").hex() for run in range(RUNS)):
        assert len(set.union(*(placed[key] for placed in everywhere))) == 1
    shares = [machine.backends("crowd") for machine in machines]
    assert all(sum(share[each.address]["connections_total"] for share in shares) > 0 for each in scripted)
