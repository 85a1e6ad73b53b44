"""One client connection from its accept to its end: who is it, where does it belong, connect, join, and out of the way.

    opening  the PROXY header and, for MongoDB, the first message are read under one deadline
    placing  affinity names a backend, at once or after the store has answered
    dialling a non-blocking connect; a backend that fails is tried no more and the client is moved
    relaying both sides are joined; from here no Python runs for a byte
    ended    both sockets closed once, one log line, counters on the board

No step has a greenlet: sockets report to the session through the loop, the store through a callback.
"""

import errno
import select
from typing import Any

import cython

from puerta.errors import ProtocolError
from puerta.protocol import identity, proxy_protocol
from puerta.proxy import balance
from puerta.proxy.backend import UP
from puerta.proxy.route import OUR_OWN_ERRORS
from puerta.reactor import native

if not cython.compiled:
    from puerta.proxy.backend import Backend, candidates
    from puerta.proxy.route import Route
    from puerta.reactor.relay import Owner, Side, join

    EPOLLERR = select.EPOLLERR
    BROKEN = EPOLLERR | select.EPOLLHUP
    READABLE = select.EPOLLIN | select.EPOLLRDHUP | BROKEN
    ENDING = select.EPOLLRDHUP | select.EPOLLHUP
    AGAIN = -errno.EAGAIN

HEAD = 96 << 10
"""Bytes that may come before a client is known: a PROXY header and the longest first message we accept."""


KEYS = 4096
"""Keys remembered by a route: a client connects many times, and to make its key takes 15 µs of each connection."""

ATTEMPTS = 16
"""Backends that are tried for one client. Refusals take no time, so the time limit alone would not end a long row of them."""


class Session(Owner):
    """A session of a `mode: tcp` route.

    `host` and `port` are the client's, and `server` is where it connected to (None: to us): of the socket, or as a trusted
    PROXY header (then `announced` is true) says. `key` is None when the client has no affinity; `policy` then says how
    it is balanced (None: as the route says).
    """

    if not cython.compiled:
        __slots__ = (
            "announced", "backend", "client", "connected", "dialled", "ended", "first_to_end", "found", "head", "host", "key",
            "opened", "placed_at", "placing", "policy", "port", "relaying", "route", "server", "tried", "upstream",
        )  # fmt: skip

    def __init__(self, route: Route, fd: int, host: str, port: int) -> None:
        loop = route.loop
        self.route = route
        self.host, self.port = host, port
        self.server: tuple[str, int] | None = None
        self.announced = False
        self.key: bytes | None = None
        self.policy: str | None = None
        self.found = "none"
        self.head = b""
        self.tried: tuple[Backend, ...] = ()
        self.backend: Backend | None = None
        self.upstream: Side | None = None
        self.opened = loop.now
        self.placed_at = self.dialled = self.connected = 0.0
        self.relaying = self.ended = self.placing = False
        self.first_to_end: Side | None = None
        self.client = Side(loop, fd, self, route.bytes_in, route.read_most)
        route.opened(self)
        try:
            self.begin()
        except Exception:
            loop.on_error(self.client)

    # -- opening

    def begin(self) -> None:
        self.route.loop.add(self.client)
        if self.expects_proxy_header() or self.reads_first:
            self.route.handshakes.start(self, self.opened)
        else:
            self.identify()

    reads_first = False
    """Whether the client's own first bytes are needed to know it."""

    def expects_proxy_header(self) -> bool:
        return self.route.announcers is not None and self.route.trusts(self.host)

    def on_event(self, side: Side, events: int) -> None:
        """A side that has no peer yet: the client before it is known, or the upstream while it connects."""
        if side is self.upstream:
            self.on_dialled(events)
        elif events & BROKEN:
            self.end("client_reset" if events & EPOLLERR else "client_closed")
        elif not self.placing and events & READABLE:
            self.read_head((events & ENDING) != 0)

    def read_head(self, ending: bool) -> None:
        """`ending`: behind what is there now comes the end of file, and no other event will tell of it."""
        scratch = self.route.loop.scratch
        room = HEAD - len(self.head)
        got = scratch.fill(self.client.fd, room)
        if got > 0:
            self.client.waiting = ending or got == room
            self.head += scratch.take()
            self.client.received += got
            self.route.bytes_in.total += got
            self.parse_head()
            if ending and not self.placing and not self.ended:
                self.read_head(ending)
        elif got != AGAIN:
            self.end("client_reset" if got else "client_closed")

    def parse_head(self) -> None:
        try:
            known = self.parse_proxy_header() and self.parse_first_message()
        except ProtocolError:
            self.end("protocol_error")
            return
        if known:
            self.route.handshakes.stop(self)
            self.identify()
        elif len(self.head) >= HEAD:
            self.end("protocol_error")

    def parse_proxy_header(self) -> bool:
        """Take the PROXY header off the head; true once it is there (or none is expected)."""
        if self.announced or not self.expects_proxy_header():
            return True
        header = proxy_protocol.parse(self.head)
        if header is None:
            return False
        self.head = self.head[header.length :]
        self.announced = True
        if header.source is not None:
            self.host, self.port = header.source
            self.server = header.destination
        return True

    def parse_first_message(self) -> bool:
        """True once enough of the client's own bytes are there to know it."""
        return True

    def identify(self) -> None:
        self.key = self.affinity_key(None, None)
        self.place()

    def affinity_key(self, application: bytes | None, server_name: bytes | None) -> bytes | None:
        known = self.route.keys
        who = (self.host, application, server_name)
        if who in known:
            return known[who]
        config = self.route.config.affinity
        key = identity.affinity_key(
            config.by,
            address=self.host,
            application=application,
            server_name=server_name,
            proxy_identity=None,  # it names a connection, not a client: docs/adr/0003-proxy-identity.md
            session_pattern=config.session_pattern,
        )
        if len(known) >= KEYS:
            known.clear()
        known[who] = key
        return key

    # -- placing

    def place(self) -> None:
        """Decide where the client goes: by its binding, or for a client without affinity by the balance policy."""
        self.placing = True
        if self.key is None:
            self.on_placed(self.without_affinity(), "none")
            return
        affinity = self.route.affinity
        backend = affinity.find(self.key)
        if backend is not None and backend not in self.tried:
            self.on_placed(backend, "hit")
        else:
            affinity.place(self.key, self.tried, self.on_answer)

    def without_affinity(self) -> Backend | None:
        choice = candidates(self.route.backends, self.route.loop.now, self.tried)
        if len(choice) < 2:
            return choice[0] if choice else None
        seed = f"{self.host}:{self.port}".encode()
        return balance.POLICIES[self.policy or self.route.config.balance](seed, choice)

    def on_answer(self, backend: Backend | None, found: str) -> None:
        """The store's answer, maybe. It comes from outside the loop, which looks after faults in everything else."""
        try:
            self.on_placed(backend, found)
        except Exception:
            self.route.loop.on_error(self.client)

    def on_placed(self, backend: Backend | None, found: str) -> None:
        if self.ended:
            return
        if not self.placed_at:
            self.placed_at = self.route.loop.now
        if backend is None:
            self.end("connect_failed" if self.tried else "no_backend")
            return
        if backend in self.tried:
            # Somebody else's answer for the same client named a backend that refused us a moment ago.
            self.place()
            return
        if self.found not in ("claimed", "moved"):
            self.found = found
        self.dial(backend)

    # -- dialling

    def dial(self, backend: Backend) -> None:
        route = self.route
        now = route.loop.now
        if not self.dialled:
            self.dialled = now
        self.backend = backend
        backend.dialling += 1
        assert backend.endpoint is not None
        fd = backend.endpoint.connect()
        if fd < 0:
            self.connect_failed(-fd)
            return
        upstream = self.upstream = Side(route.loop, fd, self, route.bytes_out, route.read_most)
        route.connects.start(self, now)
        route.loop.add(upstream)

    def on_dialled(self, events: int) -> None:
        assert self.upstream is not None
        if events & BROKEN:
            self.connect_failed(native.connect_error(self.upstream.fd) or errno.ECONNREFUSED)
        elif self.may_stay():
            self.start_relay()
        else:
            self.drop_upstream()
            self.place_again(native.now())

    def may_stay(self) -> bool:
        """Whether the client still belongs here: while it connected, it may have been moved, or the backend gone down."""
        backend = self.backend
        assert backend is not None
        if self.key is not None:
            return self.route.affinity.attach(self.key, self, backend)
        return backend.state <= UP

    def drop_upstream(self) -> None:
        """Give up the connection that was being made; no byte of the client went there."""
        self.route.connects.stop(self)
        if self.backend is not None:
            self.backend.dialling -= 1
            self.backend = None
        if self.upstream is not None:
            self.upstream.close()
            self.let_go(self.upstream)
            self.upstream = None

    def connect_failed(self, error: int) -> None:
        """Try the next backend while there is one and the budget lasts; nothing has been sent to this one."""
        backend = self.backend
        assert backend is not None
        self.drop_upstream()
        if error in OUR_OWN_ERRORS:
            self.end("limit")
            return
        now = native.now()
        backend.failed(now)
        self.tried = (*self.tried, backend)
        self.place_again(now)

    def place_again(self, now: float) -> None:
        if now - self.dialled >= self.route.limits.connect_timeout or len(self.tried) >= ATTEMPTS:
            self.end("connect_failed")
        else:
            self.place()

    # -- relaying

    def start_relay(self) -> None:
        route, backend, upstream = self.route, self.backend, self.upstream
        assert backend is not None and upstream is not None
        route.connects.stop(self)
        self.connected = route.loop.now
        self.relaying = True
        route.young.start(self, self.connected)
        backend.dialling -= 1
        backend.sessions.add(self)
        backend.reached(self.connected - self.dialled)
        route.found[self.found] += 1
        head = self.head if route.announces is None else self.proxy_header() + self.head
        self.head = b""
        if head:
            upstream.send(head)
        if self.ended:
            return
        join(self.client, upstream)

    def keep_alive(self) -> None:
        """The connection lives longer than many do: from now on a backend that vanished is noticed.

        One that is merely slow to read is waited for, as it would be without us.
        """
        if self.upstream is not None:
            native.keep_alive(self.upstream.fd, 0)

    def proxy_header(self) -> bytes:
        send = self.route.announces
        if send is None:
            return b""
        source = (self.host, self.port)
        server = self.server or native.local_address(self.client.fd)
        build = proxy_protocol.header_v1 if send == "v1" else proxy_protocol.header_v2
        return build(source, server)

    @property
    def active(self) -> float:
        """When a byte last moved, in either direction."""
        assert self.upstream is not None
        return float(max(self.client.active, self.upstream.active))

    def on_half(self, side: Side) -> None:
        """One side has no more to say; the other goes on."""
        if self.first_to_end is None:
            self.first_to_end = side

    def on_end(self, side: Side, error: int) -> None:
        """The relay is over: in order (`error` 0), or because this side failed; then the other side sees a reset too."""
        if error:
            other = self.client if side is self.upstream else self.upstream
            reason = "client_reset" if side is self.client else "backend_reset"
            if other is not None:
                other.abort()
            self.end(reason)
        else:
            self.end("client_closed" if self.first_to_end is self.client else "backend_closed")

    # -- the end

    def end(self, reason: str) -> None:
        """Close both sockets once, count, log, and let go of everything. Safe to call again."""
        if self.ended:
            return
        self.ended = True
        route, backend, upstream = self.route, self.backend, self.upstream
        self.client.close()
        self.let_go(self.client)
        if upstream is not None:
            upstream.close()
            self.let_go(upstream)
        if self.relaying:
            assert backend is not None
            backend.sessions.discard(self)
            if self.key is not None:
                route.affinity.detach(self.key, self)
        elif backend is not None:
            backend.dialling -= 1
        route.closed(self, reason)

    def let_go(self, side: Side) -> None:
        """Break the circle of references, so that memory is given back now and not by the collector."""
        side.session = None
        side.peer = None
        side.out = None

    def summary(self, reason: str) -> dict[str, Any]:
        """What the access log says of the session; times in milliseconds since the step before."""
        now = native.now()
        upstream = self.upstream

        def milliseconds(start: float, end: float) -> float | None:
            return round((end - start) * 1000, 1) if start and end else None

        return {
            "route": self.route.name,
            "client": f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}",
            "key": self.key.hex() if self.key is not None else None,
            "found": self.found,
            "backend": self.backend.id if self.backend is not None else None,
            "queue_ms": milliseconds(self.opened, self.placed_at),
            "connect_ms": milliseconds(self.dialled, self.connected),
            "first_byte_ms": milliseconds(self.connected, upstream.first) if upstream is not None else None,
            "duration_ms": milliseconds(self.opened, now),
            "bytes_in": self.client.received,
            "bytes_out": upstream.received if upstream is not None else 0,
            "close_reason": reason,
        }
