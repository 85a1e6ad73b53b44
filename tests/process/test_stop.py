"""The ways to stop, and the signals that do something else."""

import os
import signal
import time
from pathlib import Path

import pytest

from puerta.process import signals
from puerta.process.master import Master
from tests.harness import ROOT, is_listening, wait_for
from tests.process.server import Make


def test_term_lets_workers_drain_while_the_admin_stays(make: Make) -> None:
    server = make(stop="2s").start().wait_ready()
    server.tell("linger", 0)
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    wait_for(lambda: server.states().get("worker 1") is None, "the idle worker is gone")
    board = server.board()
    assert board["master"]["state"] == "draining"
    assert server.states()["worker 0"] == "draining"
    assert server.wait() == 0
    assert time.monotonic() - started > 1.8
    log = server.text()
    assert log.index("worker 0 (") < log.rindex("supervisor (")
    assert "killed" not in log
    server.assert_gone()
    assert not is_listening(server.port)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,), (signal.SIGQUIT,)])
def test_now(make: Make, numbers: tuple[signal.Signals, ...]) -> None:
    server = make(stop="60s").start().wait_ready()
    server.tell("linger", 0)
    for number in numbers:
        server.signal(number)
        server.wait_log(f"{number.name[3:]} from process", numbers.index(number) + 1)
    assert server.wait(10) == 0
    server.assert_gone()


def test_one_that_does_not_go_is_killed(make: Make) -> None:
    server = make(stop="0s", timing={"stop_grace": 0.5}).start().wait_ready()
    server.tell("freeze", 0)
    server.wait_log(r"worker 0 \(\d+\) hangs")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server.wait_log(r"worker 0 \(\d+\) did not go in time: killed")
    server.assert_gone()


def test_term_while_booting(make: Make) -> None:
    server = make()
    server.tell("slow", 0)
    server.start().wait_log("starting test")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server.assert_gone()


def test_usr1_reopens_the_log_and_is_passed_on(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    server = make(("-e", str(path))).start()
    wait_for(lambda: path.exists() and " ready: " in path.read_text(), "it is ready")
    path.rename(tmp_path / "error.log.1")
    server.signal(signal.SIGUSR1)
    wait_for(path.exists, "another file under the name")
    server.wait_log(r"reopened in \d+", 3)
    server.stop()
    assert path.read_text().endswith("stopped\n")


def test_usr2_is_refused_in_words(make: Make) -> None:
    with make() as server:
        server.signal(signal.SIGUSR2)
        server.wait_log("upgrade is not available in this version")
        assert server.seats() == {(0, 0), (1, 1)}


def test_every_signal_has_an_action_and_a_place_in_the_document() -> None:
    assert all(callable(getattr(Master, entry.action)) for entry in signals.SIGNALS)
    assert signals.table() in (ROOT / "docs" / "signals.md").read_text()


def test_who_comes_while_all_drain_is_refused(make: Make) -> None:
    server = make(stop="20s").start().wait_ready()
    server.tell("linger", 0)
    server.signal(signal.SIGTERM)
    wait_for(lambda: not is_listening(server.port), "nobody listens any more")
    assert server.children(), "but not all have gone"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_usr1_waits_for_a_child_that_still_boots(make: Make, tmp_path: Path) -> None:
    """It would log to the file that was moved away until somebody moves the next one."""
    path = tmp_path / "error.log"
    server = make(("-e", str(path)))
    server.environ["FAKE_IMPORT_SECONDS"] = "0.5"
    server.start()
    wait_for(lambda: path.exists() and " ready: " in path.read_text(), "it is ready")
    before = set(server.children())
    os.kill(server.worker(0), signal.SIGKILL)
    wait_for(lambda: set(server.children()) - before, "another worker was forked")
    path.rename(tmp_path / "error.log.1")
    server.signal(signal.SIGUSR1)
    server.wait_log(r"reopened in \d+", 3)
    server.stop()
