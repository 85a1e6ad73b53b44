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

    def __init__(self, reactor: Loop, hub: "ReactorHub") -> None:
        super().__init__(reactor, hub.loop.fileno())
        self.hub = hub

    def on_event(self, events: int) -> None:
        self.hub.ready = True


class ReactorHub(gevent.hub.Hub):  # type: ignore[misc]
    """`tick` is called every `seconds` from the first time on that something waits in the hub.

    A pass may start watchers after libev took note of all changes, so there is always one more after a pass that called anybody.
    Of signals and wake-ups from other threads libev only takes a note, as it believes that nobody waits: a signal ends our
    wait by itself, the others are heard no later than with the next tick.
    """

    def __init__(self, reactor: Loop, tick: Callable[[], object], seconds: float) -> None:
        super().__init__(loop=TimedLoop())
        self.reactor, self.tick, self.seconds = reactor, tick, seconds
        self.next_tick = native.now() + seconds
        self.ready = False
        self.called = True

    def run(self) -> None:
        """The hub's greenlet: turns and passes for ever. The greenlet that ends the process never comes back here."""
        self.loop.error_handler = self
        witness = self.loop.check(ref=False)
        witness.start(self.look)
        self.reactor.add(Readiness(self.reactor, self), False)
        while True:
            if not self.reactor.turn(0.0 if self.has_work() else self.patience()):
                self.called = True  # a signal may have ended the wait
            now = self.reactor.now
            if now >= self.next_tick:
                self.next_tick = max(now, self.next_tick + self.seconds)
                self.called = True
                self.call_tick()
            if self.has_work():
                self.run_pass(now)

    def call_tick(self) -> None:
        try:
            self.tick()
        except Exception:
            log.logger.exception("a tick failed")

    def has_work(self) -> bool:
        due = self.loop.due
        return bool(self.ready or self.called or self.loop._callbacks or (due and due[0] <= self.reactor.now))

    def patience(self) -> float:
        """Seconds until something is due."""
        due = self.loop.due
        until = min(due[0], self.next_tick) if due else self.next_tick
        return max(0.0, until - native.now())

    def run_pass(self, now: float) -> None:
        due = self.loop.due
        while due and due[0] <= now:
            heapq.heappop(due)
        self.ready = self.called = False
        self.loop.run(nowait=True)

    def look(self) -> None:
        """Called in each pass before everybody else (check watchers are): is there anybody else?"""
        self.called = self.loop.pendingcnt > 0
