"""Two sides of a relay on real sockets: bytes, ends, resets, back pressure, fairness."""

import contextlib
import errno
import os
import select
import socket

import pytest

from puerta.reactor.relay import join
from tests.reactor.sockets import Session, Turned, reset

pytestmark = pytest.mark.dataplane
both = pytest.mark.parametrize("kind", ["tcp", "unix"])

MIB = 1 << 20


def read(turned: Turned, sock: socket.socket, size: int) -> bytes:
    """`size` bytes, while the loop turns."""
    data = bytearray()
    sock.settimeout(0)
    for _ in range(100_000):
        turned.settle()
        try:
            piece = sock.recv(min(MIB, size - len(data)))
        except BlockingIOError:
            continue
        data += piece
        if len(data) == size or not piece:
            break
    sock.settimeout(5)
    return bytes(data)


def fill(turned: Turned, sock: socket.socket) -> bytes:
    """Send until nobody takes more, while the loop turns; returns what was taken."""
    sock.settimeout(0)
    taken = bytearray()
    idle = 0
    while idle < 3:
        piece = os.urandom(256 << 10)
        try:
            taken += piece[: sock.send(piece)]
            idle = 0
        except BlockingIOError:
            idle += 1
        turned.settle()
    sock.settimeout(5)
    return bytes(taken)


@both
def test_bytes_go_both_ways_and_are_counted(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind)
    session.client.sendall(b"question")
    session.backend.sendall(b"answer")
    turned.settle()
    assert session.backend.recv(100) == b"question"
    assert session.client.recv(100) == b"answer"
    assert (session.incoming.total, session.outgoing.total) == (8, 6)
    assert (session.near.received, session.far.received) == (8, 6)
    assert 0 < session.near.first <= session.near.active <= turned.loop.now
    assert session.told == []
    session.close()


@both
def test_input_from_before_the_join_is_moved_at_the_join(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind, joined=False)
    session.client.sendall(b"early")
    session.backend.sendall(b"bird")
    turned.settle()
    assert {entry[:2] for entry in session.told} == {("event", "client"), ("event", "backend")}
    join(session.near, session.far)
    turned.settle()
    assert session.backend.recv(100) == b"early"
    assert session.client.recv(100) == b"bird"
    session.close()


@both
def test_what_is_sent_before_the_join_comes_first(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind, joined=False)
    first = os.urandom(8 * MIB)
    session.client.sendall(b"then this")
    session.far.send(first)
    session.far.send(b"and")
    join(session.near, session.far)
    assert read(turned, session.backend, len(first) + 12) == first + b"and" + b"then this"
    session.close()


@both
def test_an_end_is_passed_on_and_the_other_direction_goes_on(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind)
    session.client.sendall(b"last words")
    session.client.shutdown(socket.SHUT_WR)
    turned.settle()
    assert session.backend.recv(100) == b"last words"
    assert session.backend.recv(100) == b""
    assert session.told == [("half", "client")]
    session.backend.sendall(b"heard")
    turned.settle()
    assert session.client.recv(100) == b"heard"
    session.backend.shutdown(socket.SHUT_WR)
    turned.settle()
    assert session.told[1:] == [("half", "backend"), ("end", "client", 0)]
    assert session.client.recv(100) == b""
    session.close()


@both
def test_an_end_comes_behind_what_still_waits(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind)
    data = fill(turned, session.backend)
    session.backend.close()
    turned.settle()
    assert read(turned, session.client, len(data) + 1) == data
    assert session.client.recv(1) == b""
    assert ("half", "backend") in session.told
    session.close()


def test_a_reset_is_told_at_once() -> None:
    turned = Turned()
    for broken in ("client", "backend"):
        session = Session(turned)
        reset(getattr(session, broken))
        turned.settle()
        assert session.told == [("end", broken, errno.ECONNRESET)]
        session.close()


def test_a_reset_is_told_while_the_other_side_does_not_read() -> None:
    turned = Turned()
    session = Session(turned)
    fill(turned, session.backend)
    reset(session.backend)
    turned.settle()
    assert session.told == [("end", "backend", errno.ECONNRESET)]
    session.close()


@both
def test_sending_to_one_that_has_gone_ends_the_relay(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind)
    session.backend.close()
    turned.settle()
    session.client.sendall(b"too late")
    turned.settle()
    with contextlib.suppress(BrokenPipeError):
        session.client.sendall(b"much too late")
    turned.settle()
    assert session.told[0] == ("half", "backend")
    assert session.told[-1][:2] == ("end", "backend")
    assert session.told[-1][2] in (errno.ECONNRESET, errno.EPIPE)
    session.close()


@both
@pytest.mark.parametrize("most", [4 << 10, 64 << 10, 256 << 10])
def test_a_side_that_does_not_read_holds_one_read_back_and_no_more(kind: str, most: int) -> None:
    turned = Turned()
    session = Session(turned, kind, most)
    data = fill(turned, session.backend)
    assert session.near.out is not None
    assert 0 < session.near.out.size() <= most
    assert session.far.room <= most
    session.client.sendall(b"the other way")
    turned.settle()
    assert session.backend.recv(100) == b"the other way"
    assert session.near.out is not None
    assert read(turned, session.client, len(data)) == data
    assert session.near.out is None
    assert session.told == []
    session.close()


@both
def test_a_fast_sender_gets_its_share_of_a_turn(kind: str) -> None:
    """One turn moves at most so many reads of one side; then the others are looked at."""
    turned = Turned()
    session = Session(turned, kind, 4 << 10)
    session.backend.settimeout(0)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 4 * MIB:
            sent += session.backend.send(bytes(64 << 10))
    select.select([turned.loop.poller.fileno()], [], [], 1)
    assert sent > 16 * (4 << 10)
    turned.turn()
    assert session.outgoing.total == 16 * (4 << 10)
    assert list(turned.loop.pending) == [session.far]
    assert len(read(turned, session.client, sent)) == sent
    session.close()


@both
def test_reads_grow_with_the_stream_up_to_the_limit(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind)
    assert session.far.room == 64 << 10
    for _ in range(20):
        session.backend.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            session.backend.send(bytes(MIB))
        turned.settle()
        session.client.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while session.client.recv(MIB):
                turned.settle()
    assert session.far.room <= 256 << 10
    assert session.near.room == 64 << 10
    session.close()


@both
def test_a_closed_side_is_deaf(kind: str) -> None:
    turned = Turned()
    session = Session(turned, kind)
    session.client.sendall(b"x")
    select.select([session.near.fd], [], [], 1)
    session.near.close()
    session.far.close()
    turned.settle()
    assert session.told == []
    assert session.incoming.total == 0
    session.client.close()
    session.backend.close()
