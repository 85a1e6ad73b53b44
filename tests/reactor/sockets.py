"""A loop that a test turns by hand, on sockets whose other ends it holds."""

import select
import socket
import struct
from typing import Any

from puerta.reactor import native
from puerta.reactor.loop import Channel, Loop
from puerta.reactor.relay import Meter, Owner, Side, join

RESET = struct.pack("ii", 1, 0)


class Turned:
    """A loop, its turns counted, and what it told."""

    def __init__(self, together: bool = True) -> None:
        self.failed: list[Channel] = []
        self.loop = Loop(self.failed.append, together)

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn()

    def settle(self) -> None:
        """Turn until nothing is ready any more."""
        while select.select([self.loop.poller.fileno()], [], [], 0.004)[0] or self.loop.pending or self.loop.posted:
            self.loop.turn()


def adopt(sock: socket.socket) -> int:
    """Hand a socket to the core, which closes it from now on."""
    sock.setblocking(False)
    fd = sock.detach()
    if not native.COMPILED:
        native._handle(fd)
    return fd


def pair(kind: str = "tcp") -> tuple[socket.socket, int]:
    """A connection: the test's end, and the descriptor of the core's."""
    if kind == "unix":
        mine, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            mine = socket.create_connection(listener.getsockname())
            theirs = listener.accept()[0]
    mine.settimeout(5)
    return mine, adopt(theirs)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


class Session(Owner):
    """Two sides with a client and a backend on their outer ends, and what the relay told."""

    def __init__(self, turned: Turned, kind: str = "tcp", most: int = 256 << 10, joined: bool = True) -> None:
        self.told: list[Any] = []
        self.incoming, self.outgoing = Meter(), Meter()
        self.client, fd = pair(kind)
        self.near = Side(turned.loop, fd, self, self.incoming, most)
        self.backend, fd = pair(kind)
        self.far = Side(turned.loop, fd, self, self.outgoing, most)
        turned.loop.add(self.near)
        turned.loop.add(self.far)
        if joined:
            join(self.near, self.far)

    def name(self, side: Side) -> str:
        return "client" if side is self.near else "backend"

    def on_event(self, side: Side, events: int) -> None:
        self.told.append(("event", self.name(side), events))

    def on_half(self, side: Side) -> None:
        self.told.append(("half", self.name(side)))

    def on_end(self, side: Side, error: int) -> None:
        self.told.append(("end", self.name(side), error))
        self.near.close()
        self.far.close()

    def close(self) -> None:
        self.client.close()
        self.backend.close()
        self.near.close()
        self.far.close()
        self.near.loop.bury()
