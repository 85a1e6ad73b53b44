"""A Redis client: takes commands off its socket, sends each where it belongs, and keeps the replies in order.

The usual command is sent on as it is by `redis_keyed`, or slot by slot by `redis_scatter`: that path runs compiled. Everything
else (`special` sessions, commands that are answered here, taken apart or need a connection of their own) is decided in
`redis_commands`, in plain Python.

A session stops taking commands while it is *fenced* (a call was redirected: no later one may overtake it), while too many
are pending, or while its client does not read. What has been received by then waits in `input`.
"""

import errno
import select
from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.resp import COMPLETE, INLINE, MORE
    from puerta.protocol.spec import SPLIT
    from puerta.proxy.redis_caller import Caller
    from puerta.proxy.redis_keyed import forward_run, usual
    from puerta.proxy.redis_scatter import scatter

    EPOLLIN, EPOLLOUT, EPOLLERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR
    HANGUP = select.EPOLLRDHUP | select.EPOLLHUP
    BROKEN = select.EPOLLERR | select.EPOLLHUP
    AGAIN = -errno.EAGAIN

from puerta import log
from puerta.protocol import inline, resp
from puerta.proxy import redis_commands

READ = cython.declare(cython.Py_ssize_t, 64 << 10)
TRICKLE = cython.declare(cython.Py_ssize_t, 64 << 10)
"""Bytes of one command that count as another sign of life: who sends less in all that time is as good as idle."""

SHARE = cython.declare(cython.Py_ssize_t, 128)
"""Commands of one client that are taken in one turn; then others have theirs."""

MOST_UNREAD = cython.declare(cython.Py_ssize_t, 1 << 20)
"""Bytes waiting for the client above which no new commands are taken."""

ROOM = cython.declare(cython.Py_ssize_t, 1 << 20)
"""What a request may be longer than its longest argument may be."""


class RedisSession(Caller):
    """`state` is what the client set up by commands (authentication, name, transaction, subscriptions); see redis_commands.

    `scratch` is where all sessions' requests are taken apart, `request` one that is not complete yet.
    `limit` bounds the calls in flight; `special` sends every command to redis_commands first. One that has `paused` had its
    share of this turn.
    """

    if not cython.compiled:
        __slots__ = (
            "cluster", "commands", "consuming", "fenced", "host", "hung", "index", "input", "limit", "meter_in", "opened",
            "over", "paused", "port", "received", "request", "route", "scratch", "special", "state", "taken", "unread",
        )  # fmt: skip

    relaying = True

    def __init__(self, route: Any, fd: int, host: str, port: int) -> None:
        Caller.__init__(self, route.loop, fd, route.limits.buffer, route.bytes_out)
        self.route = route
        self.cluster = route.cluster
        self.index = route.index
        self.meter_in = route.bytes_in
        self.taken = route.taken
        self.host = host
        self.port = port
        self.input: Any = None
        self.scratch: Any = route.request
        self.request: Any = None
        self.limit = route.limits.pending
        self.fenced = False
        self.consuming = False
        self.paused = False
        self.unread = False
        self.hung = False
        self.over = False
        self.opened = route.loop.now
        self.received = 0
        self.commands = 0
        self.special = False
        self.state: Any = redis_commands.State(self)
        route.opened(self)
        route.loop.add(self)

    # -- the socket

    def on_event(self, events: int) -> None:
        if events & EPOLLOUT and self.out is not None and not self.holding:
            self.flush()
        if self.closed:
            return
        if events & HANGUP:
            self.hung = True
            if self.blocked() and self.is_gone(events):
                self.end("client_reset" if events & BROKEN else "client_closed")
                return
        if events & (EPOLLIN | HANGUP | EPOLLERR):
            self.read()

    def on_again(self) -> None:
        if self.paused:
            self.paused = False
            self.resume()
        else:
            self.read()

    def is_gone(self, events: int) -> bool:
        """Told so by the kernel while we don't read: no reply can reach the client, or nothing but it ends its wait."""
        return bool(events & BROKEN or self.state.waits_alone())

    def blocked(self) -> bool:
        """No command is taken now."""
        if self.fenced or self.leaving:
            return True
        if self.pending >= self.limit:
            self.starved = True
            return True
        return self.out is not None and self.out.size() > MOST_UNREAD

    def read(self) -> int:
        if self.ended or self.closed:
            return 0
        if self.paused or self.blocked():
            self.unread = True
            if self.hung and self.state.waiting is not None:
                self.end("client_closed")
            return 0
        self.unread = False
        large = self.input is not None and self.input.size() > READ
        buffer = self.input if large else self.loop.scratch
        got = buffer.fill(self.fd, READ)
        if got <= 0:
            return self.nothing_read(got)
        self.received += got
        self.meter_in.total += got
        if self.input is None or self.received // TRICKLE != (self.received - got) // TRICKLE:
            self.active = self.loop.now
        if self.input is not None and not large:
            self.input.extend(buffer.data, buffer.start, got)
            buffer.skip(got)
            buffer = self.input
        self.consume(buffer)
        if self.closed:
            self.loop.scratch.take()
            return 0
        if self.input is None:
            if buffer.size():
                self.input = buffer.split()
        elif not self.input.size():
            self.input = None
        if got == READ or self.hung:
            if self.paused:
                self.unread = True
            else:
                self.loop.again(self)
        return 0

    def nothing_read(self, got: int) -> int:
        """Empty for now, at its end, or broken. After an end of file the replies still due are delivered."""
        if got == AGAIN:
            return 0
        if got < 0:
            self.end("client_reset")
            return 0
        if self.input is not None:  # commands may have waited there for room: they count as sent before the end
            self.resume()
            if self.closed or self.paused or self.blocked():
                self.unread = True
                return 0
        self.ended = True
        answered = self.first is None and (self.out is None or not self.out.size())
        if answered or self.state.waits_alone():
            self.end("client_closed")
        return 0

    # -- commands

    def resume(self) -> None:
        """Go on with what waits in `input`, and in a turn of its own with what was left unread."""
        if self.closed or self.consuming or self.paused or self.blocked():
            return
        self.starved = False
        if self.input is not None:
            self.consume(self.input)
            if self.closed:
                return
            if self.input is not None and not self.input.size():
                self.input = None
        if self.unread and not self.paused and not self.blocked():
            self.loop.again(self)

    def drained(self) -> None:
        self.fenced = False
        if not self.consuming and (self.input is not None or self.unread):
            self.resume()
        if (self.ended or self.leaving) and not self.closed:
            self.loop.later(self)

    def consume(self, buffer: Any) -> int:
        """Take every complete command off the buffer, as long as nothing makes the session wait."""
        self.consuming = True
        try:
            self.take_commands(buffer)
            if buffer.size() > self.most + ROOM and not self.closed:
                self.protocol_error(b"request is larger than Puerta may hold (limits.buffer)")
            if self.leaving:
                self.loop.later(self)
            elif self.hung and not self.closed and self.state.waits_alone():
                self.end("client_closed")
        except Exception:  # a fault of ours: whoever's turn brought us here must not pay for it
            log.logger.exception("route %s: a session failed and was closed", self.route.name)
            self.end("internal_error")
        finally:
            self.consuming = False
        return 0

    def take_commands(self, buffer: Any) -> int:
        share = SHARE
        at = buffer.start
        while at < buffer.end and not self.blocked():
            if share <= 0:
                self.paused = True
                self.loop.again(self)
                break
            request = self.request
            if request is None:
                request = self.scratch
                request.trusted = not self.special or self.state.trusted
                status = request.begin(buffer.data, at, buffer.end)
            else:
                request.trusted = not self.special or self.state.trusted
                status = request.parse(buffer.data, at, buffer.end)
            if status == MORE:
                if self.request is None:
                    self.request = request.split()
                break
            self.request = None
            length = request.at
            taken = 1
            if status == COMPLETE:
                if request.spans.count:
                    taken = self.dispatch(request, buffer.data, at, min(share, request.run))
                    if not taken:
                        break
                    self.commands += taken
                    self.taken.total += taken
            elif status == INLINE:
                if not self.inline(bytes(buffer.data[at : at + length])):
                    break
            else:
                self.protocol_error(request.error)
                break
            if self.closed:
                break
            share -= taken
            at += length * taken
        buffer.skip(at - buffer.start)
        return 0

    def dispatch(self, request: Any, data: Any, start: int, run: int) -> int:
        """Send a command on its way, and with it those that follow and are alike, which are `run`. Returns how many were sent;
        0 when the first has to wait (it is then taken again)."""
        spec = request.spec
        if spec is None:
            spec = request.spec = usual(self.index, request.spans, data, start)
        if spec is None or self.special:
            request.most = 1
            return self.command(request, data, start)
        if spec.kind == SPLIT and request.spans.count > 1 + spec.step:  # of one key, nothing is to be split
            if scatter(self, self.cluster, spec, request, data, start):
                return 1
            run = 1  # these keys are in one slot: that says nothing of those of the next request
        else:
            request.most = SHARE
        return forward_run(self, self.cluster, spec, request, data, start, min(run, self.limit - self.pending))

    def command(self, request: Any, data: Any, start: int) -> int:
        """Every other way: with the arguments as Python objects."""
        spans = request.spans
        arguments = []
        for index in range(spans.count):
            at = start + spans.offsets[index]
            arguments.append(bytes(data[at : at + spans.lengths[index]]))
        return 1 if redis_commands.take(self, arguments) else 0

    def inline(self, line: bytes) -> bool:
        arguments = inline.arguments(line.removesuffix(b"\n").removesuffix(b"\r"))
        if arguments is None:
            self.protocol_error(b"unbalanced quotes in request")
            return True
        if not arguments:
            return True
        taken = redis_commands.take(self, arguments)
        if taken:
            self.commands += 1
            self.taken.total += 1
        return bool(taken)

    def protocol_error(self, text: bytes) -> None:
        """As the server does: the replies that are due, the error, and the end."""
        self.leaving = True
        self.farewell = "protocol_error"
        self.reply(resp.error(b"ERR Protocol error: " + text))
        self.input = None

    def fence(self) -> None:
        """A call was redirected: take no further command before all that are under way are answered."""
        if self.first is not None:
            self.fenced = True

    def overflow(self) -> None:
        self.end("output_limit")

    # -- the end

    def abort(self) -> None:
        """The client must not take what it got for complete."""
        self.end("backend_reset")

    def end(self, reason: str) -> None:
        """Close once, disown the calls in flight, count and log. Safe to call again."""
        if self.over:
            return
        self.over = True
        if reason == "backend_reset":
            Caller.abort(self)
        else:
            if reason == "client_closed" and self.out is not None:  # it may still read: what is there goes out
                self.loop.post(self, self.out)
            self.close()
        call = self.first
        while call is not None:
            call.caller = None
            following = call.next
            call.next = None
            if call.gather is not None:
                call.gather.caller_left()
            call = following
        self.first = self.last = None
        if self.waited_by is not None:
            upstream = self.waited_by
            self.waited_by = None
            upstream.resume()
        self.state.close()
        self.route.closed(self, reason)
        self.state = None
        self.input = self.out = self.request = None

    def summary(self, reason: str) -> dict[str, Any]:
        """What the access log says of the session; times in milliseconds."""
        return {
            "route": self.route.name,
            "client": f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}",
            "first_byte_ms": round((self.first_byte - self.opened) * 1000, 1) if self.first_byte else None,
            "duration_ms": round((self.loop.now - self.opened) * 1000, 1),
            "commands": self.commands,
            "bytes_in": self.received,
            "bytes_out": self.sent,
            "close_reason": reason,
        }
