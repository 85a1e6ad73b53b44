"""How long an agreement lasts: as long as a connection does and its time to live after that, whatever else happens."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from playground.servers import Server
from tests.e2e.machines import Machine
from tests.e2e.peers import Raw, Scripted, home_of, key_of
from tests.harness import wait_for

TTL = 2.0


def key_in_store(route: str, application: str) -> str:
    return f"puerta:affinity:{route}:{key_of(application).hex()}"


@pytest.fixture(scope="module")
def database(store: Server) -> Iterator["redis.Redis"]:
    with redis.Redis(port=store.port, decode_responses=True) as client:
        yield client


def away_from_home(application: str, scripted: list[Scripted]) -> str:
    """A backend that the hash would not give this client."""
    addresses = [each.address for each in scripted]
    return next(address for address in addresses if address != home_of(application, addresses))


def test_kept_while_connections_live_and_free_afterwards(
    machines: list[Machine], scripted: list[Scripted], database: "redis.Redis"
) -> None:
    """Agreed by the store against the hash, so that whoever forgot it would show."""
    name = "app@lasting"
    place, key = away_from_home(name, scripted), key_in_store("brief", "app@lasting")
    database.set(key, place, px=int(TTL * 1000))
    with Raw(machines[0].ports["brief"], name) as held:
        assert held.backend == place
        began, least = time.monotonic(), TTL * 1000
        while time.monotonic() - began < 2.5 * TTL:
            left = database.pttl(key)
            assert left > 0, "nobody kept the agreement alive"
            least = min(least, left)
            with Raw(machines[1].ports["brief"], f"app@passing{time.monotonic()}"):
                pass
        print(f"at least {least:.0f} ms of {TTL:.0f} s were left")
        for machine in (*machines, *machines):
            with Raw(machine.ports["brief"], name) as another:
                assert another.backend == place
    closed = time.monotonic()
    wait_for(lambda: not database.exists(key), "the agreement ends")
    lasted = time.monotonic() - closed
    print(f"it ended {lasted:.1f} s after the last connection")
    assert lasted < TTL + 1
    time_to_forget = TTL / 3  # a worker believes what it knows for so long
    wait_for(lambda: time.monotonic() - closed > lasted + time_to_forget, "nobody believes it any more")
    with Raw(machines[0].ports["brief"], name) as again:
        assert database.get(key) == again.backend


@pytest.fixture
def solo(tmp_path: Path, scripted: list[Scripted], store: Server) -> Iterator[Machine]:
    """One worker, which remembers 16 idle clients."""
    machine = Machine(
        tmp_path,
        [each.address for each in scripted],
        affinity='session_pattern: "@(.*)", cache: 16, ttl: 1h',
        workers=1,
        store=f"redis://{store.address}/1",
    )
    with machine:
        yield machine


def test_full_memory_drops_idle_clients_alone(solo: Machine, scripted: list[Scripted], store: Server) -> None:
    def visit(name: str) -> str:
        with Raw(solo.port, name) as raw:
            return raw.backend

    # What a worker learns within the tick in which it began to hear the store's events, it asks for again.
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 0.3, "the worker has ticked")
    live = {f"app@live{number}": Raw(solo.port, f"app@live{number}") for number in range(40)}
    idle = {f"app@idle{number}": visit(f"app@idle{number}") for number in range(60)}
    wait_for(lambda: solo.route()["connections"] == 40, "the idle ones are gone")
    with redis.Redis(port=store.port, db=1) as database:
        for name in (*live, *idle):  # what a worker has to ask for, it will be told otherwise
            database.set(key_in_store("mongo", name), away_from_home(name, scripted))
    assert {name: visit(name) for name in live} == {name: raw.backend for name, raw in live.items()}
    recent, old = list(idle)[-5:], list(idle)[:40]
    assert [visit(name) for name in recent] == [idle[name] for name in recent]
    assert [visit(name) for name in old] == [away_from_home(name, scripted) for name in old]
    for raw in live.values():
        raw.close()
