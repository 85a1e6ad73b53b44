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
    from puerta.proxy.redis_caller import Call, Caller
    from puerta.proxy.redis_gather import collect
    from puerta.reactor.loop import Channel
    from puerta.reactor.native import Buffer

    EPOLLIN, EPOLLOUT, EPOLLERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR
    HANGUP = select.EPOLLRDHUP | select.EPOLLHUP
    BROKEN = select.EPOLLERR | select.EPOLLHUP
    AGAIN = -errno.EAGAIN

from puerta.proxy.redis_caller import RAW, TOO_LARGE
from puerta.proxy.redis_forward import NOT_EXECUTED
from puerta.reactor import native

READ = cython.declare(cython.Py_ssize_t, 64 << 10)
MOST_READ = cython.declare(cython.Py_ssize_t, 256 << 10)
STREAM = cython.declare(cython.Py_ssize_t, 32 << 10)
"""A reply longer than this is passed on to the client at the head of its queue while it still arrives."""

HIGH_WATER = cython.declare(cython.Py_ssize_t, 1 << 20)
"""Bytes waiting for a slow client from which on its upstream is not read (less, so that it keeps within a small limit) ..."""

PATIENCE = 0.2
"""... but while others wait behind the same reply, only for so many seconds in all. Then the reply is held for the client ..."""

SLOWEST = 32 << 20
"""... unless it takes so many bytes a second: what it took earns it patience."""

IMPATIENCE = 2.0
"""Seconds for which an upstream waits for nobody, after a client wore its patience out."""

MOST_CALLS: int = cython.declare(cython.Py_ssize_t, 1 << 16)
"""In flight on one upstream; beyond it commands are refused: their node is behind, or hangs."""

ENOUGH = cython.declare(cython.Py_ssize_t, 16 << 10)
"""Bytes of requests that go out at the end of the turn in any case."""

ROUNDS = cython.declare(cython.Py_ssize_t, 8)


class Tally:
    """What was counted about one node since it was last written to the board: connections `opened` and the microseconds that
    took, all `failures` of connections, of them `losses` of one that stood; requests sent, error replies, calls out of time."""

    if not cython.compiled:
        __slots__ = ("calls", "connect_us", "errors", "failures", "losses", "opened", "timeouts")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.opened = self.connect_us = self.failures = self.losses = self.calls = self.errors = self.timeouts = 0


class Upstream(Channel):
    """`node` is where it leads, `protocol` what it speaks; `cluster` decides what becomes of errors and of a lost connection.

    `pushes(data)` takes out-of-band messages (RESP3 pushes); `slow` is a client for whose sake reading pauses, since `since`;
    `replica`: the node was told READONLY. `forwarded` are the bytes of the oldest reply that its client already has. The node
    was `asked` something since its last reply.
    """

    if not cython.compiled:
        __slots__ = (
            "asked", "born", "cluster", "first", "forwarded", "heard", "high", "hung", "in_flight", "input", "last",
            "latencies", "log", "most", "node", "patience", "patient_from", "protocol", "pushes", "ready", "replica", "room",
            "scan", "shared", "since", "slow", "tally",
        )  # fmt: skip

    def __init__(self, loop: Any, fd: int, cluster: Any, node: Any, protocol: int, shared: bool) -> None:
        Channel.__init__(self, loop, fd)
        self.cluster = cluster
        self.node = node
        self.tally = node.tally
        self.protocol = protocol
        self.shared = shared
        self.replica = False
        self.pushes: Any = None
        self.latencies = cluster.latencies
        self.log = Buffer()
        self.input = Buffer()
        self.scan = Scan()
        self.first: Any = None
        self.last: Any = None
        self.slow: Any = None
        self.in_flight = 0
        self.forwarded = 0
        self.most = cluster.most
        self.high = min(HIGH_WATER, self.most // 4)
        self.room = min(READ, self.high)
        self.ready = False
        self.hung = False
        self.asked = False
        self.patience = PATIENCE
        self.patient_from = 0.0
        self.born = self.since = self.heard = loop.now

    # -- requests

    def full(self) -> bool:
        """It holds as much as it may: the node does not keep up."""
        return self.in_flight >= MOST_CALLS or self.log.end - self.log.start > self.most

    def push_call(self, call: Call) -> int:
        call.after = None
        if self.last is None:
            self.first = call
        else:
            self.last.after = call
        self.last = call
        self.in_flight += 1
        self.tally.calls += 1
        if not self.queued:
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
        """Send, unless the node has yet to answer what was sent before: then more goes out with its reply, or in a moment.

        Nagle's algorithm (RFC 896), for commands: a busy node gets fewer and longer pieces, one that is not gets all at once.
        """
        if not self.asked or not self.shared or self.log.unsent() >= ENOUGH:
            self.flush()
        else:
            self.loop.hold(self)

    def on_released(self) -> None:
        self.flush()

    def flush(self) -> None:
        if self.ready and self.log.unsent():
            self.asked = True
            self.loop.post(self, self.log)

    def on_sent(self, sent: int) -> None:
        if sent < 0 and sent != AGAIN:
            self.cluster.upstream_lost(self, -sent)

    def close(self) -> None:
        """Close; what has not been sent stays unsent, for it may be sent to another."""
        self.letter = None
        Channel.close(self)

    def abandon(self) -> None:
        """Close, and let go of the calls in flight, which nobody waits for: one by one, for a chain of a million would be freed
        by as many nested calls."""
        self.close()
        call, self.first, self.last = self.first, None, None
        while call is not None:
            following = call.after
            call.after = None
            call = following

    # -- replies

    def on_event(self, events: int) -> None:
        if not self.ready:
            if events & BROKEN:
                self.cluster.upstream_lost(self, native.connect_error(self.fd) or errno.ECONNREFUSED)
                return
            self.ready = True
            self.cluster.upstream_ready(self)
        if events & HANGUP:
            self.hung = True
        if events & EPOLLOUT and not self.queued and not self.holding:
            self.flush()
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
            self.heard = self.loop.now
            if self.parse():
                return 0
            if got < room:
                if not self.hung:
                    return 0
            elif room < MOST_READ and room * 2 + STREAM + self.high <= self.most:
                self.room = room * 2
        self.loop.again(self)
        return 0

    def parse(self) -> int:
        """Hand out the replies that are complete; 1 when the connection was given up meanwhile."""
        buffer = self.input
        at = buffer.start
        while at < buffer.end:
            status = self.scan.advance(buffer.data, at - self.forwarded, buffer.end)
            if status == MORE:
                buffer.skip(at - buffer.start)
                if buffer.end - buffer.start > STREAM or self.forwarded:
                    self.stream_head()
                    if buffer.end - buffer.start > self.most:
                        self.overflow()
                return 1 if self.closed else 0
            if status != COMPLETE:
                self.cluster.upstream_lost(self, errno.EPROTO)
                return 1
            length = self.scan.length - self.forwarded
            taken = self.take_replies(at, length, self.scan.run)
            if self.closed:
                return 1
            self.forwarded = 0
            at += length * taken
        buffer.skip(at - buffer.start)
        return 0

    def take_replies(self, start: int, length: int, count: int) -> int:
        """There are `count` frames at `start`, each of that length: replies to the oldest calls, or pushes. Returns how many of
        them were taken."""
        data = self.input.data
        kind = data[start]
        if (kind == 62 and not self.forwarded) or self.first is None:  # '>'
            if self.pushes is not None:
                self.pushes(bytes(data[start : start + length]))
            elif self.first is None:
                self.cluster.upstream_lost(self, errno.EPROTO)
            return 1
        if self.asked:
            self.asked = False
            if self.log.unsent():
                self.loop.later(self)
        if kind == 45 and not self.forwarded:
            self.tally.errors += 1
            if self.refused(data, start, length):
                return 1
            count = 1
        taken = 0
        call = self.first
        while taken < count and call is not None:
            self.drop(call)
            if call.gather is not None:
                collect(call, self.input.peek(start - self.input.start, length))
            elif call.caller is not None:
                self.latencies.measure(call, self.loop.now)
                call.caller.answered(call, data, start, length)
            if call.attempts:
                self.cluster.again.settled(call)
            if self.closed:
                break
            taken += 1
            start += length
            call = self.first
        self.log.skip(0)
        return taken

    def drop(self, call: Call) -> int:
        """The oldest call has its reply, and its request is let go of. What that means for the log is settled once for a run of
        replies, by `log.skip`."""
        self.first = call.after
        call.after = None
        if self.first is None:
            self.last = None
        self.in_flight -= 1
        self.log.start += call.length
        return 0

    def refused(self, data: Any, start: int, length: int) -> int:
        """The error is one of those that say that the command was not executed: it is sent again."""
        call = self.first
        if not self.shared or call.slot == RAW or call.caller is None:
            return 0
        line = bytes(data[start : start + length])
        if not line.startswith(NOT_EXECUTED):
            return 0
        request = self.log.peek(0, call.length)
        self.drop(call)
        self.log.skip(0)
        self.cluster.again.refused(self, call, line, request)
        return 1

    def stream_head(self) -> int:
        """The oldest call's reply is long and still arriving: pass on what is there if its client waits for just this."""
        buffer = self.input
        call = self.first
        if call is None or call.gather is not None or (not self.forwarded and buffer.data[buffer.start] == 62):  # '>'
            return 0
        caller = None if call.muted else call.caller
        if caller is not None and caller.first is not call:
            return 0
        size = buffer.end - buffer.start
        last = self.scan.at - self.forwarded  # as far as the frame was understood; what is behind it is looked at again
        if last < size:
            size = last
        if size <= 0:
            return 0
        if caller is not None:
            if not self.forwarded:
                self.patience = PATIENCE
            caller.stream(call, buffer.data, buffer.start, size)
            if (
                caller.out is not None
                and caller.out.size() > self.high
                and caller.waited_by is None
                and not caller.hopeless
            ):
                self.wait_for(caller)
        buffer.skip(size)
        self.forwarded += size
        return 0

    def overflow(self) -> None:
        """A reply that can't go out yet has outgrown what may be held: its client must go, and the rest is discarded; if it
        can't even be discarded, as a line without an end, the connection must go."""
        call = self.first
        if call is not None and call.gather is not None:
            gather, call.gather = call.gather, None
            call.caller = None
            gather.leg_answered(call, TOO_LARGE)
        elif call is not None and call.caller is not None:
            call.caller.overflow()
        else:
            self.cluster.upstream_lost(self, errno.EMSGSIZE)

    # -- slow clients

    def wait_for(self, caller: Caller) -> None:
        """Do not read on before the client has taken what it was sent."""
        if self.loop.now >= self.patient_from:
            self.slow = caller
            caller.waited_by = self
            self.since = self.loop.now

    def resume(self) -> None:
        """The slow client took enough, or left: read on, in a turn of its own."""
        self.slow = None
        self.patience = min(PATIENCE, self.patience - (self.loop.now - self.since) + self.high / SLOWEST)
        if not self.closed:
            self.loop.again(self)

    def give_up_waiting(self) -> None:
        """The slow client had its time: from now on its reply is held for it, as far as may be."""
        caller = self.slow
        caller.hopeless = True
        caller.waited_by = None
        self.patient_from = self.loop.now + IMPATIENCE
        self.resume()

    # -- upkeep

    def fence_slots(self, moved: Any) -> None:
        """These slots have another node now: no later call may overtake, there, the calls that are on their way here."""
        call = self.first
        while call is not None:
            # RAW: part of a transaction, or of what asks every node; its slot does not say where its keys are.
            if call.caller is not None and (call.slot == RAW or call.slot in moved):
                call.caller.fence()
            call = call.after

    def slim(self) -> None:
        """Let go of the memory that long requests and replies needed."""
        if not self.log.size():
            self.log = Buffer()
        if not self.input.size():
            self.input = Buffer()
