"""One pipelined connection to a Redis node, and the calls in flight on it.

Requests are appended to the connection's `log` and sent together at the end of the turn. The log keeps a request's bytes until
its reply has come, so a redirected call can be sent elsewhere and a lost connection's unsent calls are known. Replies
come in the order of the requests: the oldest call gets the next one. Many sessions share one upstream; a session with a
transaction on watched keys, a blocking command or a subscription has one of its own.
"""

import errno
import select
from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.resp import COMPLETE, MORE, Scan
    from puerta.reactor.loop import Channel
    from puerta.reactor.native import Buffer, send_span

    EPOLLIN, EPOLLOUT, EPOLLERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR
    HANGUP = select.EPOLLRDHUP | select.EPOLLHUP
    BROKEN = select.EPOLLERR | select.EPOLLHUP
    AGAIN = -errno.EAGAIN

from puerta.reactor import native

READ = 64 << 10
MOST_READ = 256 << 10
STREAM = 32 << 10
"""A reply longer than this is passed on to the client at the head of its queue while it still arrives."""

HIGH_WATER = 1 << 20
"""Bytes waiting for a slow client from which on its upstream is not read ..."""

PATIENCE = 0.2
"""... but never for longer than this many seconds without progress: others wait behind the same reply."""

ROUNDS = 8

DIRECT = 8 << 10
"""Bytes from which on a system call of their own costs less than a copy."""

RAW = -2
"""The slot of a call whose errors are its sender's business: a part of a transaction, a handshake."""


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


class Caller(Channel):
    """A client's channel as its calls see it: a queue of calls, and the replies in their order."""

    if not cython.compiled:
        __slots__ = (
            "first", "held", "hopeless", "last", "most", "out", "pending", "protocol", "streaming", "waited_by",
        )  # fmt: skip

    def __init__(self, loop: Any, fd: int, most: int) -> None:
        self.loop = loop
        self.fd = fd
        self.closed = False
        self.queued = False
        self.most = most
        self.first: Any = None
        self.last: Any = None
        self.pending = 0
        self.out: Any = None
        self.streaming = False
        self.held = 0
        self.waited_by: Any = None
        self.hopeless = False
        self.protocol = 2

    def enqueue(self, call: Call) -> int:
        """The call joins the queue; its reply will go out behind those of all before it."""
        if self.last is None:
            self.first = call
        else:
            self.last.next = call
        self.last = call
        self.pending += 1
        return 0

    def answered(self, call: Call, data: Any, start: int, length: int) -> int:
        """The reply data[start:start+length] of a call has come. At the head of the queue it goes straight out."""
        if call.muted:
            call.done = True
            if call is self.first:
                self.advance()
        elif call is self.first:
            self.put(data, start, length)
            call.done = True
            call.reply = None
            self.advance()
        else:
            call.reply = bytes(data[start : start + length])
            call.done = True
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
        self.loop.later(self)
        return 0

    def went(self, size: int) -> int:
        """So many bytes went out to the client."""
        return 0

    def answer(self, call: Call, reply: bytes) -> None:
        """A reply made here, not received."""
        call.reply = None if call.muted else reply
        call.done = True
        if call is self.first:
            self.advance()

    def advance(self) -> int:
        """Send the replies at the head that are complete, up to the first that is not."""
        call = self.first
        while call is not None and call.done:
            if call.reply is not None:
                if self.out is None:
                    self.out = Buffer()
                self.out.append(call.reply)
                self.held = max(0, self.held - len(call.reply))
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
            self.held = 0
            self.drained()
        return 0

    def drained(self) -> None:
        """Every call has been answered."""

    def overflow(self) -> None:
        """More is waiting for this client than may be held."""


class Upstream(Channel):
    """`node` is where it leads, `protocol` what it speaks; `cluster` decides what becomes of errors and of a lost connection.

    `pushes(data)` takes out-of-band messages (RESP3 pushes); `slow` is a client for whose sake reading pauses.
    """

    if not cython.compiled:
        __slots__ = (
            "cluster", "first", "forwarded", "in_flight", "input", "last", "log", "most", "node", "protocol", "pushes",
            "ready", "replica", "room", "scan", "shared", "since", "slow",
        )  # fmt: skip

    def __init__(self, loop: Any, fd: int, cluster: Any, node: Any, protocol: int, shared: bool) -> None:
        self.loop = loop
        self.fd = fd
        self.closed = False
        self.queued = False
        self.cluster = cluster
        self.node = node
        self.protocol = protocol
        self.shared = shared
        self.replica = False
        self.pushes: Any = None
        self.log = Buffer()
        self.input = Buffer()
        self.scan = Scan()
        self.first: Any = None
        self.last: Any = None
        self.slow: Any = None
        self.in_flight = 0
        self.forwarded = 0
        self.room = READ
        self.most = cluster.most
        self.ready = False
        self.since = loop.now

    # -- requests

    def push_call(self, call: Call) -> int:
        call.after = None
        if self.last is None:
            self.first = call
        else:
            self.last.after = call
        self.last = call
        self.in_flight += 1
        self.loop.later(self)
        return 0

    def append(self, call: Call, data: Any, start: int, length: int) -> int:
        """The request data[start:start+length] of a call goes out with this turn."""
        self.log.extend(data, start, length)
        call.length = length
        return self.push_call(call)

    def send(self, call: Call, request: bytes) -> None:
        self.log.append(request)
        call.length = len(request)
        self.push_call(call)

    def on_turn_end(self) -> None:
        if self.ready and self.log.unsent():
            sent = self.log.push(self.fd)
            if sent < 0 and sent != AGAIN:
                self.cluster.upstream_lost(self, -sent)

    # -- replies

    def on_event(self, events: int) -> None:
        if not self.ready:
            if events & BROKEN:
                self.cluster.upstream_lost(self, native.connect_error(self.fd) or errno.ECONNREFUSED)
                return
            self.ready = True
            self.cluster.upstream_ready(self)
        if events & EPOLLOUT:
            self.on_turn_end()
        if not self.closed and events & (EPOLLIN | HANGUP | EPOLLERR):
            self.read()

    def on_again(self) -> None:
        self.read()

    def read(self) -> int:
        """Take what has come; a client that can't keep up with its long reply is waited for, within its patience."""
        for _turn in range(ROUNDS):
            if self.slow is not None:
                return 0
            room = self.room
            got = self.input.fill(self.fd, room)
            if got <= 0:
                if got != AGAIN:
                    self.cluster.upstream_lost(self, -got)
                return 0
            if self.parse() < 0:
                return 0
            if got < room:
                return 0
            if room < MOST_READ:
                self.room = room * 2
        self.loop.again(self)
        return 0

    def parse(self) -> int:
        """Hand out the replies that are complete; -1 when the connection was given up meanwhile."""
        buffer = self.input
        while buffer.end > buffer.start:
            status = self.scan.advance(buffer.data, buffer.start - self.forwarded, buffer.end)
            if status == MORE:
                if buffer.end - buffer.start > STREAM or self.forwarded:
                    self.stream_head()
                    if buffer.end - buffer.start > self.most:
                        self.overflow()
                return 0
            if status != COMPLETE or (self.first is None and self.pushes is None):
                self.cluster.upstream_lost(self, errno.EPROTO)
                return -1
            length = self.scan.at - self.forwarded
            self.scan.reset()
            self.take_reply(buffer.start, length)
            if self.closed:
                return -1
            self.forwarded = 0
            buffer.skip(length)
        return 0

    def take_reply(self, start: int, length: int) -> int:
        """The frame at `start` is the oldest call's reply, unless it is a push."""
        data = self.input.data
        kind = data[start]
        if (kind == 62 and not self.forwarded) or self.first is None:  # '>'
            if self.pushes is not None:
                self.pushes(bytes(data[start : start + length]))
            return 0
        call = self.first
        if kind == 45 and not self.forwarded and self.shared and call.slot != RAW and call.caller is not None:
            letter = data[start + 1]
            # MOVED and MASTERDOWN, ASK, TRYAGAIN, CLUSTERDOWN, LOADING, READONLY: the command was not executed.
            if letter == 77 or letter == 65 or letter == 84 or letter == 67 or letter == 76 or letter == 82:
                line = bytes(data[start : start + length])
                request = self.log.peek(0, call.length)
                self.drop_first()
                if not self.cluster.handle_error(self, call, line, request):
                    self.deliver(call, line)
                return 0
        self.drop_first()
        if call.gather is not None:
            call.gather.leg_answered(call, bytes(data[start : start + length]))
        elif call.caller is not None:
            self.cluster.measure(call)
            call.caller.answered(call, data, start, length)
        return 0

    def drop_first(self) -> int:
        call = self.first
        self.first = call.after
        call.after = None
        if self.first is None:
            self.last = None
        self.in_flight -= 1
        self.log.skip(call.length)
        return 0

    @staticmethod
    def deliver(call: Call, reply: bytes) -> None:
        """An answer that did not come off the wire as it is, or not now."""
        if call.gather is not None:
            call.gather.leg_answered(call, reply)
        elif call.caller is not None:
            call.caller.answer(call, reply)

    def stream_head(self) -> int:
        """The oldest call's reply is long and still arriving: pass on what is there if its client waits for just this."""
        buffer = self.input
        call = self.first
        if call is None or call.gather is not None:
            return 0
        caller = None if call.muted else call.caller
        if caller is not None and (
            caller.first is not call or (not self.forwarded and buffer.data[buffer.start] == 62)
        ):
            return 0
        size = buffer.end - buffer.start
        last = self.scan.at - self.forwarded  # as far as the frame was understood; what is behind it is looked at again
        if last < size:
            size = last
        if size <= 0:
            return 0
        if caller is not None:
            caller.stream(call, buffer.data, buffer.start, size)
            if (
                caller.out is not None
                and caller.out.size() > HIGH_WATER
                and self.slow is None
                and caller.waited_by is None
                and not caller.hopeless
            ):
                self.slow = caller
                caller.waited_by = self
                self.since = self.loop.now
        buffer.skip(size)
        self.forwarded += size
        return 0

    def overflow(self) -> None:
        """A reply that can't go out yet has outgrown what may be held: its client must go, and the rest is discarded."""
        call = self.first
        if call.gather is not None:
            gather, call.gather = call.gather, None
            call.caller = None
            gather.leg_answered(call, b"-ERR a part of the reply is larger than Puerta may hold (limits.buffer)\r\n")
        elif call.caller is not None:
            call.caller.overflow()

    def resume(self) -> None:
        """The slow client took enough, or too long: read on."""
        self.slow = None
        self.read()
