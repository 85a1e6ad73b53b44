"""Puerta as a process of its own, for tests that look at it from the outside.

`Running` starts a server in a session of its own, so that everything it ever forks can be found, counted and ended, and
a test can prove that nothing was left behind.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from playground import servers

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20.0
"""Seconds until a condition that ought to come true counts as failed: generous, for a busy machine."""


def wait_for(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """The first true value of `condition`; fails the test when there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now, nor (IPv4) may get before a server of ours binds it."""
    if ":" not in host:
        return servers.free_port(host)
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


def processes() -> Iterator[tuple[int, int, int, str]]:
    """pid, parent, session and state of every process on this machine."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                yield int(entry), int(fields[1]), int(fields[3]), fields[0]


def title(pid: int) -> str:
    """The process's title as ps shows it; "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


class Running:
    """One server: `python -m puerta -c FILE`, or another module that takes the same arguments.

    Use it as a context manager: leaving it stops the server and asserts that it ended well and left no process.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        *,
        module: str = "puerta",
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.config = directory / "puerta.yaml"
        self.run_dir = directory / "run"
        self.log = directory / "log"
        self.command = [sys.executable, "-m", module, "-c", str(self.config), *arguments]
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
        self.environ.pop("PORT", None)
        self.process: subprocess.Popen[bytes] | None = None
        self.session = 0
        self.write_config(config)

    def write_config(self, text: str) -> None:
        self.config.write_text(text)

    # -- starting and stopping ------------------------------------------------------------------------------------------

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=servers.die_with_parent,  # a test run that is killed stops nothing itself
            )
        self.session = self.process.pid
        return self

    def wait_ready(self, timeout: float = PATIENCE) -> Self:
        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode} instead of getting ready")
            return bool(re.search(r"\bready: ", self.text()))

        with self._showing_log():
            wait_for(ready, "the server is ready", timeout)
        return self

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status."""
        assert self.process is not None
        with self._showing_log():
            return self.process.wait(timeout)

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def stop(self, timeout: float = PATIENCE) -> None:
        """TERM, then assert a clean end without leftovers. Does nothing to a server that has ended."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            assert self.wait(timeout) == 0, self.text()
        self.assert_gone()

    def assert_gone(self, timeout: float = 5.0) -> None:
        wait_for(lambda: not self.session_pids(), f"no process is left of session {self.session}", timeout)

    def end(self) -> None:
        """Kill whatever is left, one by one."""
        for pid in self.session_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        if self.process is None:
            self.start().wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
            else:
                sys.stderr.write(f"--- log of the server\n{self.text()}\n")
        finally:
            self.end()

    # -- looking at it --------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def text(self) -> str:
        """Everything it has logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_log(self, pattern: str, count: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until `pattern` was logged `count` times."""
        with self._showing_log():
            wait_for(lambda: len(re.findall(pattern, self.text())) >= count, f"{pattern!r} is logged", timeout)

    def session_pids(self) -> list[int]:
        """Every living process of its session, the master included."""
        return [pid for pid, _, session, state in processes() if session == self.session and state not in "ZX"]

    def children(self) -> dict[int, str]:
        """pid → title of what the master forked and has not reaped."""
        return {pid: title(pid) for pid, parent, _, state in processes() if parent == self.pid and state not in "ZX"}

    def workers(self) -> dict[int, list[int]]:
        """seat → pids, the oldest first: two while an old one drains."""
        found: dict[int, list[int]] = {}
        for pid, name in sorted(self.children().items()):
            match = re.match(r"puerta: worker (\d+) ", name)
            if match:
                found.setdefault(int(match[1]), []).append(pid)
        return found

    def worker(self, seat: int) -> int:
        """The pid of the one worker of `seat`."""
        pids = self.workers()[seat]
        assert len(pids) == 1, f"seat {seat} has {len(pids)} workers"
        return pids[0]

    def child(self, role: str) -> int:
        """The pid of the one supervisor or store."""
        pids = [pid for pid, name in self.children().items() if name.startswith(f"puerta: {role} ")]
        assert len(pids) == 1, f"{len(pids)} children are {role}"
        return pids[0]

    @contextlib.contextmanager
    def _showing_log(self) -> Iterator[None]:
        try:
            yield
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"{error}\n--- log of the server\n{self.text()}") from None


def ask(address: int | str, request: bytes = b"", timeout: float = 5.0) -> bytes:
    """Connect to a local port or a Unix socket's path, send `request`, and return all bytes until the end."""
    family, where = (socket.AF_UNIX, address) if isinstance(address, str) else (socket.AF_INET, ("127.0.0.1", address))
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(timeout)
        caller.connect(where)
        if request:
            caller.sendall(request)
        received = b""
        while chunk := caller.recv(65536):
            received += chunk
        return received


def ask_json(path: str) -> Any:
    return json.loads(ask(path))
