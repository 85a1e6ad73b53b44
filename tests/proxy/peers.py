"""Peers for the data plane: backends that do as a test says, and what MongoDB clients send first."""

import contextlib
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import bson

from playground import servers
from puerta.health.dial import PROXY_LOCAL
from puerta.health.mongodb import APPLICATION, hello_message
from tests import harness

PATIENCE = 10.0
"""Seconds that a socket waits before a test fails."""

OP_QUERY, OP_COMPRESSED, OP_MSG = 2004, 2012, 2013
HEADER = struct.Struct("<iiii")
RESET = struct.pack("ii", 1, 0)
MONGOS = {"ok": 1.0, "msg": "isdbgrid", "isWritablePrimary": True, "maxWireVersion": 21, "minWireVersion": 0}

Script = Callable[[socket.socket], object]


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on, for IPv4 outside the range that outgoing connections get theirs from."""
    return harness.free_port(host) if ":" in host else servers.free_port(host)


# -- sockets -----------------------------------------------------------------------------------------------------------


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(1 << 20, size - len(data)))
        assert piece, f"the end after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def receive_all(sock: socket.socket) -> bytes:
    """Everything until the orderly end."""
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)


def say_all(sock: socket.socket, data: bytes) -> None:
    """Send everything, and then the end."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def ended(sock: socket.socket) -> str:
    """How the peer ended the connection, after whatever it still sent: "end" or "reset"."""
    try:
        while sock.recv(1 << 20):
            pass
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    return "end"


def reset(sock: socket.socket) -> None:
    """Close so that the peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def local(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- scripts: what a backend does with a connection --------------------------------------------------------------------


def echo(sock: socket.socket) -> None:
    """Send everything back, and end when the client did."""
    while data := sock.recv(1 << 18):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


class Backend:
    """A listener on loopback. A client's connection is given to `script`, in a thread of its own, or without one kept for `take`.

    Health checks are answered and kept out of the way: those of `mode: tcp` say nothing or send a PROXY header of their
    own, those of `mode: mongodb` name themselves in their hello.
    """

    def __init__(
        self, script: Script | None = None, *, path: str = "", host: str = "127.0.0.1", backlog: int = 1024
    ) -> None:
        self.script = script
        self.path = path
        self.where: Any = path or (host, free_port(host))
        self.backlog = backlog
        self.waiting: queue.Queue[socket.socket] = queue.Queue()
        self.open: list[socket.socket] = []
        self.served = 0
        self.listener = self.listen()

    def listen(self) -> socket.socket:
        """Bind and accept, at first or again after `close`."""
        family = socket.AF_UNIX if self.path else socket.AF_INET6 if ":" in self.where[0] else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        if self.path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        else:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(self.where)
        self.listener.listen(self.backlog)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()
        return self.listener

    @property
    def address(self) -> str:
        return f"unix:{self.path}" if self.path else local(self.where)

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            self.open.append(sock)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.is_check(sock):
                answer_hellos(sock)
                sock.close()
                return
            self.served += 1
            if self.script is None:
                self.waiting.put(sock)
                return
            self.script(sock)
            sock.close()

    def is_check(self, sock: socket.socket) -> bool:
        """Look at what came without taking it. A client of a test says something, or stays until it is taken."""
        try:
            seen = sock.recv(4096, socket.MSG_PEEK)
        except TimeoutError:
            return False
        for greeting in PROXY_LOCAL.values():
            if seen.startswith(greeting):
                receive(sock, len(greeting))
                return True
        return not seen or APPLICATION.encode() in seen or seen == hello_message()

    def take(self) -> socket.socket:
        """The next client's connection, nothing of it read."""
        return self.waiting.get(timeout=PATIENCE)

    def drop(self) -> None:
        """Stop listening: connections are refused from now on, and those that are open stay."""
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()

    def close(self) -> None:
        self.drop()
        for sock in self.open:
            sock.close()


class SpeaksFirst(Backend):
    """A backend whose protocol begins with the server. It can't tell a check from a client, and serves both."""

    def is_check(self, sock: socket.socket) -> bool:
        return False


def answer_hellos(sock: socket.socket) -> None:
    """Be a healthy mongos to whoever checks."""
    while head := sock.recv(HEADER.size, socket.MSG_WAITALL):
        size, number, _, opcode = HEADER.unpack(head)
        receive(sock, size - HEADER.size)
        sock.sendall(reply(MONGOS, number, opcode))


@contextlib.contextmanager
def clogged(listener: socket.socket) -> Iterator[None]:
    """Fill a listener's queue while nobody accepts, so that the kernel drops further SYNs: a black hole on loopback."""
    stuck: list[socket.socket] = []
    try:
        while True:
            sock = socket.socket()
            stuck.append(sock)
            sock.settimeout(0.2)
            sock.connect(listener.getsockname())
            assert len(stuck) < 50
    except TimeoutError:
        yield
    finally:
        for sock in stuck:
            sock.close()


# -- MongoDB -----------------------------------------------------------------------------------------------------------


def message(opcode: int, body: bytes, number: int = 1) -> bytes:
    return HEADER.pack(HEADER.size + len(body), number, 0, opcode) + body


def op_msg(document: dict[str, Any], flags: int = 0, number: int = 1) -> bytes:
    return message(OP_MSG, struct.pack("<Ib", flags, 0) + bson.encode(document), number)


def op_query(document: dict[str, Any]) -> bytes:
    return message(OP_QUERY, struct.pack("<i", 4) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1) + bson.encode(document))


def hello(application: str | None = None, command: str = "hello", **more: Any) -> bytes:
    """A driver's first message."""
    client: dict[str, Any] = {} if application is None else {"application": {"name": application}}
    client |= {"driver": {"name": "scripted", "version": "1"}, "os": {"type": "Linux"}, "platform": "none"}
    return op_msg({command: 1, "helloOk": True, "client": client, **more, "$db": "admin"})


def reply(document: dict[str, Any], number: int, opcode: int = OP_MSG) -> bytes:
    """OP_REPLY to an OP_QUERY, OP_MSG to an OP_MSG."""
    kind, head = (1, struct.pack("<iqii", 8, 0, 0, 1)) if opcode == OP_QUERY else (OP_MSG, b"\0\0\0\0\0")
    data = head + bson.encode(document)
    return HEADER.pack(HEADER.size + len(data), 1, number, kind) + data
