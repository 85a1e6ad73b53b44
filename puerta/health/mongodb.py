"""Asks a mongos (or another MongoDB server) how it is, by `hello`.

pymongo's client is made once and kept: its monitor holds a streaming `hello`, so the death of a backend is noticed when
its connection breaks, not when the next check is due. Once something failed, the client is thrown away and the next
check begins with a plain connect: a refused one fails at once, and no back-off of the old client hides a recovery.

Sources: the Server Discovery and Monitoring specification; mongos' quiesce mode (`hello` answers code 91).
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_plus

import bson
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

from puerta.config.schema import Address
from puerta.health.dial import PROXY_LOCAL, Result, connect, words
from puerta.resolve import lowest

APPLICATION = "puerta-health"
SHUTDOWN_IN_PROGRESS = 91
LOAD_BALANCER_MISMATCH = 354
"""A mongos' answer, on its load balancer port, to a `hello` without `loadBalanced`: it is alive, all we ask."""

SELECTION_MS = 100
"""pymongo's patience with itself: the client is only asked after its monitor heard from the server."""

OP_MSG = 2013
HEADER = struct.Struct("<iiii")
MAX_REPLY = 1 << 20

BYPASS = "hello names a replica set or its hosts: drivers may bypass the proxy"
NOT_A_MONGOS = "hello is not a mongos' (point the route at a mongos, or set expect: any)"


def judge(reply: Mapping[str, Any], expect: str, latency: float) -> Result:
    """What a `hello` reply says about the server that sent it."""
    if not reply.get("ok"):
        return refused(reply.get("code"), str(reply.get("errmsg", ""))[:100])
    warnings = (BYPASS,) if reply.get("setName") or reply.get("hosts") else ()
    if expect == "mongos" and reply.get("msg") != "isdbgrid":
        return Result(False, latency=latency, error=NOT_A_MONGOS, warnings=warnings)
    return Result(True, latency=latency, warnings=warnings)


def refused(code: object, message: str) -> Result:
    """The verdict on a `hello` that the server answered with an error."""
    if code == SHUTDOWN_IN_PROGRESS:
        return Result(False, drain=True, error=f"shutting down (code {code})")
    if code == LOAD_BALANCER_MISMATCH:
        return Result(True)
    return Result(False, error=f"hello failed: {message} (code {code})")


class Pulse(ServerHeartbeatListener):
    """What the client's monitor last heard. `lost` is called when a server that had answered stops doing so."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self.lost: Callable[[], None] | None = lost
        self.heard = threading.Event()
        self.alive = False
        self.error: Exception | None = None

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Nothing to learn."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        self.alive, self.error = True, None
        self.heard.set()

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        was_alive, self.alive, self.error = self.alive, False, event.reply
        self.heard.set()
        lost = self.lost
        if was_alive and lost is not None:
            lost()


class MongodbCheck:
    """`hello` through a kept pymongo client. `lost` may be called from another thread, at any time until `close`."""

    def __init__(self, address: Address, timeout: float, expect: str, lost: Callable[[], None]) -> None:
        self.address, self.timeout, self.expect, self.lost = address, timeout, expect, lost
        self.client: MongoClient[dict[str, Any]] | None = None
        self.pulse = Pulse(lost)

    def check(self) -> Result:
        """One check; the client is kept only if all went well."""
        try:
            result = self._ask(time.monotonic() + self.timeout)
        except (OSError, PyMongoError, BSONError) as error:
            self._drop()
            code = code_of(error)
            text = words(error, self.address)
            return Result(False, error=text) if code is None else refused(code, text)
        if not result.ok:
            self._drop()
        return result

    def close(self) -> None:
        client = self._let_go()
        if client is not None:
            client.close()

    def _drop(self) -> None:
        """Close a client whose server may be gone: it says goodbye at length, and a check must not wait for that."""
        client = self._let_go()
        if client is not None:
            threading.Thread(target=client.close, name="puerta-goodbye", daemon=True).start()

    def _let_go(self) -> MongoClient[dict[str, Any]] | None:
        client, self.client = self.client, None
        self.pulse.lost = None  # what we end ourselves is no news
        return client

    def _ask(self, deadline: float) -> Result:
        if self.client is not None and self.pulse.error is not None:
            self._drop()
        client = self.client or self._fresh(deadline)
        asked = time.monotonic()
        reply = client.admin.command("hello")
        return judge(reply, self.expect, time.monotonic() - asked)

    def _fresh(self, deadline: float) -> MongoClient[dict[str, Any]]:
        """A new client that has heard from its server. Raises what its monitor met, or TimeoutError."""
        connect(self.address, self.timeout).close()
        self.pulse = pulse = Pulse(self.lost)
        client: MongoClient[dict[str, Any]] = MongoClient(
            uri(self.address),
            directConnection=True,
            appname=APPLICATION,
            connectTimeoutMS=int(self.timeout * 1000),
            socketTimeoutMS=int(self.timeout * 1000),
            serverSelectionTimeoutMS=SELECTION_MS,
            maxPoolSize=1,
            retryReads=False,
            event_listeners=[pulse],
        )
        self.client = client
        if not pulse.heard.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        if pulse.error is not None:
            raise pulse.error
        return client


class BareHelloCheck:
    """`hello` on a connection of its own, for what no driver can do: send a PROXY header first (`send` is its version),
    or reach a Unix socket whose name does not end in `.sock`."""

    def __init__(self, address: Address, timeout: float, expect: str, send: str | None) -> None:
        self.address, self.timeout, self.expect = address, timeout, expect
        self.greeting = PROXY_LOCAL[send] if send else b""

    def check(self) -> Result:
        asked = time.monotonic()
        deadline = asked + self.timeout
        try:
            with connect(self.address, self.timeout) as peer:
                peer.sendall(self.greeting + hello_message())
                reply = read_reply(peer, deadline)
        except (OSError, BSONError, ValueError) as error:
            return Result(False, error=words(error))
        return judge(reply, self.expect, time.monotonic() - asked)

    def close(self) -> None:
        """Nothing is kept."""


def uri(address: Address) -> str:
    """The address as pymongo takes it. Raises OSError for a name that can't be resolved."""
    if address.path:
        return f"mongodb://{quote_plus(address.path)}"
    return f"mongodb://{Address(lowest(address.host), address.port)}"


def code_of(error: BaseException) -> object:
    """The server's error code, or None if the error is not an answer of the server."""
    if isinstance(error, OperationFailure):
        return error.code
    details = getattr(error, "details", None)  # NotPrimaryError and its kin keep the reply here
    return details.get("code") if isinstance(details, Mapping) else None


def hello_message() -> bytes:
    body = b"\0\0\0\0\0" + bson.encode({"hello": 1, "$db": "admin"})  # no flags, one section of kind 0
    return HEADER.pack(HEADER.size + len(body), 1, 0, OP_MSG) + body


def read_reply(peer: socket.socket, deadline: float) -> Mapping[str, Any]:
    """The document of the OP_MSG that `peer` sends. Raises OSError, ValueError or BSONError for anything else."""
    length, _, _, opcode = HEADER.unpack(read_exactly(peer, HEADER.size, deadline))
    if opcode != OP_MSG or not HEADER.size + 10 <= length <= MAX_REPLY:
        raise ValueError("the answer to hello is not a MongoDB message")
    body = read_exactly(peer, length - HEADER.size, deadline)
    size = int.from_bytes(body[5:9], "little")
    return bson.decode(body[5 : 5 + size])


def read_exactly(peer: socket.socket, size: int, deadline: float) -> bytes:
    got = bytearray()
    while len(got) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        peer.settimeout(left)
        piece = peer.recv(size - len(got))
        if not piece:
            raise ConnectionResetError(104, "connection closed before the answer")
        got += piece
    return bytes(got)
