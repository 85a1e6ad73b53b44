"""Real workers under the policies of the option `scheduling`."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, route
from tests.proxy.peers import echo, receive


def policy(front: Front) -> Callable[[], int]:
    pid = front.worker(0)
    return lambda: os.sched_getscheduler(pid)


def shown(front: Front) -> str:
    return str(front.status()["workers"][0]["scheduling"])


@pytest.fixture
def front(tmp_path: Path, backend: Make, request: pytest.FixtureRequest) -> Iterator[Front]:
    with Front(tmp_path, route("open", backend(echo)), **getattr(request, "param", {})) as running:
        yield running


@pytest.mark.parametrize("front", [{"scheduling": "batch"}], indirect=True)
def test_workers_alone_are_batch_and_a_reload_takes_it_back(front: Front) -> None:
    policies = {name.split()[1]: os.sched_getscheduler(pid) for pid, name in front.children().items()}
    assert policies.pop("worker") == os.SCHED_BATCH
    assert set(policies.values()) == {os.SCHED_OTHER} and os.sched_getscheduler(front.pid) == os.SCHED_OTHER
    wait_for(lambda: shown(front) == "batch", "the status says so")
    front.write_config(front.config.read_text().replace("scheduling: batch", "scheduling: normal"))
    front.signal(signal.SIGHUP)
    front.wait_log("reloaded: generation 2 is up")
    assert os.sched_getscheduler(front.workers()[0][-1]) == os.SCHED_OTHER


def test_auto_is_batch_under_load_and_not_beside_a_busy_loop(front: Front) -> None:
    """The busy loop has the worker's core and wants all of it, whatever else this machine does meanwhile."""
    now, worker = policy(front), front.worker(0)
    assert now() == os.SCHED_OTHER
    core = min(os.sched_getaffinity(0))
    stop = threading.Event()

    def talk(sock: socket.socket) -> None:
        with sock:
            while not stop.is_set():
                sock.sendall(b"x" * 100)
                receive(sock, 100)

    threads = [threading.Thread(target=talk, args=(front.connect("open"),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: now() == os.SCHED_BATCH, "the worker is busy, so it takes SCHED_BATCH")
        wait_for(lambda: shown(front) == "batch", "the status says so")
        os.sched_setaffinity(worker, {core})
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            try:
                os.sched_setaffinity(busy.pid, {core})
                wait_for(lambda: now() == os.SCHED_OTHER, "it has to wait now, so it gives it up")
                wait_for(lambda: shown(front) == "normal", "the status says so")
            finally:
                busy.kill()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
