"""Routes of several modes in one configuration: the trouble of one is not that of the others."""

import os
import signal
import socket
import time
from pathlib import Path

from playground.servers import free_port
from tests.e2e.machines import Machine
from tests.e2e.peers import Raw, Scripted
from tests.harness import wait_for

REDIS = "  - {{name: cache, mode: redis, listen: '127.0.0.1:{port}', cluster: ['127.0.0.1:{seed}']}}"


def test_a_cluster_that_is_not_there_holds_up_nobody_else(tmp_path: Path) -> None:
    """A worker waits for its layout, for a while; MongoDB clients are served meanwhile."""
    with Scripted() as backend, socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # and never listens
        beside = REDIS.format(port=free_port(), seed=dead.getsockname()[1])
        with Machine(tmp_path, [backend.address], workers=1, beside=beside) as machine:
            for attempt in ("alone", "told to go before it is ready"):
                pid = machine.worker(0)
                os.kill(pid, signal.SIGKILL)
                began = time.monotonic()
                wait_for(lambda pid=pid: machine.workers().get(0, [pid])[0] != pid, "another worker was started")
                with Raw(machine.port, "app@one"):
                    took = time.monotonic() - began
                print(f"served {took:.2f} s after the kill")
                assert took < 3.0
                if attempt == "told to go before it is ready":
                    with Raw(machine.port, "app@held") as held:
                        told = machine.worker(0)
                        os.kill(told, signal.SIGTERM)
                        served = [told]
                        while served[-1] == told and time.monotonic() < began + 12:
                            assert held.again()  # a client that is not idle, for whom the worker stays
                            time.sleep(0.1)
                            served = machine.workers().get(0, served)
                        assert served[-1] != told, "another one was not started"
                        with Raw(machine.port, "app@two"):
                            pass
                wait_for(lambda: machine.status()["workers"][0]["state"] == "up", "it is ready, without a layout")
            os.kill(machine.worker(0), signal.SIGKILL)
            wait_for(lambda: machine.status()["workers"][0]["state"] == "starting", "it waits for its layout")
            with Raw(machine.port, "app@three"):
                began = time.monotonic()
                pid = machine.worker(0)
                os.kill(pid, signal.SIGQUIT)
                wait_for(lambda: pid not in machine.session_pids(), "it does not finish waiting first")
            assert time.monotonic() - began < 2.0
        assert "Traceback" not in machine.text(), machine.text()
