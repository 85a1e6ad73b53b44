"""Clients, a backend that does as it is told, and one address in front of several, for the end-to-end tests."""

import contextlib
import itertools
import re
import selectors
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import bson
from pymongo import MongoClient

from playground.servers import Mongo, Server, free_port
from puerta.protocol import identity
from puerta.proxy import balance

OP_MSG = 2013
HEADER = struct.Struct("<iiii")
USER, PASSWORD = "ada", "lovelace"
PATTERN = '"@(.*)"'
"""The session_pattern of all tests: `orders@17` is the process 17."""


class Backend(Mongo):
    """A server that may be killed at any time and leaves nothing: its orderly stop takes seconds."""

    def __init__(self, port: int | None = None) -> None:
        super().__init__(port)
        self.storage = str(self.directory / "data")

    def stop(self) -> None:
        self.kill()
        super().stop()


class Splitter:
    """One address in front of several: every new connection goes to the next target, from `sources` in turn."""

    def __init__(self, targets: Sequence[int], sources: Sequence[str] = ("127.0.0.1",)) -> None:
        self.targets, self.sources = targets, sources
        self.taken = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self.listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                turn, self.taken = self.taken, self.taken + 1
                target, source = self.targets[turn % len(self.targets)], self.sources[turn % len(self.sources)]
                far = socket.create_connection(("127.0.0.1", target), 10, source_address=(source, 0))
                far.settimeout(None)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)


def hello(application: str) -> bytes:
    """The first message of a client called `application`."""
    body = bson.encode(
        {
            "hello": 1,
            "$db": "admin",
            "client": {"application": {"name": application}, "driver": {"name": "test", "version": "1"}},
        }
    )
    return HEADER.pack(HEADER.size + 5 + len(body), 1, 0, OP_MSG) + b"\0\0\0\0\0" + body


class Raw:
    """One connection that says hello and is then held. `backend` is the server's own name for itself."""

    def __init__(self, port: int, application: str, source: str = "127.0.0.1", wait: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))
        self.message = hello(application)
        self.socket.sendall(self.message)
        self.backend = self.answer() if wait else ""

    def answer(self) -> str:
        length = HEADER.unpack(self._exactly(HEADER.size))[0]
        document = bson.decode(self._exactly(length - HEADER.size)[5:])
        return str(document.get("me") or document["topologyVersion"]["processId"])

    def again(self) -> str:
        """Another hello on the same connection. Raises OSError when it was closed."""
        self.socket.sendall(self.message)
        return self.answer()

    def is_open(self) -> bool:
        """Whether the other side has neither closed nor reset the connection."""
        self.socket.setblocking(False)
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.socket.settimeout(10)

    def close(self) -> None:
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("closed before the answer")
            data += piece
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Scripted:
    """A backend that answers every message as told, in one thread. `me` is its name in `Raw.backend`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = self.me = f"127.0.0.1:{self.port}"
        self.reply: dict[str, Any] = {"ok": 1.0, "me": self.me, "isWritablePrimary": True, "maxWireVersion": 21}
        self.selector = selectors.DefaultSelector()
        self.open: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.stopped = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """As if killed: its port is closed and its connections end."""
        self.stopped = True
        self.thread.join()
        for each in (self.listener, *self.open):
            each.close()
        self.selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self.stopped:
            for key, _ in self.selector.select(0.05):
                ready: Any = key.fileobj
                if ready is self.listener:
                    accepted = ready.accept()[0]
                    self.open.add(accepted)
                    self.selector.register(accepted, selectors.EVENT_READ)
                else:
                    self._serve(ready)

    def _serve(self, ready: socket.socket) -> None:
        """A message comes in one piece here; who sends none is gone."""
        with contextlib.suppress(OSError):
            if message := ready.recv(65536):
                body = bson.encode(self.reply)
                asked = HEADER.unpack_from(message)[1]
                ready.sendall(HEADER.pack(HEADER.size + 5 + len(body), 1, asked, OP_MSG) + b"\0\0\0\0\0" + body)
                return
        self.selector.unregister(ready)
        self.open.discard(ready)
        ready.close()


def home_of(application: str, backends: Sequence[str], by: str = "hybrid") -> str:
    """The backend that the rendezvous hash gives a client on 127.0.0.1."""
    return balance.rendezvous(key_of(application, by), [Candidate(backend) for backend in backends]).id


def key_of(application: str, by: str = "hybrid") -> bytes:
    key = identity.affinity_key(
        by,
        address="127.0.0.1",
        application=application.encode(),
        server_name=None,
        proxy_identity=None,
        session_pattern=re.compile(PATTERN.strip('"')),
    )
    assert key is not None
    return key


@dataclass
class Candidate:
    id: str
    share: float = 1.0
    turn: float = 0.0
    load: int = 0


def at_home(backend: str, backends: Sequence[str], name: str = "home") -> Iterator[str]:
    """Names of clients whose home is `backend`, one process after the other."""
    for number in itertools.count():
        if home_of(f"app@{name}{number}", backends) == backend:
            yield f"app@{name}{number}"


def name_of(server: Server) -> str:
    """What `Raw.backend` says of this server."""
    with Raw(server.port, "direct") as direct:
        return direct.backend


def client(port: int, application: str, **options: Any) -> "MongoClient[dict[str, Any]]":
    options = {"serverSelectionTimeoutMS": 10000, **options}
    return MongoClient("127.0.0.1", port, appname=application, **options)


def in_threads(count: int, work: Callable[[int], None]) -> Counter[str]:
    """Run `work(index)` in `count` threads at once; what it raised, by error code or class."""
    raised: Counter[str] = Counter()

    def run(index: int) -> None:
        try:
            work(index)
        except Exception as error:
            raised[str(getattr(error, "code", None) or type(error).__name__)] += 1

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised
