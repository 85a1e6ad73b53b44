"""A seat that nobody serves is adopted within about a second: none of its connections waits for a worker that is away."""

import os
import signal

from tests.harness import wait_for
from tests.process.server import Make


def test_stopped_worker_is_adopted_and_gets_its_seat_back(make: Make) -> None:
    with make() as server:
        stopped = server.worker(1)
        os.kill(stopped, signal.SIGSTOP)
        wait_for(lambda: server.states()["worker 1"] == "hung", "the hang is seen")
        wait_for(lambda: server.board()["adopters"][1] >= 0, "its seat is adopted")
        assert server.seats() == {(0, 0), (0, 1)}
        os.kill(stopped, signal.SIGCONT)
        wait_for(lambda: server.states()["worker 1"] == "up", "it beats again")
        wait_for(lambda: server.board()["adopters"][1] == -1, "the adoption is over")
        wait_for(lambda: server.seats() == {(0, 0), (1, 1)}, "it serves its seat again")
        assert server.worker(1) == stopped


def test_crash_looping_seat_is_adopted(make: Make) -> None:
    with make() as server:
        cause = server.tell("die", 1)
        os.kill(server.worker(1), signal.SIGKILL)
        wait_for(lambda: server.board()["adopters"][1] >= 0, "its seat is adopted")
        wait_for(lambda: server.seats() == {(0, 0), (0, 1)}, "nobody waits")
        assert server.states()["worker 1"] in ("backoff", "starting")
        cause.unlink()
        wait_for(lambda: server.seats() == {(0, 0), (1, 1)}, "it came back")
        assert server.board()["adopters"][1] == -1


def test_ready_is_not_inherited(make: Make) -> None:
    """The row of a dead worker still said `ready`: its successor, which is not, would never be adopted."""
    with make() as server:
        cause = server.tell("slow", 1)
        os.kill(server.worker(1), signal.SIGKILL)
        wait_for(lambda: server.board()["adopters"][1] >= 0, "its seat is adopted")
        assert server.states()["worker 1"] == "starting"
        assert {seat for seat, _ in server.seats()} >= {0}
        cause.unlink()
        os.kill(server.worker(1), signal.SIGKILL)
        wait_for(lambda: server.seats() == {(0, 0), (1, 1)}, "it came back")


def test_adopter_that_dies_is_replaced(make: Make) -> None:
    with make(workers=3) as server:
        server.tell("die", 2)
        os.kill(server.worker(2), signal.SIGKILL)
        row = wait_for(lambda: server.board()["adopters"][2] + 1, "its seat is adopted") - 1
        adopter = next(child["seat"] for child in server.board()["children"] if child["row"] == row)
        server.tell("die", adopter)
        os.kill(server.worker(adopter), signal.SIGKILL)
        third = 1 - adopter
        wait_for(lambda: server.seats() == {(third, 0), (third, 1), (third, 2)}, "the third serves all")
