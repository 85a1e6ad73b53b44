"""HUP: a good configuration starts a new generation seat by seat, a bad one changes nothing."""

import os
import signal
from pathlib import Path

import pytest

import puerta
from puerta.process.reload import newest_code
from tests.harness import free_port, is_listening, wait_for
from tests.process.server import Fakes, Make, config
from tests.process.test_respawn import Callers


def rewrite(server: Fakes, **options: object) -> None:
    port = options.pop("port", server.port)
    server.write_config(config(port, server.directory, **options))  # type: ignore[arg-type]


def reload(server: Fakes, outcome: str, count: int = 1) -> None:
    server.signal(signal.SIGHUP)
    server.wait_log(outcome, count)


def test_every_seat_and_the_supervisor_are_replaced(make: Make) -> None:
    with make() as server:
        before = sorted(server.children())
        with Callers(server) as callers:
            reload(server, "reloaded: generation 2 is up")
        wait_for(lambda: len(server.children()) == 3, "the old ones have drained")
        assert not set(before) & set(server.children())
        assert server.generations() == {2}
        assert server.seats() == {(0, 0), (1, 1)}
        board = server.board()
        assert board["self"]["generation"] == 2
        assert (board["master"]["generation"], board["master"]["reload_ok"]) == (2, 1)
        assert set(callers.counts) == {"answered"}, callers.counts


def test_bad_configuration_is_refused(make: Make) -> None:
    with make() as server:
        before = sorted(server.children())
        server.write_config("routes: 5\nwrokers: 3\n")
        reload(server, "reload refused: generation 1 keeps running")
        assert "wrokers" in server.text()
        assert sorted(server.children()) == before
        assert server.board()["master"]["reload_ok"] == 0
        rewrite(server)
        reload(server, "reloaded: generation 2 is up")
        assert server.board()["master"]["reload_ok"] == 1


def test_missing_configuration_is_refused(make: Make) -> None:
    with make() as server:
        server.config.unlink()
        reload(server, "reload refused: generation 1 keeps running")


def test_what_needs_a_restart_is_named(make: Make) -> None:
    with make() as server:
        server.write_config(server.config.read_text().replace("name: test", "name: other"))
        reload(server, "reload refused: generation 1 keeps running")
        assert "name can't change while the server runs" in server.text()


def test_address_in_use_is_refused(make: Make) -> None:
    with make() as server, make(directory=server.directory / "run") as other:
        rewrite(server, port=other.port)
        reload(server, "reload refused: generation 1 keeps running")
        assert f"can't listen on 127.0.0.1:{other.port}" in server.text()
        assert other.seats() == {(0, 0), (1, 1)}


def test_generation_that_never_boots_is_given_up(make: Make) -> None:
    for verb, ending in (("never", "exit status 3"), ("die", "exit status 1")):
        server = make()
        with server:
            before = sorted(server.children())
            cause = server.tell(verb, "g2")
            reload(server, rf"reload failed: supervisor of generation 2 ended before it was ready \({ending}\); ")
            assert sorted(server.children()) == before
            assert server.board()["master"]["reload_ok"] == 0
            assert server.generations() == {1}
            cause.unlink()


def test_generation_that_dies_half_way_is_taken_back(make: Make) -> None:
    """Seat 0 has the new generation already when seat 1 fails: it must return to the old one."""
    with make() as server:
        server.fail_half_way(2, 1)
        wait_for(lambda: len(server.children()) == 3, "the others are gone")
        assert server.generations() == {1}
        assert server.board()["self"]["generation"] == 1
        reload(server, "reloaded: generation 3 is up")


def test_several_hups_are_one_more_reload(make: Make) -> None:
    with make() as server:
        cause = server.tell("slow", 1)
        server.signal(signal.SIGHUP)
        server.wait_log(r"worker 0 \(\d+\) is up, generation 2")
        for count in range(2, 5):
            server.signal(signal.SIGHUP)
            server.wait_log("HUP from process", count)
        cause.unlink()
        os.kill(wait_for(lambda: server.workers()[1][1:], "seat 1 has a successor")[0], signal.SIGKILL)
        server.wait_log("reloaded: generation 3 is up")
        assert "generation 4" not in server.text()


def test_workers_more_and_less(make: Make) -> None:
    with make() as server:
        rewrite(server, workers=4)
        reload(server, "reloaded: generation 2 is up")
        wait_for(lambda: server.seats(80) == {(seat, seat) for seat in range(4)}, "four seats, each served by its own")
        rewrite(server, workers=1)
        with Callers(server) as callers:
            reload(server, "reloaded: generation 3 is up")
            wait_for(lambda: server.seats(80) == {(0, seat) for seat in range(4)}, "one worker serves all four")
        assert set(callers.counts) == {"answered"}, callers.counts
        wait_for(lambda: len(server.workers()) == 1, "the others are gone")


def test_address_added_and_removed(make: Make) -> None:
    with make() as server:
        old, new = server.port, free_port()
        rewrite(server, port=new)
        reload(server, "reloaded: generation 2 is up")
        assert {server.hello(new)["seat"] for _ in range(40)} == {0, 1}
        server.wait_log(f"no longer listening on 127.0.0.1:{old}")
        assert not is_listening(old)
        rewrite(server, port=old)
        reload(server, "reloaded: generation 3 is up")
        assert server.generations() == {3}


def test_lingering_workers_of_the_old_generation_are_killed_at_the_limit(make: Make) -> None:
    with make(timing={"stop_grace": 0.5}, stop="0s") as server:
        server.tell("freeze", 0)
        server.wait_log(r"worker 0 \(\d+\) hangs")
        old = server.worker(0)
        (server.run_dir / "freeze.0").unlink()
        reload(server, "reloaded: generation 2 is up")
        server.wait_log(rf"worker 0 \({old}\) did not go in time: killed")
        wait_for(lambda: server.generations() == {2}, "the new one serves")


def test_files_that_vanish_while_they_are_looked_at_are_no_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when a reload meets an installer at work, or an editor's lock."""
    (tmp_path / "__init__.py").touch()
    (tmp_path / ".#lock.py").symlink_to("nobody@nowhere.1")
    monkeypatch.setattr(puerta, "__file__", str(tmp_path / "__init__.py"))
    assert newest_code() == (tmp_path / "__init__.py").stat().st_mtime


def test_an_address_leaves_while_seats_come_and_a_worker_of_the_old_generation_dies(make: Make) -> None:
    """The old generation's address has no sockets for the new seats: its next worker has to do without."""
    with make(workers=1) as server:
        before = set(server.children())
        server.tell("slow", "supervisor")
        rewrite(server, workers=2, port=free_port())
        server.signal(signal.SIGHUP)
        server.wait_log("reloading: generation 2 begins")
        [successor] = wait_for(lambda: set(server.children()) - before, "its supervisor was started")
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_log(r"worker 0 \(\d+\) is up, generation 1", 2)
        os.kill(successor, signal.SIGKILL)
        server.wait_log("reload failed: supervisor of generation 2 ended before it was ready")
        assert server.generations() == {1}


def test_an_address_that_leaves_refuses_at_once(make: Make) -> None:
    """Not only when the last worker that served it has drained."""
    with make(stop="4s") as server:
        old, new = server.port, free_port()
        server.tell("linger", 0)
        server.tell("linger", 1)
        rewrite(server, port=new, stop="4s")
        reload(server, "reloaded: generation 2 is up")
        server.wait_log(f"no longer listening on 127.0.0.1:{old}")
        wait_for(lambda: not is_listening(old), "nobody listens there")
        assert len(server.workers()[0]) == 2, "the old one has not drained yet"
