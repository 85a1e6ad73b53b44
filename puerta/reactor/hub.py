"""gevent's hub, driven by the reactor: the reactor waits, and the hub runs when it has something to do.

With the reactor's descriptor in the hub's epoll set, every turn would pay for two sets and for libev's round. The other way
round the hub's descriptor is one more channel of the reactor, and a round of libev (a *pass*) is run only when that
descriptor is ready, a callback waits, a timer is due, or with each tick.
"""

import heapq
from collections.abc import Callable

import gevent.hub
from gevent.libev.corecext import loop as LibevLoop

from puerta import log
from puerta.reactor import native
from puerta.reactor.loop import Channel, Loop

THREAD_SECONDS = 0.002
"""Between two looks for what threads have done."""


class TimedLoop(LibevLoop):  # type: ignore[misc]
    """libev's loop, which tells nobody when its next timer is due: so what is asked of it is remembered.

    A timer that was stopped early only costs a pass. One that repeats is looked at with the ticks.
    """

    def __init__(self) -> None:
        super().__init__(default=True)
        self.due: list[float] = []

    def timer(self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None) -> object:
        self.update_now()  # a timer begins at what libev takes for now, and it looks at the clock only in a pass
        heapq.heappush(self.due, native.now() + after)
        return super().timer(after, repeat, ref, priority)


class Readiness(Channel):
    """The hub's own descriptor among the reactor's channels."""

    def on_event(self, events: int) -> None:
        self.loop.interrupted = True


class ReactorHub(gevent.hub.Hub):  # type: ignore[misc]
    """`tick` is called every `seconds` from the first time on that something waits in the hub.

    A pass may start watchers after libev took note of all changes, so there is always one more after a pass that called anybody.
    Of signals and wake-ups from other threads libev only takes a note, as it believes that nobody waits: a signal ends our
    wait by itself, and while the pool of threads has work (a name to resolve) it is looked at often.
    """

    def __init__(self, reactor: Loop, tick: Callable[[], object], seconds: float) -> None:
        super().__init__(loop=TimedLoop())
        self.reactor, self.tick, self.seconds = reactor, tick, seconds
        self.next_tick = native.now() + seconds
        self.called = True
        self.threads_busy = False

    def run(self) -> None:
        """The hub's greenlet: turns and passes for ever. The greenlet that ends the process never comes back here."""
        reactor, loop = self.reactor, self.loop
        loop.error_handler = self
        witness = loop.check(ref=False)
        witness.start(self.look)
        reactor.add(Readiness(reactor, loop.fileno()), False)
        while True:
            reactor.interrupted = self.called
            reactor.run(self.deadline(), loop.due, loop._callbacks)
            if reactor.now >= self.next_tick:
                self.next_tick = max(reactor.now, self.next_tick + self.seconds)
                self.call_tick()
            self.run_pass(reactor.now)

    def deadline(self) -> float:
        """When to look at the hub at the latest. A thread is done a little before its result is heard: so once more."""
        pool = self._threadpool
        were_busy, self.threads_busy = self.threads_busy, pool is not None and len(pool) > 0
        if were_busy or self.threads_busy:
            return float(min(self.next_tick, self.reactor.now + THREAD_SECONDS))
        return self.next_tick

    def call_tick(self) -> None:
        try:
            self.tick()
        except Exception:
            log.logger.exception("a tick failed")

    def run_pass(self, now: float) -> None:
        due = self.loop.due
        while due and due[0] <= now:
            heapq.heappop(due)
        self.called = False
        self.loop.run(nowait=True)

    def look(self) -> None:
        """Called in each pass before everybody else (check watchers are): is there anybody else?"""
        self.called = self.loop.pendingcnt > 0
