"""What a worker does with the option `io_uring`: it has a ring, or it has none, and clients can't tell."""

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from puerta.reactor import native
from puerta.reactor.outbox import Outbox
from tests.proxy.conftest import Make
from tests.proxy.front import Front, route
from tests.proxy.peers import echo, receive

pytestmark = pytest.mark.dataplane


def rings(pid: int) -> int:
    count = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(entry.path) == "anon_inode:[io_uring]"
    return count


def talk(front: Front) -> None:
    """50 clients at once, several messages each, so that a turn has something for more than one."""
    clients = [front.connect("open") for _ in range(50)]
    for message in (b"first", b"second message", b"x" * 5000):
        for sock in clients:
            sock.sendall(message)
        assert all(receive(sock, len(message)) == message for sock in clients)
    for sock in clients:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        sock.close()


def test_the_option_is_taken_at_the_start_and_by_a_reload(tmp_path: Path, backend: Make) -> None:
    refusal = Outbox().refusal
    if native.COMPILED and refusal:
        pytest.skip(f"NOT TESTED, io_uring is not to be had here: {os.strerror(refusal)}")
    there = 1 if native.COMPILED else 0
    with Front(tmp_path, route("open", backend(echo)), io_uring=False) as front:
        assert rings(front.worker(0)) == 0
        talk(front)
        front.write_config(front.config.read_text().replace("io_uring: false", "io_uring: true"))
        front.signal(signal.SIGHUP)
        front.wait_log("reloaded: generation 2 is up")
        assert rings(front.workers()[0][-1]) == there
        talk(front)
        assert ("io_uring is not to be had here" in front.text()) == (not native.COMPILED)
