"""A worker that dies is replaced, and nobody is refused meanwhile."""

import os
import signal
import threading
from collections import Counter

import pytest

from puerta.process.respawn import LONGEST, Respawn, delay
from tests.harness import ask, wait_for
from tests.process.server import Fakes, Make


class Callers:
    """Connects again and again, and counts how it went."""

    def __init__(self, server: Fakes) -> None:
        self.server = server
        self.counts: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                told = ask(self.server.port)
                self.counts["answered" if told else "dropped"] += 1
            except ConnectionResetError:
                self.counts["dropped"] += 1
            except OSError as error:
                self.counts[type(error).__name__] += 1

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_kill_9_refuses_nobody(make: Make) -> None:
    with make() as server, Callers(server) as callers:
        for round in range(3):
            for seat in (0, 1):
                before = server.worker(seat)
                os.kill(before, signal.SIGKILL)
                replaced = (
                    rf"worker {seat} \({before}\) died: killed by SIGKILL; [^\n]*\n(.*\n)*.*worker {seat} \(\d+\) is up"
                )
                server.wait_log(replaced)
            assert callers.counts["answered"] > round
    assert set(callers.counts) <= {"answered", "dropped"}, callers.counts
    # Only what a worker had in its hands when it was killed can be lost: at most one connection each time.
    assert callers.counts["dropped"] <= 6, callers.counts


def test_restarts_are_counted_and_the_row_is_kept(make: Make) -> None:
    with make() as server:
        os.kill(server.worker(1), signal.SIGKILL)
        wait_for(
            lambda: ("worker", 1, "up", 1) in {entry(child) for child in server.board()["children"]}, "one restart"
        )
        rows = [child["row"] for child in server.board()["children"]]
        assert len(rows) == 3 and max(rows) == 2


def entry(child: dict[str, object]) -> tuple[object, ...]:
    return child["role"], child["seat"], child["state"], child["restarts"]


def test_supervisor_is_replaced(make: Make) -> None:
    with make() as server:
        before = server.child("supervisor")
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: server.board()["self"]["pid"] != before, "another supervisor answers")


def test_exit_3_is_not_started_again(make: Make) -> None:
    with make() as server:
        server.tell("never", 1)
        os.kill(server.worker(1), signal.SIGKILL)
        wait_for(lambda: server.states()["worker 1"] == "broken", "it is broken")
        wait_for(lambda: server.seats() == {(0, 0), (0, 1)}, "its seat is adopted")
        assert "worker 1" in server.text() and 1 not in server.workers()


def test_exit_3_of_one_seat_at_the_first_start(make: Make) -> None:
    server = make()
    server.tell("never", 1)
    with server:
        assert "ready: 1 of 2 workers" in server.text()
        wait_for(lambda: server.seats() == {(0, 0), (0, 1)}, "its seat is adopted")


def test_delays() -> None:
    assert [delay(n, 0.5) for n in range(1, 6)] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert delay(2, 0.0) == pytest.approx(0.4)
    assert delay(2, 1.0) == pytest.approx(0.6)
    assert delay(1000, 1.0) == LONGEST


def test_a_minute_up_clears_the_count() -> None:
    respawn = Respawn()
    assert respawn.died(0.0, 0.0, 0.5) == 0.0
    assert respawn.may_start(0.0)
    assert respawn.died(1.0, 59.0, 0.5) == 0.5
    assert not respawn.may_start(1.4)
    assert respawn.may_start(1.5)
    assert respawn.died(100.0, 60.0, 0.5) == 0.0


def test_broken_until_cleared() -> None:
    respawn = Respawn()
    respawn.broken = True
    assert not respawn.may_start(1e9)
    respawn.clear()
    assert respawn.may_start(0.0)
