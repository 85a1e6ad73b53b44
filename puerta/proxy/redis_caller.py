"""A client as its calls see it: a queue of calls, and the replies in their order.

Whatever way a reply comes, at the head of the queue it goes straight into the client's buffer, which is sent at the end of
the turn; a reply that came too early waits in its call. So the order needs no numbers, and no reply is copied twice.
"""

import errno
from typing import Any

import cython

if not cython.compiled:
    from puerta.reactor.loop import Channel
    from puerta.reactor.native import Buffer, send_span

    AGAIN = -errno.EAGAIN

LOW_WATER = cython.declare(cython.Py_ssize_t, 256 << 10)
"""Bytes waiting for the client below which its upstream is read again and new commands are taken."""

DIRECT = cython.declare(cython.Py_ssize_t, 8 << 10)
"""Bytes from which on a system call of their own costs less than a copy."""

ENOUGH = cython.declare(cython.Py_ssize_t, 16 << 10)
"""Bytes from which on replies go out at the end of the turn, though more are to come."""

RAW = -2
"""The slot of a call whose errors are its sender's business: a part of a transaction, a handshake."""

TOO_LARGE = b"-ERR a part of the reply is larger than Puerta may hold (limits.buffer)\r\n"


class Call:
    """One command of one client in flight. `next` is the one behind it in its session's queue, `after` in its upstream's.

    `gather` is what collects this leg's reply when the command was taken apart (or checks it, in a handshake). Without a
    `caller` nobody wants the reply any more: it is discarded when its turn comes. The client does not get a `muted` reply.
    """

    if not cython.compiled:
        __slots__ = (
            "after", "attempts", "caller", "done", "gather", "length", "muted", "next", "readonly", "reply", "slot", "spec",
            "started",
        )  # fmt: skip

    def __init__(self, caller: Any, spec: Any, slot: int, readonly: bool, started: float) -> None:
        self.caller = caller
        self.spec = spec
        self.slot = slot
        self.readonly = readonly
        self.started = started
        self.next: Any = None
        self.after: Any = None
        self.gather: Any = None
        self.reply: Any = None
        self.length = 0
        self.attempts = 0
        self.done = False
        self.muted = False


def new_call(caller: Any, spec: Any, slot: int, readonly: bool, started: float) -> Call:
    """A Call, made without the price of a constructor that takes Python objects."""
    if not cython.compiled:
        return Call(caller, spec, slot, readonly, started)
    call: Any = Call.__new__(Call)
    call.caller = caller
    call.spec = spec
    call.slot = slot
    call.readonly = readonly
    call.started = started
    return call  # type: ignore[no-any-return]


class Caller(Channel):
    """A client's channel as its calls see it: a queue of calls, and the replies in their order.

    `held` counts the bytes of replies that can't go out yet, `most` bounds them; a `starved` one takes no commands because
    too many are under way; one is `hopeless` that an upstream waited for in vain. One that has `ended` (its client will send
    no more) or is `leaving` (it will take no more) lives until its replies are out, and ends with the reason `farewell`. While
    it is `silent`, the command being taken gets no reply.
    """

    if not cython.compiled:
        __slots__ = (
            "active", "ended", "farewell", "first", "first_byte", "held", "hopeless", "last", "leaving", "low",
            "meter_out", "most", "out", "pending", "protocol", "sent", "silent", "starved", "streaming", "waited_by",
        )  # fmt: skip

    def __init__(self, loop: Any, fd: int, most: int, meter_out: Any) -> None:
        Channel.__init__(self, loop, fd)
        self.most = most
        self.low = min(LOW_WATER, most // 8)
        self.first: Any = None
        self.last: Any = None
        self.pending = 0
        self.out: Any = None
        self.streaming = False
        self.held = 0
        self.waited_by: Any = None
        self.hopeless = False
        self.silent = False
        self.starved = False
        self.protocol = 2
        self.ended = False
        self.leaving = False
        self.farewell = "client_closed"
        self.meter_out = meter_out
        self.sent = 0
        self.active = loop.now
        self.first_byte = 0.0

    def enqueue(self, call: Call) -> int:
        """The call joins the queue; its reply will go out behind those of all before it."""
        if self.last is None:
            self.first = call
        else:
            self.last.next = call
        self.last = call
        self.pending += 1
        return 0

    def enqueue_call(self, call: Call) -> None:
        """`enqueue`, for plain Python."""
        call.muted = self.silent
        self.enqueue(call)

    def reply(self, data: bytes) -> None:
        """Answer the command that is being taken now, in its turn."""
        call = new_call(self, None, -1, False, self.loop.now)
        self.enqueue_call(call)
        self.answer(call, data)

    def answered(self, call: Call, data: Any, start: int, length: int) -> int:
        """The reply data[start:start+length] of a call has come. At the head of the queue it goes straight out."""
        call.done = True
        if call is self.first:
            if not call.muted:
                self.put(data, start, length)
            self.advance()
        elif not call.muted:
            call.reply = data[start : start + length]
            self.hold(length)
        return 0

    def hold(self, length: int) -> int:
        """A reply of so many bytes has to wait for those before it."""
        self.held += length
        if self.held > self.most:
            self.overflow()
        return 0

    def stream(self, call: Call, data: Any, start: int, length: int) -> int:
        """A part of a long reply to the call at the head; `answered` follows with the rest."""
        self.streaming = True
        return self.put(data, start, length)

    def put(self, data: Any, start: int, length: int) -> int:
        """Bytes for the client: long ones at once, without a copy; what the socket does not take, at the end of the turn."""
        if self.out is None:
            if length >= DIRECT:
                sent = send_span(self.fd, data, start, length)
                if sent > 0:
                    self.went(sent)
                    if sent == length:
                        return 0
                    start += sent
                    length -= sent
            self.out = Buffer()
        self.out.extend(data, start, length)
        if not self.queued:
            self.loop.later(self)
        return 0

    def went(self, size: int) -> int:
        """So many bytes went out to the client."""
        if not self.sent:
            self.first_byte = self.loop.now
        self.sent += size
        self.meter_out.total += size
        self.active = self.loop.now
        return 0

    def answer(self, call: Call, reply: bytes) -> None:
        """A reply made here, not received."""
        call.done = True
        if call is self.first:
            if not call.muted and reply:
                if self.out is None:
                    self.out = Buffer()
                self.out.append(reply)
                self.loop.later(self)
            self.advance()
        elif not call.muted:
            call.reply = reply
            self.hold(len(reply))

    def advance(self) -> int:
        """The head of the queue is answered: on to the first call that is not, sending the replies that wait on the way."""
        call = self.first
        while call is not None and call.done:
            if call.reply is not None:
                if self.out is None:
                    self.out = Buffer()
                self.out.append(call.reply)
                self.held -= len(call.reply)
                call.reply = None
                self.loop.later(self)
            self.first = call.next
            call.next = None
            call.caller = None
            self.pending -= 1
            call = self.first
        self.streaming = False
        if call is None:
            self.last = None
            self.drained()
        elif self.starved:
            self.resume()
        return 0

    def resume(self) -> None:
        """There may be room for more commands."""

    def fence(self) -> None:
        """Take no further command before all that are under way are answered."""

    def drained(self) -> None:
        """Every call has been answered."""

    def overflow(self) -> None:
        """More is waiting for this client than may be held."""

    # -- the client's socket

    def push(self, data: bytes) -> None:
        """An out-of-band message, between two replies."""
        if self.out is None:
            self.out = Buffer()
        self.out.append(data)
        self.loop.later(self)

    def on_turn_end(self) -> None:
        """Send what has gathered, unless the nodes have more for the client in a moment: then one send does for all."""
        if self.first is None or self.out is None or self.streaming or self.out.size() >= ENOUGH:
            self.flush()
        else:
            self.loop.hold(self)

    def on_released(self) -> None:
        self.flush()

    def flush(self) -> None:
        if self.out is not None:
            self.loop.post(self, self.out)
        elif (self.leaving or self.ended) and self.first is None:
            self.end(self.farewell)

    def on_sent(self, sent: int) -> None:
        """Let go of the buffer when all of it went."""
        out = self.out
        if sent < 0:
            if sent != AGAIN:
                self.end("client_reset")
            elif out.size() > self.most:
                self.overflow()
            return
        self.went(sent)
        out.skip(sent)
        left = out.size()
        if left > self.most:
            self.overflow()
            return
        if left == 0:
            self.out = None
            self.hopeless = False
            if (self.leaving or self.ended) and self.first is None:
                self.end(self.farewell)
                return
        if left < self.low:
            if self.waited_by is not None:
                upstream = self.waited_by
                self.waited_by = None
                upstream.resume()
            self.resume()

    def end(self, reason: str) -> None:
        """Close, and let go of everything."""
