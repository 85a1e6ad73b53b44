"""Accepts on the listeners a worker serves: its own seat's, those of seats it adopted, and shared ones.

Accepting never stops because the worker is full: a listener nobody serves is a black hole for its share of the clients.
Who comes too many is closed at once and counted. Only when the system has no descriptors left does it pause.
"""

from typing import Any

import cython

from puerta import log
from puerta.proxy.route import SessionFactory
from puerta.reactor import native

if not cython.compiled:
    from puerta.reactor.loop import Channel
    from puerta.reactor.native import accept, close_fd

BATCH = 64
"""Connections accepted in one turn; then the established ones have theirs."""

PAUSE_SECONDS = 0.1


class Acceptor(Channel):
    """One listener on the loop. It never shuts down its socket, which the master and other workers share."""

    def __init__(self, loop: Any, fd: int, route: Any, seat: int, make: SessionFactory, most: int) -> None:
        Channel.__init__(self, loop, fd)
        self.route, self.seat, self.make, self.most = route, seat, make, most
        self.accepting = False
        self.paused_until = 0.0
        self.complained = 0.0
        native.tune_listener(fd)

    def start(self) -> None:
        if self.accepting:
            return
        try:
            self.loop.add(self, False)
            self.accepting = True
        except OSError as error:
            self.pause(error.errno or 0)

    def stop(self) -> None:
        """Stop accepting; what is queued waits for whoever serves this listener next."""
        if self.accepting:
            self.accepting = False
            self.loop.remove(self)

    def on_event(self, events: int) -> None:
        route = self.route
        for _ in range(BATCH):
            accepted = accept(self.fd)
            if accepted is None:
                return
            if isinstance(accepted, int):
                self.pause(-accepted)
                return
            fd, host, port = accepted
            if route.full() or len(self.loop.channels) + 2 > self.most:
                close_fd(fd)
                route.count("connections_total")
                route.count("closed_limit")
                continue
            self.make(route, fd, host, port)

    def pause(self, error: int) -> None:
        """Out of descriptors or memory: a ready listener would spin, so look away for a moment."""
        self.stop()
        self.paused_until = self.loop.now + PAUSE_SECONDS
        if self.loop.now - self.complained > 1.0:
            self.complained = self.loop.now
            log.logger.error("route %s: cannot accept: %s", self.route.name, native.error_text(error))

    def tick(self, now: float) -> None:
        if self.paused_until and now >= self.paused_until:
            self.paused_until = 0.0
            self.start()
