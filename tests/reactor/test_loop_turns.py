"""The loop: who is called when, what an error does, and that closing is safe at any moment."""

import os
import select
import socket
import time
from collections.abc import Callable

import pytest

from puerta.reactor import native
from puerta.reactor.loop import Channel
from tests.reactor.sockets import Turned, adopt, pair

pytestmark = pytest.mark.dataplane


class Noting(Channel):
    """Writes down what it is called for, and does what a test wants."""

    def __init__(self, turned: Turned, fd: int, act: Callable[["Noting"], object] = lambda channel: None) -> None:
        super().__init__(turned.loop, fd)
        self.calls: list[str] = []
        self.act = act

    def on_event(self, events: int) -> None:
        self.calls.append("event")
        self.act(self)

    def on_again(self) -> None:
        self.calls.append("again")
        self.act(self)

    def on_turn_end(self) -> None:
        self.calls.append("turn end")


def channels(turned: Turned, count: int, act: Callable[[Noting], object]) -> tuple[list[socket.socket], list[Noting]]:
    ends, made = [], []
    for _ in range(count):
        mine, fd = pair()
        made.append(Noting(turned, fd, act))
        turned.loop.add(made[-1])
        ends.append(mine)
    turned.settle()
    for channel in made:
        channel.calls.clear()
    return ends, made


def close_all(turned: Turned, ends: list[socket.socket], made: list[Noting]) -> None:
    for mine in ends:
        mine.close()
    for channel in made:
        channel.close()
    turned.loop.bury()
    assert turned.loop.channels == set()


def test_an_edge_is_told_once_and_again_when_something_new_came() -> None:
    turned = Turned()
    ends, made = channels(turned, 1, lambda channel: None)
    ends[0].sendall(b"x")
    turned.settle()
    assert made[0].calls == ["event"]
    ends[0].sendall(b"y")
    turned.settle()
    assert made[0].calls == ["event"] * 2
    close_all(turned, ends, made)


def test_a_level_is_told_until_it_is_gone() -> None:
    turned = Turned()
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    channel = Noting(turned, adopt(listener))
    turned.loop.add(channel, False)
    with socket.create_connection(address):
        for _ in range(3):
            select.select([turned.loop.poller.fileno()], [], [], 1)
            turned.turn()
        assert channel.calls == ["event"] * 3
        turned.loop.remove(channel)
        turned.turn()
        assert channel.calls == ["event"] * 3
        turned.loop.add(channel, False)
        turned.turn()
        assert channel.calls == ["event"] * 4
    channel.close()
    turned.loop.bury()


def test_a_fault_is_reported_and_everybody_else_is_served() -> None:
    turned = Turned()
    faulty: list[Noting] = []

    def act(channel: Noting) -> None:
        if channel in faulty:
            raise RuntimeError("a fault")

    ends, made = channels(turned, 5, act)
    faulty += [made[0], made[3]]
    for mine in ends:
        mine.sendall(b"x")
    turned.settle()
    assert [channel.calls for channel in made] == [["event"]] * 5
    assert set(turned.failed) == set(faulty)
    close_all(turned, ends, made)


def test_a_fault_in_reporting_a_fault_stays_inside_too() -> None:
    turned = Turned()

    def report(channel: Channel) -> None:
        raise RuntimeError("a fault of the report")

    def act(channel: Noting) -> None:
        if channel.calls[-1] == "again" or channel is made[0]:
            raise RuntimeError("a fault")

    made: list[Noting] = []
    ends, found = channels(turned, 3, lambda channel: None)
    made += found
    for channel in made:
        channel.act = act
    turned.loop.on_error = report
    for mine in ends:
        mine.sendall(b"x")
    turned.loop.again(made[1])
    turned.settle()
    assert [channel.calls for channel in made] == [["event"], ["again", "event"], ["event"]]
    close_all(turned, ends, made)


def test_again_means_once_in_the_next_turn() -> None:
    turned = Turned()
    ends, made = channels(turned, 2, lambda channel: None)
    for _ in range(5):
        turned.loop.again(made[0])
    turned.turn()
    assert made[0].calls == ["again"]
    turned.turn()
    assert made[0].calls == ["again"]
    close_all(turned, ends, made)


def test_a_turn_waits_only_when_nothing_is_left_to_do() -> None:
    turned = Turned()
    ends, made = channels(turned, 1, lambda channel: None)
    turned.settle()

    def waited(before: Callable[[], object]) -> bool:
        before()
        began = time.monotonic()
        turned.loop.turn(0.15)
        return time.monotonic() - began > 0.1

    # The ring of a loop that an earlier test let go of may end one wait, as a signal does.
    assert any(waited(lambda: None) for _ in range(3))
    assert not waited(lambda: turned.loop.again(made[0])), "work for the next turn"
    assert not waited(lambda: turned.loop.later(made[0])), "something to send"
    assert not waited(lambda: ends[0].sendall(b"x")), "an event"
    assert not waited(lambda: made[0].close()), "a descriptor to close"
    turned.turn()
    ends[0].close()


def test_a_channel_that_always_has_more_leaves_room_for_others() -> None:
    turned = Turned()
    ends, made = channels(turned, 2, lambda channel: None)
    made[0].act = lambda channel: channel.loop.again(channel)
    ends[0].sendall(b"x")
    select.select([turned.loop.poller.fileno()], [], [], 1)
    turned.turn()
    ends[1].sendall(b"x")
    turned.turn(10)
    assert made[1].calls == ["event"]
    assert made[0].calls == ["event"] + ["again"] * 10
    made[0].act = lambda channel: None
    close_all(turned, ends, made)


def test_later_means_once_at_the_end_of_the_turn() -> None:
    turned = Turned()

    def act(channel: Noting) -> None:
        channel.loop.later(channel)
        channel.loop.later(channel)

    ends, made = channels(turned, 2, act)
    for mine in ends:
        mine.sendall(b"x")
    turned.settle()
    assert [channel.calls for channel in made] == [["event", "turn end"]] * 2
    turned.loop.later(made[0])
    turned.turn()
    assert made[0].calls[-1] == "turn end"
    close_all(turned, ends, made)


def test_a_channel_closed_by_another_is_not_called_again() -> None:
    """Both are ready in one batch; whoever comes first closes the other, whose event is left over."""
    turned = Turned()
    ends, made = channels(turned, 2, lambda channel: None)

    def act(channel: Noting) -> None:
        other = made[1 - made.index(channel)]
        other.close()
        other.close()
        channel.loop.again(other)

    for channel in made:
        channel.act = act
    for mine in ends:
        mine.sendall(b"x")
    while not all(select.select([channel.fd], [], [], 1)[0] for channel in made):
        pass
    turned.turn()
    turned.turn()
    assert sorted(channel.calls for channel in made) == [[], ["event"]]
    close_all(turned, ends, [channel for channel in made if not channel.closed])


def test_a_descriptor_is_closed_after_the_turn_and_its_number_may_come_back() -> None:
    turned = Turned()
    ends, made = channels(turned, 1, lambda channel: channel.close())
    number = made[0].fd
    ends[0].sendall(b"x")
    turned.settle()
    with pytest.raises(OSError):
        os.fstat(number)
    assert made[0] not in turned.loop.channels
    mine, fd = pair()
    late = Noting(turned, fd)
    turned.loop.add(late)
    made[0].close()
    turned.loop.bury()
    mine.sendall(b"y")
    turned.settle()
    assert late.calls and not made[0].calls[1:]
    close_all(turned, [*ends, mine], [late])


def test_abort_resets_and_close_ends() -> None:
    turned = Turned()
    ends, made = channels(turned, 2, lambda channel: None)
    made[0].abort()
    made[1].close()
    made[1].abort()  # too late: it is closed
    turned.turn()
    with pytest.raises(ConnectionResetError):
        ends[0].recv(1)
    assert ends[1].recv(1) == b""
    close_all(turned, ends, [])


def test_a_refused_descriptor_is_an_error() -> None:
    turned = Turned()
    with open("/dev/null") as file, pytest.raises(OSError):
        turned.loop.add(Noting(turned, file.fileno()))
    assert turned.loop.channels == set()


def test_the_build_is_the_one_that_was_asked_for() -> None:
    """PUERTA_PURE=1 gives the sources; without it the extension, wherever it was built."""
    pure = os.environ.get("PUERTA_PURE", "") not in ("", "0")
    assert not (pure and native.COMPILED)


def test_held_channels_are_released_in_a_moment_whatever_else_happens() -> None:
    turned = Turned()

    class Held(Noting):
        def on_released(self) -> None:
            self.calls.append("released")

    mine, fd = pair()
    channel = Held(turned, fd)
    turned.loop.add(channel)
    turned.settle()
    channel.calls.clear()
    turned.turn()
    turned.loop.hold(channel)
    turned.loop.end_turn()
    assert channel.calls == []
    began = time.monotonic()
    while not channel.calls:
        turned.loop.turn(5.0)
    assert channel.calls == ["released"] and time.monotonic() - began < 0.1
    turned.loop.hold(channel)
    close_all(turned, [mine], [channel])
    turned.loop.turn(0.01)
    assert channel.calls == ["released"], "a closed one is left alone"


def test_what_comes_while_something_is_to_be_sent_is_handled_in_the_same_turn() -> None:
    turned = Turned()
    ends: list[socket.socket] = []

    def act(channel: Noting) -> None:
        if channel is made[0]:
            ends[1].sendall(b"x")
            channel.loop.later(channel)

    ends, made = channels(turned, 2, act)
    turned.settle()
    for channel in made:
        channel.calls.clear()
    ends[0].sendall(b"x")
    select.select([turned.loop.poller.fileno()], [], [], 1)
    turned.turn()
    assert [channel.calls for channel in made] == [["event", "turn end"], ["event"]]
    close_all(turned, ends, made)
