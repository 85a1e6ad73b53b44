"""TTIN, TTOU and WINCH: how many workers there are."""

import os
import signal

from tests.harness import wait_for
from tests.process.server import Make
from tests.process.test_respawn import Callers


def test_one_more_and_one_less(make: Make) -> None:
    with make() as server, Callers(server) as callers:
        server.signal(signal.SIGTTIN)
        wait_for(lambda: server.seats(80) == {(0, 0), (1, 1), (2, 2)}, "a third seat")
        assert server.board()["master"]["seats"] == 3
        server.signal(signal.SIGTTOU)
        wait_for(lambda: 2 not in server.workers(), "the third worker is gone")
        # Its socket goes on taking its share of the connections: somebody who lived before it was added serves it.
        assert {listener for _, listener in server.seats(80)} == {0, 1, 2}
        assert {seat for seat, _ in server.seats(80)} == {0, 1}
        server.signal(signal.SIGTTIN)
        wait_for(lambda: server.seats(80) == {(0, 0), (1, 1), (2, 2)}, "it is back")
    assert set(callers.counts) == {"answered"}, callers.counts


def test_the_last_one_stays(make: Make) -> None:
    with make(workers=1) as server:
        server.signal(signal.SIGTTOU)
        server.wait_log("workers: 1 is as far as it goes")
        assert server.seats() == {(0, 0)}


def test_added_seat_that_never_boots_is_adopted(make: Make) -> None:
    with make() as server:
        server.tell("never", 2)
        server.signal(signal.SIGTTIN)
        wait_for(lambda: server.states().get("worker 2") == "broken", "it is broken")
        wait_for(lambda: server.board()["adopters"][2] >= 0, "it is adopted")
        assert {listener for _, listener in server.seats(80)} == {0, 1, 2}


def test_winch_in_the_foreground_is_ignored(make: Make) -> None:
    with make() as server:
        server.signal(signal.SIGWINCH)
        server.wait_log("WINCH from process")
        assert server.seats() == {(0, 0), (1, 1)}


def test_winch_retires_the_workers_of_a_daemon(make: Make) -> None:
    server = make(("-d",))
    assert server.start().wait() == 0
    master = int((server.run_dir / "puerta.pid").read_text())
    server.session = os.getsid(master)

    def workers() -> int:
        return sum(child["role"] == "worker" for child in server.board()["children"])

    os.kill(master, signal.SIGWINCH)
    wait_for(lambda: workers() == 0, "the workers are gone")
    assert server.board()["master"]["state"] == "running"
    os.kill(master, signal.SIGHUP)
    wait_for(lambda: server.board()["master"]["generation"] == 2, "HUP brings them back")
    wait_for(lambda: workers() == 2, "both of them")
    assert server.seats() == {(0, 0), (1, 1)}
    os.kill(master, signal.SIGTERM)
    server.assert_gone()
