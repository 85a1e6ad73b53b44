"""Reaching a backend: refused, dropped and hung connects, and what the client sees of them."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from puerta.protocol.identity import affinity_key
from puerta.proxy.balance import rendezvous
from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import clogged, echo, ended, hello, receive, reset

pytestmark = pytest.mark.dataplane

SUSPECT = 1.0
"""Seconds that a worker avoids a backend which refused."""


class Entry:
    """What the hash looks at."""

    share, turn, load = 1.0, 0.0, 0

    def __init__(self, id: str) -> None:
        self.id = id


def source_of(first: str, *others: str, skip: int = 0) -> str:
    """A client address whose hash names the backend `first`; another one for each `skip`."""
    for number in range(1, 60_000):
        address = f"127.1.{number >> 8}.{number & 255}"
        key = affinity_key(
            "address", address=address, application=None, server_name=None, proxy_identity=None, session_pattern=None
        )
        assert key is not None
        if rendezvous(key, [Entry(each) for each in (first, *others)]).id == first:
            if not skip:
                return address
            skip -= 1
    raise AssertionError


class Hole:
    """A listener that nobody serves: its connects succeed until its queue is full, and are dropped from then on."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Starts a server for one test."""
    started = []

    def start(*routes: dict[str, object], **options: object) -> Front:
        front = Front(tmp_path, *routes, **options)  # type: ignore[arg-type]
        front.__enter__()
        started.append(front)
        return front

    yield start
    for front in started:
        front.__exit__(None, None, None)


def talk(front: Front, name: str, source: str = "") -> str:
    """One client that is answered; returns its address as logged."""
    with front.connect(name, b"hello", source) as client:
        assert receive(client, 5) == b"hello"
        return named(client)


def test_a_refused_connect_goes_to_the_next_backend_and_stays_there(lone: Callable[..., Front], backend: Make) -> None:
    one, two = backend(echo), backend(echo)
    front = lone(route("echo", one, two), workers=2)
    source = source_of(one.address, two.address)
    assert front.access(talk(front, "echo", source))["backend"] == one.address
    one.drop()
    names = [talk(front, "echo", source) for _ in range(10)]
    assert {front.access(name)["backend"] for name in names} == {two.address}
    assert front.route("echo")["backends"][0]["connect_failures_total"] >= 1
    one.listen()
    time.sleep(SUSPECT + 0.2)
    names = [talk(front, "echo", source) for _ in range(10)]
    assert {front.access(name)["backend"] for name in names} == {two.address}
    assert front.access(talk(front, "echo", source_of(one.address, two.address, skip=1)))["backend"] == one.address


def test_a_dropped_connect_goes_to_the_next_backend_within_the_budget(
    lone: Callable[..., Front], backend: Make
) -> None:
    hole, good = Hole(), backend(echo)
    front = lone(route("echo", hole, good, limits={"connect_timeout": "800ms"}))
    with clogged(hole.listener):
        began = time.monotonic()
        line = front.access(talk(front, "echo", source_of(hole.address, good.address)))
        assert 0.3 < time.monotonic() - began < 2.0
        assert line["backend"] == good.address
        began = time.monotonic()
        talk(front, "echo", source_of(hole.address, good.address, skip=1))
        assert time.monotonic() - began < 0.3, "the next client ran into the same backend"


def test_a_client_of_unreachable_backends_alone_is_closed_within_the_budget(lone: Callable[..., Front]) -> None:
    holes = [Hole(), Hole()]
    front = lone(route("echo", *holes, limits={"connect_timeout": "600ms"}))
    with clogged(holes[0].listener), clogged(holes[1].listener):
        began = time.monotonic()
        with front.connect("echo", b"hello") as client:
            name = named(client)
            ended(client)
        assert 0.5 < time.monotonic() - began < 2.0
    line = front.access(name)
    assert (line["close_reason"], line["bytes_out"], line["connect_ms"]) == ("connect_failed", 0, None)


def test_a_hung_backend_does_not_delay_other_clients(lone: Callable[..., Front], backend: Make) -> None:
    hole, good = Hole(), backend(echo)
    front = lone(route("hole", hole), route("good", good))
    with clogged(hole.listener):
        waiting = [front.connect("hole", b"hello") for _ in range(100)]
        began = time.monotonic()
        for _ in range(20):
            talk(front, "good")
        assert time.monotonic() - began < 1.0
        for client in waiting:
            reset(client)


def test_with_all_backends_gone_clients_are_closed_before_an_answer_and_served_again_later(
    lone: Callable[..., Front], backend: Make
) -> None:
    backends = [backend(), backend()]
    front = lone(route("mongo", *backends, mode="mongodb"))
    for each in backends:
        each.drop()
    for _ in range(20):
        with front.connect("mongo", hello()) as client:
            name, began = named(client), time.monotonic()
            ended(client)
            assert time.monotonic() - began < 1.0
        line = front.access(name)
        assert line["close_reason"] in ("connect_failed", "no_backend")
        assert line["bytes_out"] == 0
    backends[0].script = lambda upstream: upstream.sendall(b"!")
    backends[0].listen()

    def served() -> bool:
        with front.connect("mongo", hello()) as client, contextlib.suppress(ConnectionError):
            return client.recv(1) == b"!"
        return False

    wait_for(served, "the backend is used again")
    assert front.quiet("mongo")["backends"][1]["connections_total"] == 0


def test_backends_that_were_never_up_are_not_even_tried(lone: Callable[..., Front], backend: Make) -> None:
    gone = backend()
    gone.drop()
    front = lone(route("mongo", gone, mode="mongodb", health={"fall": 1}))
    with front.connect("mongo", hello()) as client:
        name = named(client)
        ended(client)
    assert front.access(name)["close_reason"] == "no_backend"
    assert front.route("mongo")["backends"][0]["connect_failures_total"] == 0


def test_a_long_row_of_refusals_ends(lone: Callable[..., Front], backend: Make, tmp_path: Path) -> None:
    """Unix sockets refuse at once, in the middle of the call: that must not nest, nor go on for every backend there is."""
    backends = [backend(path=str(tmp_path / f"{number}.sock")) for number in range(60)]
    front = lone(route("many", *backends, affinity={"by": "none"}))
    for each in backends:
        each.drop()
    with front.connect("many", b"hello") as client:
        name, began = named(client), time.monotonic()
        ended(client)
        assert time.monotonic() - began < 2.0
    assert front.access(name)["close_reason"] == "connect_failed"
    failures = sum(each["connect_failures_total"] for each in front.route("many")["backends"])
    assert 3 <= failures <= 32


def test_clients_that_leave_while_their_backend_is_dialled_leave_nothing(lone: Callable[..., Front]) -> None:
    hole = Hole()
    front = lone(
        route("tcp", hole, limits={"connect_timeout": "1s"}), route("mongo", hole, mode="mongodb", health={"fall": 1})
    )
    with clogged(hole.listener):
        for number in range(20):
            client = front.connect("tcp", b"hello")
            (reset if number % 2 else socket.socket.close)(client)
        front.quiet("tcp")
    assert front.route("tcp")["backends"][0]["connections"] == 0


def test_a_backend_that_accepts_and_resets_at_once(lone: Callable[..., Front], backend: Make) -> None:
    rude = backend(reset)
    front = lone(route("rude", rude))
    with front.connect("rude", b"hello") as client:
        ended(client)
    assert front.quiet("rude")["backends"][0]["connections"] == 0
