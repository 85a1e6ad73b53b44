"""A route as one worker runs it: its backends, its affinity, its sessions, its counters on the board."""

import errno
import ipaddress
from collections.abc import Callable
from typing import Any

import cython

from puerta import log
from puerta.board import CLOSE_REASONS, FOUND, ROUTE, Board
from puerta.config.schema import Config, TcpRoute
from puerta.proxy.access_log import AccessLog
from puerta.proxy.backend import DRAIN, UP
from puerta.proxy.store import Store

if not cython.compiled:
    from puerta.proxy.affinity import Affinity
    from puerta.proxy.backend import Backend
    from puerta.proxy.deadlines import Deadlines
    from puerta.reactor.relay import Meter

OUR_OWN_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
"""Failures of a connect that say nothing about the backend. EAGAIN does: the queue of its Unix socket is full."""

YOUNG_SECONDS = 5.0
"""Connections that end before this age never pay for keep-alive."""

IDLE_BEFORE_CLOSE = 1.5
"""Seconds without a byte after which a draining worker may close a MongoDB session: drivers look before they reuse one
that lay idle for a second by their own clock, which starts a little later than ours."""


class Route:
    """What sessions of one route share. `config` is the route's entry; times are the loop's monotonic seconds."""

    def __init__(
        self,
        config: TcpRoute,
        whole: Config,
        board: Board,
        row: int,
        loop: Any,
        store: Store | None,
        access: AccessLog,
    ) -> None:
        self.config, self.loop, self.access = config, loop, access
        self.name = config.name
        self.limits = config.limits
        self.backends = [Backend(config.name, entry.id, entry.weight, board, row) for entry in config.backends]
        keyed = config.affinity.by != "none"
        self.affinity = Affinity(
            config.name,
            self.backends,
            config.balance,
            config.affinity.ttl,
            config.affinity.cache,
            store if keyed else None,
        )
        self.sessions: set[Any] = set()
        self.first_messages: dict[bytes, Any] = {}
        self.keys: dict[tuple[str, bytes | None, bytes | None], bytes | None] = {}
        self.announcers = config.proxy_protocol.accept
        self.announces = config.proxy_protocol.send
        self.accepted = 0
        self.ended = dict.fromkeys(CLOSE_REASONS, 0)
        self.found = dict.fromkeys(FOUND, 0)
        self.bytes_in, self.bytes_out = Meter(), Meter()
        self.handshakes: Deadlines = Deadlines(
            self.limits.handshake_timeout, lambda session: session.end("handshake_timeout")
        )
        attempts = min(3, len(self.backends))
        self.connects: Deadlines = Deadlines(self.limits.connect_timeout / attempts, self.connect_timed_out)
        self.young: Deadlines = Deadlines(YOUNG_SECONDS, lambda session: session.keep_alive())
        self.cells = board.cells
        self.table = board.route(config.name)
        self.at = {column: self.table.index(row, column) for column in ROUTE}
        self.others = 0
        self.most = config.limits.connections
        self.read_most = min(self.limits.buffer, 512 << 10)
        self.swept = 0.0

    # -- counters

    def write(self) -> None:
        """Bring the board's cells up to date: ten times a second, not with each connection."""
        accepted, self.accepted = self.accepted, 0
        self.cells[self.at["connections"]] = len(self.sessions)
        self.count("connections_total", accepted)
        self.count("bytes_in", self.taken(self.bytes_in))
        self.count("bytes_out", self.taken(self.bytes_out))
        for prefix, tally in (("closed_", self.ended), ("found_", self.found)):
            for name, amount in tally.items():
                if amount:
                    self.count(prefix + name, amount)
                    tally[name] = 0

    def count(self, column: str, amount: int = 1) -> None:
        self.cells[self.at[column]] += amount

    @property
    def connections(self) -> int:
        """Client connections of this route over all workers, exact for our own."""
        return self.others + len(self.sessions)

    def trusts(self, host: str) -> bool:
        """Whether a peer there may say by a PROXY header whom it speaks for."""
        if host == "unix":
            return False
        address = ipaddress.ip_address(host)
        return any(address in network for network in self.announcers or ())

    def full(self) -> bool:
        return self.others + len(self.sessions) >= self.most

    # -- sessions

    def opened(self, session: Any) -> None:
        self.sessions.add(session)
        self.accepted += 1

    def closed(self, session: Any, reason: str) -> None:
        self.sessions.discard(session)
        if session.relaying:
            self.young.stop(session)
        else:
            self.handshakes.stop(session)
            self.connects.stop(session)
        self.ended[reason] += 1
        if self.access.enabled:
            self.access.session(session, reason)

    def connect_timed_out(self, session: Any) -> None:
        """The next backend's turn; it comes from the tick, which must go on whatever this session meets."""
        try:
            session.connect_failed(errno.ETIMEDOUT)
        except Exception:
            self.loop.on_error(session.client)

    # -- upkeep

    def tick(self, now: float) -> None:
        """Ten times a second: read the verdicts, enforce the deadlines, write the meters."""
        self.affinity.tick(now)
        for backend in self.backends:
            if backend.refresh():
                self.backend_fell(backend)
        self.handshakes.sweep(now)
        self.connects.sweep(now)
        self.young.sweep(now)
        self.write()
        self.others = self.table.sum("connections") - len(self.sessions)
        if self.limits.idle_timeout is not None and now - self.swept > min(1.0, self.limits.idle_timeout / 4):
            self.swept = now
            self.close_idle(now, self.limits.idle_timeout, "idle_timeout", len(self.sessions))

    @staticmethod
    def taken(meter: Meter) -> int:
        total, meter.total = meter.total, 0
        return int(total)

    def backend_fell(self, backend: Backend) -> None:
        """A backend went down or into drain since the last tick: its bindings are void, and as configured its sessions end."""
        self.affinity.forget(backend)
        if backend.state == DRAIN or self.config.health.on_down == "keep":
            return
        victims = tuple(backend.sessions)
        for session in victims:
            session.end("backend_down")
        if victims:
            log.logger.warning(
                "route %s: closed %d sessions of %s, which went down", self.name, len(victims), backend.id
            )

    def close_idle(self, now: float, seconds: float, reason: str, most: int) -> int:
        """End up to `most` sessions that moved no byte in either direction for `seconds`; returns how many."""
        quiet = [session for session in self.sessions if session.relaying and now - session.active >= seconds]
        for session in quiet[:most]:
            session.end(reason)
        return min(len(quiet), most)

    def ready(self) -> bool:
        return True

    def usable_backends(self) -> int:
        return sum(backend.state <= UP for backend in self.backends)


SessionFactory = Callable[[Route, int, str, int], Any]
