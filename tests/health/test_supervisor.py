import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

SCRIPT = Path(__file__).with_name("supervise.py")


class Master:
    def __init__(self, tmp_path: Path, backend: int, store: str = "") -> None:
        self.log = tmp_path / "log"
        self.socket = str(tmp_path / "admin.sock")
        options = {"backend": backend, "store": store, "log": str(self.log), "socket": self.socket}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        )
        first = self.answer()
        self.pid, self.port = first["pid"], first["port"]

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, command: str = "board") -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Callable[..., Master]]:
    made: list[Master] = []

    def make(backend: int, store: str = "") -> Master:
        made.append(Master(tmp_path, backend, store))
        return made[-1]

    yield make
    for one in made:
        pids = [one.pid]
        one.close()
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in pids)  # the lifeline ended what the master left behind


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def backend() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_life(master: Any, backend: int, wait_for: Any, valkey: Any) -> None:
    one = master(backend, f"unix://{valkey.address}")
    wait_for(lambda: one.ask()["state"] == "up")
    assert wait_for(lambda: one.ask()["ready"] == 2) < 5
    for _ in range(10):
        assert one.ask()["age"] < 2
        time.sleep(0.05)
    status = json.loads(one.get("/status")[1])
    assert status["routes"][0]["backends"][0]["state"] == "up"
    assert one.get("/readyz") == (200, "ok\n")
    assert one.get("/livez") == (200, "ok\n")
    assert "127.0.0.1" in one.get("/config")[1]
    assert get_unix(one.socket, "/livez").startswith(b"HTTP/1.0 200 OK\r\n")
    with redis.Redis(unix_socket_path=valkey.address) as client:
        wait_for(lambda: client.hlen("puerta:health:mongo") == 1)
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(one.pid, number)
    time.sleep(0.5)
    assert one.ask()["age"] < 2
    os.kill(one.pid, signal.SIGTERM)
    started = time.monotonic()
    assert one.ask("wait") == 0
    assert time.monotonic() - started < 4
    assert "supervisor stopped" in one.log.read_text()


def get_unix(path: str, page: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(path)
        peer.sendall(f"GET {page} HTTP/1.0\r\n\r\n".encode())
        return peer.makefile("rb").read()


def test_successor_keeps_listeners_and_verdicts(master: Any, backend: int, wait_for: Any) -> None:
    one = master(backend)
    wait_for(lambda: one.ask()["ready"] == 2)
    wait_for(lambda: one.ask()["state"] == "up")
    os.kill(one.pid, signal.SIGKILL)
    assert one.ask("wait") == -signal.SIGKILL
    assert one.ask()["state"] == "up"  # what workers go on with
    one.pid = one.ask("again")
    wait_for(lambda: one.ask()["age"] < 1)
    assert one.get("/livez")[0] == 200
    os.kill(one.pid, signal.SIGTERM)
    assert one.ask("wait") == 0
    one.pid = one.ask("again")
    assert one.get("/livez")[0] == 200  # the first one's end did not close the listeners
    assert one.ask()["downs"] == 0


def test_quit_is_at_once(master: Any, backend: int, wait_for: Any) -> None:
    one = master(backend)
    wait_for(lambda: one.ask()["ready"] == 2)
    os.kill(one.pid, signal.SIGQUIT)
    assert one.ask("wait") == 0
    assert "supervisor stopped" not in one.log.read_text()


def test_reopens_its_log(master: Any, backend: int, wait_for: Any) -> None:
    one = master(backend)
    wait_for(lambda: one.ask()["ready"] == 2)
    one.log.rename(one.log.with_suffix(".1"))
    os.kill(one.pid, signal.SIGUSR1)
    wait_for(lambda: one.log.exists())
    os.kill(one.pid, signal.SIGTERM)
    assert one.ask("wait") == 0
    assert "supervisor stopped" in one.log.read_text()


def test_a_log_that_can_not_be_reopened_is_no_reason_to_die(master: Any, backend: int, wait_for: Any) -> None:
    one = master(backend)
    wait_for(lambda: one.ask()["ready"] == 2)
    old = one.log.rename(one.log.with_suffix(".1"))
    one.log.mkdir()
    os.kill(one.pid, signal.SIGUSR1)
    wait_for(lambda: "can't reopen the log" in old.read_text())
    os.kill(one.pid, signal.SIGTERM)
    assert one.ask("wait") == 0
    assert "supervisor stopped" in old.read_text()


def test_to_be_stopped_for_a_while_is_no_signal_to_leave(master: Any, backend: int, wait_for: Any) -> None:
    one = master(backend)
    wait_for(lambda: one.ask()["ready"] == 2)
    for _ in range(5):
        os.kill(one.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(one.pid, signal.SIGCONT)
        wait_for(lambda: one.ask()["age"] < 0.25)
    os.kill(one.pid, signal.SIGTERM)
    assert one.ask("wait") == 0
    assert "supervisor stopped" in one.log.read_text()


def test_leaves_when_the_master_is_gone(master: Any, backend: int, wait_for: Any) -> None:
    one = master(backend)
    wait_for(lambda: one.ask()["ready"] == 2)
    one.process.kill()
    wait_for(lambda: not alive(one.pid), 5)
    assert "the master is gone" in one.log.read_text()


def test_imports_no_gevent() -> None:
    code = "import sys, puerta.supervisor; sys.exit('gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parents[2], timeout=60).returncode == 0
