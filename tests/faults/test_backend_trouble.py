"""Backends in trouble: who goes, who stays, and that a client goes as a whole."""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from playground.servers import Server, Valkey, several
from tests.e2e.machines import Machine
from tests.e2e.peers import Backend, Raw, Scripted, at_home, in_threads
from tests.faults.load import Known, Load
from tests.harness import wait_for

HEALTH = "every: 500ms, timeout: 300ms, rise: 2, fall: 3"
CLIENTS, EACH = 9, 4
EJECTED = 1.5
"""Seconds within which a dead backend is to be out; half of it is for a busy test machine."""


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    with several([Backend(), Backend(), Backend()]) as made:
        yield made


@pytest.fixture(scope="module")
def scripted() -> Iterator[list[Scripted]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Scripted()) for _ in range(6)]


@pytest.fixture(scope="module")
def machines(
    tmp_path_factory: pytest.TempPathFactory, servers: list[Server], scripted: list[Scripted]
) -> Iterator[list[Machine]]:
    directory = tmp_path_factory.mktemp("machines")
    routes: dict[str, dict[str, Any]] = {
        "mongo": {"backends": [server.address for server in servers], "health": HEALTH},
        "flaky": {"backends": [each.address for each in scripted[:3]], "health": HEALTH},
        "kept": {"backends": [each.address for each in scripted[3:]], "health": f"{HEALTH}, on_down: keep"},
    }
    with Valkey() as store, ExitStack() as stack:
        made = [
            Machine(
                directory / name,
                routes={key: dict(options) for key, options in routes.items()},
                name=name,
                store=f"redis://{store.address}",
            ).start()
            for name in ("east", "west")
        ]
        for machine in made:
            stack.callback(machine.end)
        for machine in made:
            stack.enter_context(machine)
        yield made


def state(machine: Machine, backend: str, route: str = "mongo") -> str:
    return str(machine.backends(route)[backend]["state"])


def wait_state(machines: list[Machine], backend: str, wanted: str, route: str = "mongo") -> float:
    """Seconds until every machine sees it so."""
    began = time.monotonic()
    wait_for(lambda: all(state(machine, backend, route) == wanted for machine in machines), f"{backend} is {wanted}")
    return time.monotonic() - began


def down_lines(machine: Machine, backend: str) -> int:
    return len(re.findall(rf" backend \w+/{re.escape(backend)} is down ", machine.text()))


def known_clients(machines: list[Machine], servers: list[Server]) -> list[Known]:
    """As many clients on every backend, each with connections over both machines."""
    addresses = [server.address for server in servers]
    ports = [machine.port for machine in machines]
    return [
        Known(ports, name, EACH)
        for address in addresses
        for name, _ in zip(at_home(address, addresses), range(CLIENTS // 3), strict=False)
    ]


def reconnect(known: Known) -> None:
    """All connections at once, as a driver's threads do."""
    held: list[Raw] = []
    ports = known.ports
    raised = in_threads(EACH, lambda turn: held.append(Raw(ports[turn % len(ports)], known.application)))
    assert not raised, raised
    known.held = held


def return_at_once(known: Known) -> None:
    """Each connection is made anew as soon as it ended, whatever the supervisors know by then, and again if it met the
    last moment of the dying backend."""
    held: list[Raw] = []
    ports = known.ports

    def connect(turn: int) -> bool:
        with suppress(ConnectionResetError):
            held.append(Raw(ports[turn % len(ports)], known.application))
            return True
        return False

    def wait_and_connect(turn: int) -> None:
        wait_for(lambda: not known.held[turn].is_open(), "the connection ends")
        wait_for(lambda: connect(turn), "there is another one", 2)

    raised = in_threads(EACH, wait_and_connect)
    assert not raised, raised
    known.held = held


def clients_at(name: str, known: list[Known]) -> list[Known]:
    return [each for each in known if each.backends == {name}]


def visit(port: int, application: str) -> str:
    with Raw(port, application) as raw:
        return raw.backend


def wait_for_newcomers(machine: Machine, route: str, home: str, name: str, here: bool) -> None:
    """Wait until new clients whose home is `home`, called `name`, are placed there, or no more: workers read verdicts ten
    times a second."""
    newcomers = at_home(home, machine.routes[route]["backends"], f"new{time.monotonic_ns()}")

    def agreed() -> bool:  # so many that every worker is met
        return all((visit(machine.ports[route], next(newcomers)) == name) == here for _ in range(12))

    wait_for(agreed, f"new clients are{'' if here else ' not'} placed on {home}")


def name_of(server: Server) -> str:
    return visit(server.port, "app@direct")


def test_killed_backend(machines: list[Machine], servers: list[Server]) -> None:
    victim = servers[0]
    name = name_of(victim)
    known = known_clients(machines, servers)
    there = clients_at(name, known)
    assert len(there) == CLIENTS // 3
    lines = [down_lines(machine, victim.address) for machine in machines]
    with Load([machine.port for machine in machines], name="victim") as load:
        returning = [threading.Thread(target=return_at_once, args=(each,)) for each in there]
        for thread in returning:
            thread.start()
        victim.kill()
        killed = time.monotonic()
        took = wait_state(machines, victim.address, "down")
        for thread in returning:
            thread.join()
    assert not load.failed(since=killed)
    assert all(len(each.backends) == 1 and name not in each.backends for each in there), "a client was split"
    assert all(each.is_well() for each in known)
    assert [down_lines(machine, victim.address) - old for machine, old in zip(machines, lines, strict=True)] == [1, 1]
    print(f"down after {took:.2f} s; slowest new client {load.slowest(killed) * 1000:.0f} ms")
    assert took < EJECTED
    victim.start()
    wait_state(machines, victim.address, "up")
    assert all(each.is_well() for each in known), "somebody went back, or was split"
    name = name_of(victim)
    wait_for_newcomers(machines[0], "mongo", victim.address, name, True)
    assert all(name not in each.backends for each in known)
    for each in known:
        each.close()


def test_frozen_backend(machines: list[Machine], servers: list[Server]) -> None:
    """It still accepts connections: only the timeout of its checks tells."""
    victim = servers[1]
    known = known_clients(machines, servers)
    there = clients_at(name_of(victim), known)
    assert there
    victim.signal(signal.SIGSTOP)
    try:
        took = wait_state(machines, victim.address, "down")
        check = machines[0].backends()[victim.address]["check"]
        assert not check["ok"]
        assert "timed out" in check["error"]
        wait_for(lambda: not any(raw.is_open() for each in there for raw in each.held), "its sessions have ended")
        for each in there:
            reconnect(each)
        assert all(len(each.backends) == 1 for each in there)
        assert all(each.is_well() for each in known)
    finally:
        victim.signal(signal.SIGCONT)
    wait_state(machines, victim.address, "up")
    assert all(each.is_well() for each in known)
    print(f"down after {took:.2f} s")
    assert took < 0.5 + 3 * 0.3 + 2 * 0.3 + 1
    for each in known:
        each.close()


def answer(scripted: Scripted, **fields: object) -> None:
    """From now on its hello says so; it stays itself."""
    scripted.reply = {"me": scripted.me, "ok": 1.0, "isWritablePrimary": True, "maxWireVersion": 21, **fields}


def clients_on(machine: Machine, route: str, backend: Scripted, backends: list[Scripted], count: int) -> list[Known]:
    names = at_home(backend.address, [each.address for each in backends], route)
    return [Known([machine.ports[route]], name, 3) for name, _ in zip(names, range(count), strict=False)]


def test_flapping_within_rise_and_fall(machines: list[Machine], scripted: list[Scripted]) -> None:
    machine, backend = machines[0], scripted[0]
    known = clients_on(machine, "flaky", backend, scripted[:3], 3)
    for _ in range(3):
        answer(backend, ok=0.0, errmsg="not now", code=1)
        wait_for(lambda: not machine.backends("flaky")[backend.address]["check"]["ok"], "a check has failed")
        answer(backend)
        wait_for(lambda: machine.backends("flaky")[backend.address]["check"]["ok"], "a check was good")
        assert all(each.is_well() for each in known)
    assert state(machine, backend.address, "flaky") == "up"
    assert machine.backends("flaky")[backend.address]["downs"] == 0
    assert all(each.backends == {backend.me} for each in known)
    for each in known:
        each.close()


def test_shutting_down_backend_is_drained(machines: list[Machine], scripted: list[Scripted]) -> None:
    """What a mongos answers after SIGTERM: it still serves whom it has, and gets nobody new."""
    backend = scripted[1]
    known = clients_on(machines[0], "flaky", backend, scripted[:3], 2)
    answer(backend, ok=0.0, code=91, codeName="ShutdownInProgress", errmsg="quiesce")
    took = wait_state(machines, backend.address, "drain", "flaky")
    assert all(raw.again() == backend.me for each in known for raw in each.held), "those who are there are served"
    wait_for_newcomers(machines[0], "flaky", backend.address, backend.me, False)
    moving, staying = known
    before = moving.held
    reconnect(moving)  # one new connection, and the whole client is elsewhere
    wait_for(lambda: not any(raw.is_open() for raw in before), "none of it is left behind")
    assert len(moving.backends) == 1
    assert backend.me not in moving.backends
    assert all(raw.again() == backend.me for raw in staying.held)
    answer(backend)
    wait_state(machines, backend.address, "up", "flaky")
    assert moving.is_well()
    print(f"drained after {took:.2f} s")
    for each in known:
        each.close()


def test_sessions_are_kept_if_told_so(machines: list[Machine], scripted: list[Scripted]) -> None:
    backend = scripted[3]
    known = clients_on(machines[0], "kept", backend, scripted[3:], 2)
    answer(backend, ok=0.0, errmsg="sick", code=1)
    wait_state(machines, backend.address, "down", "kept")
    assert all(raw.again() == backend.me for each in known for raw in each.held)
    wait_for_newcomers(machines[0], "kept", backend.address, backend.me, False)
    wait_for(lambda: machines[0].connections("kept").get(backend.address) == 6, "its six sessions are counted")
    answer(backend)
    wait_state(machines, backend.address, "up", "kept")
    wait_for_newcomers(machines[0], "kept", backend.address, backend.me, True)
    assert all(each.is_well() for each in known)
    for each in known:
        each.close()
