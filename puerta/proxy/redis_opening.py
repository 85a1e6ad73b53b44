"""A connection to a Redis route before it is a session: where a PROXY header must come first, it is read here.

A session then begins with the client's own address, and with whatever bytes came behind the header. Without
`proxy_protocol.accept`, and for all who are not in its networks, there is nothing to wait for.
"""

import errno
import ipaddress
import select
from typing import Any

from puerta.errors import ProtocolError
from puerta.protocol import proxy_protocol
from puerta.proxy.redis_session import RedisSession
from puerta.reactor.loop import Channel
from puerta.reactor.native import Buffer

HEADER_SECONDS = 5.0
"""In which the whole header must have come."""

MOST = 8 << 10
"""Bytes read before the header is complete; the longest is shorter."""

ENDS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


def open_session(route: Any, fd: int, host: str, port: int) -> Any:
    """The session of an accepted connection, or what becomes one when its header has come."""
    if is_announced(route.config.proxy_protocol.accept, host):
        return Opening(route, fd, host, port)
    return RedisSession(route, fd, host, port)


def is_announced(networks: Any, host: str) -> bool:
    """Must a peer of this address begin with a header?"""
    if not networks or host == "unix":
        return False
    address = ipaddress.ip_address(host)
    return any(address in network for network in networks)


class Opening(Channel):
    """Waits for the header. Its end without one is counted and logged as that of a session."""

    commands = 0

    def __init__(self, route: Any, fd: int, host: str, port: int) -> None:
        super().__init__(route.loop, fd)
        self.route, self.host, self.port = route, host, port
        self.head = b""
        self.opened = route.loop.now
        route.openings.start(self, self.opened)
        route.loop.add(self)

    @property
    def session(self) -> "Opening":
        """Who ends when a handler raised."""
        return self

    def on_event(self, events: int) -> None:
        """Read on while there is something: the edge tells of it once."""
        got = MOST
        while got > 0 and not self.closed:
            got = self.loop.scratch.fill(self.fd, MOST)
            if got > 0:
                self.head += self.loop.scratch.take()
                self.parse()
        if not self.closed and (got != -errno.EAGAIN or events & ENDS):
            self.end("client_closed" if got in (0, -errno.EAGAIN) else "client_reset")

    def parse(self) -> None:
        try:
            header = proxy_protocol.parse(self.head)
        except ProtocolError:
            self.end("protocol_error")
            return
        if header is not None:
            self.become_session(header)

    def become_session(self, header: proxy_protocol.Header) -> None:
        route, (host, port) = self.route, header.source or (self.host, self.port)
        route.openings.stop(self)
        self.loop.remove(self)
        self.closed = True  # the socket is the session's now
        route.bytes_in.total += len(self.head)
        session = RedisSession(route, self.fd, host, port)
        session.received = len(self.head)
        session.input = Buffer()
        session.input.append(self.head[header.length :])
        session.resume()

    def end(self, reason: str) -> None:
        if self.closed:
            return
        self.close()
        self.route.openings.stop(self)
        self.route.opened(self)
        self.route.closed(self, reason)

    def summary(self, reason: str) -> dict[str, Any]:
        """As a session's."""
        return {
            "route": self.route.name,
            "client": f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}",
            "first_byte_ms": None,
            "duration_ms": round((self.loop.now - self.opened) * 1000, 1),
            "commands": 0,
            "bytes_in": len(self.head),
            "bytes_out": 0,
            "close_reason": reason,
        }
