"""One epoll set a worker, and the channels on it.

An epoll descriptor is itself pollable: gevent's hub is one of this loop's channels (see `hub`), and `turn` waits for all of
them at once and handles up to 512 events in a tight loop. No greenlet and no libev watcher belongs to a connection.

Sockets are registered once, edge-triggered for both directions, and never again: a channel reads until the socket
is empty, or remembers that it did not (`again`). A closed channel's descriptor is closed at the end of the turn,
so that an event left in the batch can't meet a new socket under the old number.
"""

from collections.abc import Callable
from typing import Any

import cython

if not cython.compiled:
    from puerta.reactor.native import Buffer, Poller, abort_fd, close_fd, now
    from puerta.reactor.outbox import Outbox

from puerta import log


class Channel:
    """One socket on the loop. Subclasses handle its events; `close` and `abort` may be called more than once.

    It is `queued` while its `on_turn_end` is due, `holding` back what it has to send until its `on_released`; its `letter`
    is what goes out at the end of the turn. One that `resets` is closed so that its peer notices.
    """

    if not cython.compiled:
        __slots__ = ("closed", "fd", "holding", "letter", "loop", "queued", "resets")

    def __init__(self, loop: "Loop", fd: int) -> None:
        self.loop = loop
        self.fd = fd
        self.closed = False
        self.letter: Any = None
        self.queued = self.holding = self.resets = False

    def on_event(self, events: int) -> None:
        """The socket became ready; `events` are epoll's bits."""

    def on_again(self) -> None:
        """The next turn, after `loop.again(self)`."""

    def on_turn_end(self) -> None:
        """The end of this turn, after `loop.later(self)`: the place to send what the turn gathered."""

    def on_released(self) -> None:
        """A moment after `loop.hold(self)`: nothing more came that would have been worth waiting for."""

    def on_sent(self, sent: int) -> None:
        """After `loop.post(self, buffer)`: so many bytes of it were sent, or -errno. The buffer knows of it."""

    def close(self) -> None:
        """Close the socket at the end of this turn; unread input makes the kernel send a reset by itself."""
        if not self.closed:
            self.closed = True
            self.loop.grave.append(self)

    def abort(self) -> None:
        """Like `close`, but the peer sees a reset."""
        if not self.closed:
            self.closed = self.resets = True
            self.loop.grave.append(self)


ROUNDS = cython.declare(cython.int, 3)
"""Polls in one turn beyond its first, as long as something is to be sent at its end."""

MOMENT = 0.0005
"""Seconds that a channel may be held for more to send. epoll counts milliseconds: when nothing else happens it is one."""


MOST_POSTED = cython.declare(cython.Py_ssize_t, 64)
"""Letters that wait for the end of a turn: more gain little by going out together, and the first would wait long."""


class Loop:
    """The epoll set, its channels, and the scratch buffer they share.

    A channel that has `interrupted` wants `run` to end with this turn. `on_error(channel)` is called inside an except block
    when a channel's handler raised: one faulty session must not end a worker. What was posted in a turn is sent `together`
    where the kernel allows that.
    """

    if not cython.compiled:
        __slots__ = (
            "channels", "dirty", "grave", "held", "held_until", "interrupted", "now", "on_error", "outbox", "pending", "poller",
            "posted", "scratch", "together",
        )  # fmt: skip

    def __init__(self, on_error: Callable[[Channel], object], together: bool = True) -> None:
        self.poller = Poller()
        self.outbox = Outbox(together)
        self.together = together and self.outbox.refusal == 0
        self.scratch = Buffer()
        self.now = now()
        self.channels: set[Channel] = set()
        self.pending: dict[Channel, None] = {}
        self.grave: list[Channel] = []
        self.dirty: list[Channel] = []
        self.posted: list[Channel] = []
        self.held: list[Channel] = []
        self.held_until = 0.0
        self.interrupted = False
        self.on_error = on_error

    def add(self, channel: Channel, edge: bool = True) -> None:
        """Watch the channel's socket from now on. Raises OSError when the system refuses (ENOSPC, ENOMEM)."""
        self.poller.add(channel.fd, channel, edge)
        self.channels.add(channel)

    def remove(self, channel: Channel) -> None:
        """Stop watching a channel whose socket stays open."""
        self.poller.remove(channel.fd)
        self.channels.remove(channel)

    def again(self, channel: Channel) -> None:
        """Call the channel's `on_again` once in the next turn: it stopped for fairness, not for want of input."""
        self.pending[channel] = None

    def later(self, channel: Channel) -> None:
        """Call the channel's `on_turn_end` once, however often it is asked for: many small writes become one send."""
        if not channel.queued:
            channel.queued = True
            self.dirty.append(channel)

    def post(self, channel: Channel, buffer: Any) -> None:
        """Send what the buffer holds, then and at the end of this turn, on the channel's socket; its `on_sent` tells how much
        was taken. Even one that is closed meanwhile is sent its letter, unless it let go of it."""
        if channel.letter is None:
            channel.letter = buffer
            self.posted.append(channel)

    def hold(self, channel: Channel) -> None:
        """Call the channel's `on_released` in a moment: it has something to send, and more is about to come."""
        if not channel.holding:
            channel.holding = True
            if not self.held:
                self.held_until = self.now + MOMENT
            self.held.append(channel)

    def run(self, deadline: float, timers: list[float], callbacks: object) -> None:
        """Turn until the deadline or the first of the `timers` (a heap of times), until there are `callbacks`, somebody
        `interrupts`, or a wait brought nothing, as after a signal."""
        while True:
            until = timers[0] if timers and timers[0] < deadline else deadline
            count = self.turn(0.0 if callbacks or self.interrupted else max(0.0, until - self.now))
            if not count or self.interrupted or callbacks or self.now >= until:
                return

    def turn(self, patience: float = 0.0) -> int:
        """Handle everything that is ready; when nothing is, wait for it up to `patience` seconds, or for a signal.

        Returns how many events there were. Never raises for what a channel does.
        """
        if self.held:
            patience = min(patience, max(0.0, self.held_until - self.now))
        milliseconds = cython.cast(cython.int, patience * 1000 + 0.999)
        if self.pending or self.dirty or self.posted or self.grave:
            milliseconds = 0
        count = self.poller.poll(milliseconds)
        self.now = now()
        self.run_pending()
        self.handle(count)
        for _round in range(ROUNDS):
            if not self.dirty:
                break
            more = self.poller.poll()  # what has come meanwhile may go out with the same sends
            if not more:
                break
            self.handle(more)
        self.end_turn()
        return count

    def handle(self, count: int) -> int:
        """The events of one poll."""
        for index in range(count):
            channel = self.poller.owner(index)
            if channel.closed:
                continue
            try:
                channel.on_event(self.poller.events(index))
            except Exception:
                self.failed(channel)
            if len(self.posted) >= MOST_POSTED:
                self.mail()
        return 0

    def end_turn(self) -> None:
        """Send what the turn gathered, then close what it closed. Also for work that began outside a turn (timers)."""
        if self.held and self.now >= self.held_until:
            self.release()
        while self.dirty or self.posted:
            dirty = self.dirty
            self.dirty = []
            for channel in dirty:
                channel.queued = False
                if channel.closed:
                    continue
                try:
                    channel.on_turn_end()
                except Exception:
                    self.failed(channel)
            if self.posted:
                self.mail()
        self.bury()

    def mail(self) -> int:
        """Send what was posted, and tell each channel what became of its letter."""
        posted = self.posted
        self.posted = []
        outbox = self.outbox
        for channel in posted:
            outbox.add(channel.fd, channel.letter)
        outbox.send()
        for index in range(len(posted)):
            channel = posted[index]
            channel.letter = None
            if channel.closed:
                continue
            try:
                channel.on_sent(outbox.result(index))
            except Exception:
                self.failed(channel)
        return 0

    def release(self) -> None:
        held = self.held
        self.held = []
        for channel in held:
            channel.holding = False
            if channel.closed:
                continue
            try:
                channel.on_released()
            except Exception:
                self.failed(channel)

    def run_pending(self) -> None:
        """The channels that stopped for fairness go on; what they leave again is for the turn after this one."""
        if not self.pending:
            return
        pending = self.pending
        self.pending = {}
        for channel in pending:
            if channel.closed:
                continue
            try:
                channel.on_again()
            except Exception:
                self.failed(channel)

    def failed(self, channel: Channel) -> None:
        """Called inside an except block: have the fault reported. If that fails too, the others' events still get handled."""
        try:
            self.on_error(channel)
        except Exception:
            log.logger.exception("a faulty session could not be ended")

    def bury(self) -> int:
        """Close the descriptors of the channels that were closed in this turn."""
        for channel in self.grave:
            self.channels.discard(channel)
            if channel.resets:
                abort_fd(channel.fd)
            else:
                close_fd(channel.fd)
        self.grave.clear()
        return 0
