"""Two channels back to back: what one socket delivers goes out on the other, and no Python object is made for it.

Input is read into the loop's scratch buffer. What is long is sent at once, and only what the other socket did not take is
copied into a buffer of its own; what is short waits there for the end of the turn, when it is sent together with all that
the turn has for others (without a ring there is no together, and it is sent at once too). While a buffer holds more than
that, nothing more is read: so one direction never holds more than one read.

A *side* begins without a peer: its events then belong to its session, which reads the first bytes or waits for the connect.
`join` makes a relay of two sides. A side's end of file shuts down the other's writing half once everything before
it was delivered; the relay is over when both have ended, or as soon as one of them fails.
"""

import errno
import select
from typing import Any

import cython

if not cython.compiled:
    from puerta.reactor.loop import Channel
    from puerta.reactor.native import Buffer, connect_error, send_bytes, shutdown_write

FIRST_READ = cython.declare(cython.Py_ssize_t, 64 << 10)
"""Bytes asked for at first. Full reads double it, up to the side's `most`; it never shrinks, for scratch memory is shared."""

DIRECT = cython.declare(cython.Py_ssize_t, 8 << 10)
"""Bytes from which on a system call of their own costs less than a copy."""

ROUNDS = cython.declare(cython.Py_ssize_t, 16)
"""Reads of one side in one turn; then the others have theirs."""

if not cython.compiled:
    EPOLLOUT, EPOLLERR = select.EPOLLOUT, select.EPOLLERR
    HANGUP = select.EPOLLRDHUP | select.EPOLLHUP
    READABLE = select.EPOLLIN | select.EPOLLERR | HANGUP
    AGAIN = -errno.EAGAIN


class Meter:
    """Bytes that passed, over all relays that share it."""

    if not cython.compiled:
        __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


class Owner:
    """What a side tells its session."""

    if not cython.compiled:
        __slots__ = ()

    def on_event(self, side: "Side", events: int) -> None:
        """Events before the join; `events` are epoll's bits."""

    def on_half(self, side: "Side") -> None:
        """The side has ended."""

    def on_end(self, side: "Side", error: int) -> None:
        """The relay is over: `error` is an errno of this side, or 0 after an orderly end."""


class Side(Channel):
    """One socket of a session. `waiting` says that input was reported before the join and has not all been read, `hung_up` that
    its end was; `unread`, that after the join reading stopped because the peer has yet to send what it got."""

    if not cython.compiled:
        __slots__ = (
            "active", "ended", "finishing", "first", "hung_up", "meter", "most", "out", "peer", "received", "room", "session",
            "shut", "unread", "waiting",
        )  # fmt: skip

    def __init__(self, loop: Any, fd: int, session: Any, meter: Meter, most: int) -> None:
        Channel.__init__(self, loop, fd)
        self.session = session
        self.meter = meter
        self.peer: Any = None
        self.out: Any = None
        self.ended = False
        self.shut = False
        self.finishing = False
        self.waiting = False
        self.unread = False
        self.hung_up = False
        self.room = min(FIRST_READ, most)
        self.most = most
        self.received = 0
        self.first = 0.0
        self.active = loop.now

    def on_event(self, events: int) -> None:
        if self.peer is None:
            if events & READABLE:
                self.waiting = True
                self.hung_up = self.hung_up or (events & HANGUP) != 0
            session = self.session  # held, here and below: it may end and let go of us, and nobody else holds it
            session.on_event(self, events)
            return
        if events & EPOLLOUT and self.out is not None and self.letter is None:
            self.flush()
        if events & READABLE and not self.closed:
            self.pump((events & HANGUP) != 0)
        if events & EPOLLERR and not self.closed:
            # What came before the reset was passed on just now; a reader too slow for it loses it, as with any reset.
            session = self.session
            session.on_end(self, connect_error(self.fd) or errno.ECONNRESET)

    def on_again(self) -> None:
        if self.peer is not None:
            self.pump(True)

    def pump(self, to_the_end: bool) -> int:
        """Move input to the peer. `to_the_end`: a short read is not proof that the socket is empty now."""
        peer = self.peer
        self.unread = False
        if self.ended:
            return 0
        scratch = self.loop.scratch
        for _turn in range(ROUNDS):
            out = peer.out
            room = self.room
            if out is not None and (peer.letter is None or out.size() + room > self.most):
                self.unread = True
                return 0
            got = scratch.fill(self.fd, room)
            if got <= 0:
                return self.stop(got)
            at_once = got >= DIRECT or got == room or not self.loop.together
            if not self.received:
                self.first = self.loop.now
                at_once = True  # a turn that opens connections is long
            self.received += got
            self.meter.total += got
            self.active = self.loop.now
            if out is not None:
                out.extend(scratch.data, scratch.start, got)
                scratch.skip(got)
            elif not at_once:
                peer.out = scratch.split()
                self.loop.post(peer, peer.out)
            else:
                sent = scratch.drain(peer.fd)
                if sent != got:
                    if sent < 0 and sent != AGAIN:
                        scratch.take()
                        session = self.session
                        session.on_end(peer, -sent)
                    else:
                        peer.out = scratch.split()
                        self.unread = True
                    return 0
            if got == room:
                self.room = min(room * 2, self.most)
            elif not to_the_end:
                return 0
        self.loop.again(self)
        return 0

    def stop(self, got: int) -> int:
        """A read brought nothing: the socket is empty for now, at its end, or broken."""
        if got == AGAIN:
            return 0
        session = self.session
        if got < 0:
            session.on_end(self, -got)
            return 0
        self.ended = True
        session.on_half(self)
        self.peer.finish_writing()
        return 0

    def on_sent(self, sent: int) -> None:
        if self.went(sent):
            self.loop.again(self.peer)

    def flush(self) -> int:
        """The socket takes bytes again: send what was left."""
        if self.went(self.out.push(self.fd)):
            self.peer.pump(True)
        return 0

    def went(self, sent: int) -> bool:
        """Some or all of what was there for this socket went out. True when the peer has waited for that and may read on."""
        if sent < 0 and sent != AGAIN:
            session = self.session
            session.on_end(self, -sent)
            return False
        out = self.out
        if sent > 0:
            self.active = self.loop.now
            out.skip(sent)
        if out.size():
            return False
        self.out = None
        if self.finishing:
            self.finish_writing()
            return False
        return self.peer is not None and self.peer.unread

    def finish_writing(self) -> int:
        """The peer has ended: pass its end of file on, behind what is still to be sent."""
        if self.out is not None:
            self.finishing = True
            return 0
        self.shut = True
        if self.peer.shut:
            session = self.session
            session.on_end(self, 0)
        else:
            shutdown_write(self.fd)
        return 0

    def send(self, data: bytes) -> None:
        """Send `data` before anything that the relay will bring; for a PROXY header and the first message."""
        sent = 0
        if self.out is None:
            sent = send_bytes(self.fd, data)
            if sent == len(data):
                return
            if sent < 0 and sent != AGAIN:
                session = self.session
                session.on_end(self, -sent)
                return
            self.out = Buffer()
        self.out.append(data[max(sent, 0) :])


def join(client: Side, upstream: Side) -> None:
    """Make a relay of two sides; input that came before the join is moved now (edges do not come again)."""
    client.peer = upstream
    upstream.peer = client
    if client.waiting:
        client.pump(client.hung_up)
    if upstream.waiting and not upstream.closed:
        upstream.pump(upstream.hung_up)
