"""Children that live but do nothing: the master has them dump their stacks, kills them, and starts others."""

import os
import signal
import time

from tests.harness import wait_for
from tests.process.server import Make


def test_frozen_worker_dumps_its_stacks_and_is_replaced(make: Make) -> None:
    with make(timing={"hang_limit": 2.0}) as server:
        before = server.worker(0)
        cause = server.tell("freeze", 0)
        server.wait_log(r"has not beaten for 2\.\d s: aborted")
        cause.unlink()
        server.wait_log(r"in freeze\n")
        server.wait_log(rf"worker 0 \({before}\) died: killed by SIGABRT")
        wait_for(lambda: server.seats() == {(0, 0), (1, 1)}, "another one serves")


def test_stopped_worker_is_killed(make: Make) -> None:
    """One that is stopped can't act on SIGABRT."""
    with make(timing={"hang_limit": 1.5, "abort_grace": 0.2}) as server:
        before = server.worker(0)
        os.kill(before, signal.SIGSTOP)
        server.wait_log(rf"worker 0 \({before}\) died: killed by SIG(KILL|ABRT)")
        wait_for(lambda: server.seats() == {(0, 0), (1, 1)}, "another one serves")


def test_frozen_supervisor_is_replaced(make: Make) -> None:
    with make(timing={"hang_limit": 1.5}) as server:
        server.tell("freeze", "supervisor")
        server.wait_log(r"supervisor \(\d+\) has not beaten")
        (server.run_dir / "freeze.supervisor").unlink()
        server.wait_log(r"supervisor \(\d+\) is up", 2)


def test_child_that_never_gets_ready_is_killed(make: Make) -> None:
    server = make(timing={"boot_limit": 0.5})
    cause = server.tell("slow", 1)
    server.start().wait_log(r"worker 1 \(\d+\) was not ready within 0\.5 s")
    cause.unlink()
    with server.wait_ready():
        wait_for(lambda: server.seats() == {(0, 0), (1, 1)}, "worker 0 gave back the seat that it adopted meanwhile")


def test_suspended_master_blames_nobody(make: Make) -> None:
    """A machine that slept: all beats are old, but so is the master's own last look."""
    with make(timing={"hang_limit": 1.5}) as server:
        pids = sorted(server.children())
        for pid in (server.pid, *pids):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(server.pid, signal.SIGCONT)
        server.wait_log("the master was suspended")
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert server.seats() == {(0, 0), (1, 1)}
        assert sorted(server.children()) == pids
        assert "has not beaten" not in server.text()
