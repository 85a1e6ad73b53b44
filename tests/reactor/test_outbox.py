"""What goes out together: the same whether one system call sends it (io_uring) or one for each."""

import contextlib
import errno
import os
import resource
import select
import socket
import subprocess
import sys

import pytest

from puerta.reactor import native
from puerta.reactor.loop import Channel, Loop
from puerta.reactor.native import Buffer
from puerta.reactor.outbox import Outbox
from tests.reactor.sockets import Session, Turned, pair, reset

pytestmark = pytest.mark.dataplane
ways = pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])


def outbox(together: bool) -> Outbox:
    made = Outbox(together)
    if together and native.COMPILED and made.refusal:
        pytest.skip(f"NOT TESTED, io_uring is not to be had here: {os.strerror(made.refusal)}")
    return made


def letter(data: bytes) -> Buffer:
    buffer = Buffer()
    buffer.append(data)
    return buffer


@ways
@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 300])
def test_everybody_gets_theirs(together: bool, count: int) -> None:
    out = outbox(together)
    ends = [pair("unix") for _ in range(count)]
    for round_ in range(3):
        letters = [letter(f"{round_} for {number}".encode()) for number in range(count)]
        for (_, fd), buffer in zip(ends, letters, strict=True):
            out.add(fd, buffer)
        out.send()
        for number, (mine, _) in enumerate(ends):
            expected = f"{round_} for {number}".encode()
            assert mine.recv(100) == expected
            assert out.result(number) == len(expected)
            assert letters[number].unsent() == 0
            assert letters[number].size() == len(expected)  # whoever posted it lets go of it
    out.close()
    for mine, fd in ends:
        mine.close()
        native.close_fd(fd)


@ways
def test_a_full_socket_a_closed_one_and_nothing(together: bool) -> None:
    """Each says what it says to send(2), and none holds up another."""
    out = outbox(together)
    ends = [pair("tcp") for _ in range(4)]
    letters: list[Buffer | None] = [letter(os.urandom(16 << 20)), letter(b"lost"), None, letter(b"fine")]
    reset(ends[1][0])
    select.select([ends[1][1]], [], [], 5)
    for (_, fd), buffer in zip(ends, letters, strict=True):
        out.add(fd, buffer)
    out.send()
    first = letters[0]
    assert first is not None
    taken = out.result(0)
    assert 0 < taken < 16 << 20
    assert (first.unsent(), first.size()) == ((16 << 20) - taken, 16 << 20)
    assert out.result(1) < 0
    assert out.result(2) < 0
    assert out.result(3) == 4
    out.add(ends[0][1], first)
    more = letter(b" too")
    out.add(ends[3][1], more)
    out.send()
    assert out.result(0) == -errno.EAGAIN, "still full; and nothing waits in the kernel"
    assert out.result(1) == 4
    assert ends[3][0].recv(8, socket.MSG_WAITALL) == b"fine too"
    first.skip(taken)
    received, expected = bytearray(), first.peek(0, 1000)
    while len(received) < taken:
        received += ends[0][0].recv(1 << 20)
    out.add(ends[0][1], first)
    last = letter(b"!")
    out.add(ends[3][1], last)
    out.send()
    assert out.result(0) > 0
    assert ends[0][0].recv(1000, socket.MSG_WAITALL) == expected
    out.close()
    for number, (mine, fd) in enumerate(ends):
        if number != 1:
            mine.close()
        native.close_fd(fd)


class Posting(Channel):
    """Posts when told so, and does what a test wants when that was sent."""

    def __init__(self, loop: Loop, fd: int) -> None:
        super().__init__(loop, fd)
        self.told: list[int] = []
        self.then = lambda: None

    def on_sent(self, sent: int) -> None:
        self.told.append(sent)
        self.then()


@ways
def test_one_that_is_closed_by_what_another_is_told(together: bool) -> None:
    """Each is told of its own letter, whoever is gone by then. A closed one's letter still goes out, but it hears no more."""
    outbox(together).close()
    failed: list[Channel] = []
    loop = Loop(failed.append, together)
    ends = [pair("unix") for _ in range(5)]
    made = [Posting(loop, fd) for _, fd in ends]
    made[0].letter = None

    def leave() -> None:
        made[2].letter = None  # as an upstream does that is lost
        made[2].close()
        made[3].close()
        raise RuntimeError("and a fault besides")

    made[1].then = leave
    for number, channel in enumerate(made):
        loop.post(channel, letter(b"x" * (number + 1)))
        loop.post(channel, letter(b"a second one is not taken"))
    made[0].letter = None
    made[0].close()
    with contextlib.suppress(RuntimeError):
        loop.end_turn()
    assert [channel.told for channel in made] == [[], [2], [], [], [5]]
    assert failed == [made[1]]
    assert [mine.recv(100) for mine, _ in ends] == [b"", b"xx", b"xxx", b"xxxx", b"xxxxx"]
    for channel in made:
        channel.close()
    loop.end_turn()
    for mine, _ in ends:
        mine.close()


@ways
def test_small_messages_join_what_waits_and_an_end_comes_behind_them(together: bool) -> None:
    outbox(together).close()
    turned = Turned(together)
    sessions = [Session(turned, "tcp") for _ in range(200)]
    for number, session in enumerate(sessions):
        session.client.sendall(b"first")
        session.backend.sendall(b"hello")
        turned.turn()
        session.client.sendall(b" and %d" % number)
        if number % 2:
            session.client.shutdown(socket.SHUT_WR)
    turned.settle()
    for number, session in enumerate(sessions):
        expected = b"first and %d" % number
        assert session.backend.recv(len(expected), socket.MSG_WAITALL) == expected
        assert session.client.recv(5, socket.MSG_WAITALL) == b"hello"
        if number % 2:
            assert session.backend.recv(1) == b""
            assert session.told == [("half", "client")]
    for session in sessions:
        session.close()


@ways
def test_in_a_long_turn_the_first_do_not_wait_for_the_last(together: bool) -> None:
    outbox(together).close()
    turned = Turned(together)
    sessions = [Session(turned, "unix") for _ in range(100)]
    for session in sessions:
        session.client.sendall(b"first")
    turned.settle()
    for session in sessions:
        assert session.backend.recv(5) == b"first"
        session.client.sendall(b"again")
    mine, fd = pair("unix")
    seen: list[int] = []

    class Last(Channel):
        def on_event(self, events: int) -> None:
            seen.append(len(select.select([session.backend for session in sessions], [], [], 0)[0]))

    last = Last(turned.loop, fd)
    turned.loop.add(last)
    turned.turn()
    assert seen == [64 if turned.loop.together else 100]  # without a ring nobody waits at all
    assert [session.backend.recv(9) for session in sessions] == [b"again"] * 100
    last.close()
    mine.close()
    for session in sessions:
        session.close()


@ways
def test_nothing_is_lost_where_the_reader_is_slow(together: bool) -> None:
    """Messages of every length around the limits, faster than they are read."""
    outbox(together).close()
    turned = Turned(together)
    session = Session(turned, "tcp", 64 << 10)
    sent = bytearray()
    session.client.settimeout(0)
    lengths = [1, 100, 8191, 8192, 8193, 65535, 65536, 65537]
    for number in range(400):
        piece = os.urandom(lengths[number % len(lengths)])
        with contextlib.suppress(BlockingIOError):
            sent += piece[: session.client.send(piece)]
        turned.turn()
    received = bytearray()
    while len(received) < len(sent):
        turned.settle()
        received += session.backend.recv(100_000)
    assert received == sent
    session.close()


@pytest.mark.skipif(not native.COMPILED, reason="the uncompiled core has no io_uring")
def test_where_there_is_no_ring_sends_go_one_by_one() -> None:
    """A process that may open no further descriptor gets none, says why, and sends all the same."""
    code = """if True:
        import errno, resource, socket
        from puerta.reactor.native import Buffer
        from puerta.reactor.outbox import Outbox
        kept = []
        ends = [socket.socketpair() for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (ends[-1][1].fileno() + 1,) * 2)
        out = Outbox()
        assert out.refusal in (errno.EMFILE, errno.ENOSYS, errno.EPERM), out.refusal
        for number, (_, theirs) in enumerate(ends):
            kept.append(Buffer())
            kept[-1].append(b"x" * (number + 1))
            out.add(theirs.fileno(), kept[-1])
        out.send()
        assert [out.result(number) for number in range(3)] == [1, 2, 3]
        assert [mine.recv(9) for mine, _ in ends] == [b"x", b"xx", b"xxx"]
    """
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 20
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
