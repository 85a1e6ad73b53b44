"""Processes of ours are killed or told to go, under load: what each of that costs the clients."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.e2e.machines import Machine
from tests.e2e.peers import Backend, Raw, Scripted, client, in_threads
from tests.faults.load import Known, Load
from tests.harness import is_listening, wait_for

Start = Callable[..., Machine]


@pytest.fixture
def scripted() -> Iterator[list[Scripted]]:
    with Scripted() as one, Scripted() as two:
        yield [one, two]


@pytest.fixture
def start(tmp_path: Path, scripted: list[Scripted]) -> Iterator[Start]:
    """Starts one machine; whatever it leaves is killed."""
    made: list[Machine] = []

    def begin(**options: Any) -> Machine:
        backends = options.pop("backends", [each.address for each in scripted])
        made.append(Machine(tmp_path, backends, **options))
        return made[0].boot()

    yield begin
    for machine in made:
        machine.end()


def is_up_again(machine: Machine, seat: int, old: int) -> bool:
    """Whether /status shows another worker than `old` up on this seat."""
    workers = machine.status()["workers"]
    return any(each["seat"] == seat and each["state"] == "up" and each["pid"] not in (0, old) for each in workers)


def test_killed_worker(start: Start) -> None:
    """A connection that began after the kill is never refused or reset; it waits for the seat's next worker."""
    machine = start(workers=2)
    with Load([machine.port], threads=6, name="kill") as load:
        for number in (0, 1):
            goal = len(load.visits) + 100
            wait_for(lambda goal=goal: len(load.visits) >= goal, "clients come")
            other = machine.worker(1 - number)
            pid = machine.worker(number)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda n=number, p=pid: is_up_again(machine, n, p), f"seat {number} has another worker")
            took = time.monotonic() - killed
            goal = len(load.visits) + 100
            wait_for(lambda goal=goal: len(load.visits) >= goal, "clients come")
            print(
                f"seat {number} is up again after {took:.2f} s, slowest connection {load.slowest(killed) * 1000:.0f} ms"
            )
            assert machine.worker(1 - number) == other
            assert load.failed(since=killed) == []
            assert {visit.error.partition(":")[0] for visit in load.failed()} <= {"ConnectionResetError"}
            assert len(load.failed()) <= 6 * (number + 1)
            assert took < 2.0
            assert load.slowest(killed) < 2.5
    machine.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_that_somebody_else_asks_to_go(start: Start, workers: int) -> None:
    """It drains, and its seat is filled again at once, even when there is no other worker."""
    machine = start(workers=workers, stop="6s")
    pid = machine.worker(0)
    held = [Raw(machine.port, f"app@{number}") for number in range(16)]
    with Load([machine.port], threads=6, name="term") as load:
        told = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert {raw.again() for raw in held} == {raw.backend for raw in held}
        wait_for(lambda: is_up_again(machine, 0, pid), "seat 0 has another worker")
        assert machine.workers()[0][0] == pid, "which was not waited for"
        goal = len(load.visits) + 500
        wait_for(lambda: len(load.visits) >= goal, "clients come")
        for raw in held:
            raw.close()
        wait_for(lambda: len(machine.workers()[0]) == 1, "it is gone")
        goal = len(load.visits) + 100
        wait_for(lambda: len(load.visits) >= goal, "clients come")
    print(f"slowest connection {load.slowest(told) * 1000:.0f} ms")
    assert load.failed() == []
    assert load.slowest(told) < 2.5
    assert "drains, though we did not ask it to" in machine.text()
    machine.stop()


def test_killed_master(start: Start) -> None:
    """Nothing of it is left, the store included, and its port is free."""
    machine = start(workers=2)
    held = [Raw(machine.port, f"app@{number}") for number in range(10)]
    assert len(machine.session_pids()) == 5
    machine.signal(signal.SIGKILL)
    killed = time.monotonic()
    machine.wait()
    machine.assert_gone()
    print(f"all are gone {time.monotonic() - killed:.2f} s after the master")
    assert not any(raw.is_open() for raw in held)
    assert not is_listening(machine.port)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", machine.port))
        probe.listen()


def work(mongo: "MongoClient[dict[str, Any]]", over: threading.Event) -> None:
    """Cursors of several batches and transactions, until told."""
    while not over.wait(0.01):
        assert len(list(mongo.lab.items.find({}, batch_size=20))) == 60
        with mongo.start_session() as session, session.start_transaction():
            for step in range(2):
                mongo.lab.log.insert_one({"step": step}, session=session)


def test_twenty_reloads(start: Start) -> None:
    """Nobody is dropped: not who connects, not who is in the middle of a cursor, not who holds a connection."""
    with Backend() as one, Backend() as two:
        machine = start(workers=2, backends=[one.address, two.address], stop="60s")
        over = threading.Event()
        with (
            client(machine.port, "app@busy", maxPoolSize=3) as mongo,
            Load([machine.port], threads=2, pause=0.02) as load,
        ):
            mongo.lab.items.insert_many({"number": number} for number in range(60))
            mongo.lab.create_collection("log")
            raised: dict[str, int] = {}
            users = threading.Thread(target=lambda: raised.update(in_threads(4, lambda _: work(mongo, over))))
            users.start()
            known = Known([machine.port], "app@held", 4)
            for number in range(20):
                machine.signal(signal.SIGHUP)
                until = time.monotonic() + 0.3
                wait_for(
                    lambda until=until: all(raw.again() for raw in known.held) and time.monotonic() > until, "served"
                )
                assert users.is_alive(), f"{raised} after {number} reloads"
            machine.wait_log("reloaded: generation 3 is up", timeout=60)  # signals of one reload's time are one reload
            over.set()
            users.join()
            assert known.is_well()
            known.close()
        generation = machine.status()["generation"]
        print(f"20 HUPs made {generation - 1} reloads; {len(load.visits)} clients came, slowest {load.slowest():.2f} s")
        assert raised == {}
        assert load.failed() == []
        machine.stop()


def test_term_drains_and_the_second_ends_it(start: Start) -> None:
    machine = start(workers=2, stop="60s")
    quiet, busy = Raw(machine.port, "app@quiet"), Raw(machine.port, "app@busy")
    machine.signal(signal.SIGTERM)
    began = time.monotonic()
    wait_for(lambda: machine.status()["state"] == "draining", "it drains")
    wait_for(lambda: busy.again() and not quiet.is_open(), "the quiet one is closed")
    print(f"the quiet one was closed after {time.monotonic() - began:.1f} s")
    wait_for(lambda: busy.again() and time.monotonic() - began > 3.0, "the busy one is served")
    assert machine.process is not None and machine.process.poll() is None
    machine.signal(signal.SIGTERM)
    again = time.monotonic()
    assert machine.wait() == 0
    print(f"gone {time.monotonic() - again:.2f} s after the second TERM")
    assert time.monotonic() - again < 3.0
    with suppress(OSError):
        busy.again()
        raise AssertionError("the busy one is still served")
    assert {line["close_reason"] for line in machine.access()} == {"drained", "stopped"}
    machine.assert_gone()
    assert not is_listening(machine.port)


def test_drain_lets_a_busy_client_finish(start: Start) -> None:
    machine = start(workers=2, stop="60s")
    busy = Raw(machine.port, "app@busy")
    machine.signal(signal.SIGTERM)
    began = time.monotonic()
    wait_for(lambda: busy.again() and time.monotonic() - began > 1.5, "it is served")
    busy.close()
    closed = time.monotonic()
    assert machine.wait() == 0
    assert time.monotonic() - closed < 5
    assert [line["close_reason"] for line in machine.access()] == ["client_closed"]
    machine.assert_gone()


def test_killed_supervisor(start: Start, scripted: list[Scripted]) -> None:
    """Workers go on with the last view and say how old it is; the next supervisor knows it and looks again."""
    machine = start(workers=2, health="every: 1h, timeout: 500ms")
    known = Known([machine.port], "app@known", 4)
    checked = time.monotonic()

    def ages() -> list[float]:
        return [worker["health_age_seconds"] for worker in machine.status()["workers"]]

    wait_for(lambda: min(ages()) > 2.5, "the view grows old, and the workers say so")
    assert max(ages()) < time.monotonic() - checked + 2
    old = machine.child("supervisor")
    os.kill(old, signal.SIGSTOP)  # first without one, for longer than it takes to start another
    with Load([machine.port], name="blind") as load:
        wait_for(lambda: len(load.visits) >= 200, "clients are served without a supervisor")
        os.kill(old, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: machine.session_pids() and newest(machine) not in (0, old), "there is another one")
        wait_for(lambda: ask_ages(ages) and max(ages()) < 1.5, "the view is fresh")
        print(
            f"fresh verdicts {time.monotonic() - killed:.2f} s after the kill; slowest {load.slowest() * 1000:.0f} ms"
        )
    assert load.failed() == []
    assert known.is_well()
    assert {backend["state"] for backend in machine.backends().values()} == {"up"}
    assert {backend["downs"] for backend in machine.backends().values()} == {0}
    known.close()
    machine.stop()


def newest(machine: Machine) -> int:
    pids = [pid for pid, title in machine.children().items() if title.startswith("puerta: supervisor ")]
    return pids[-1] if pids else 0


def ask_ages(ages: Callable[[], list[float]]) -> bool:
    with suppress(OSError, ValueError):
        return bool(ages())
    return False
