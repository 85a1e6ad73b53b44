"""Reaching a backend: refused, dropped and hung connects, and what the client sees of them."""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from puerta.protocol.identity import affinity_key
from puerta.proxy.balance import rendezvous
from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import Backend, clogged, echo, ended, hello, receive, reset

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
        self.address: str = f"127.0.0.1:{self.listener.getsockname()[1]}"


@dataclass
class Bench:
    """A server with a route for each test of this module, and what stands behind them."""

    front: Front
    holes: list[Hole]
    gone: list[Backend]
    row: list[Backend]
    good: Backend


@pytest.fixture(scope="module")
def bench(backend: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("dialling")
    holes, gone, good = [Hole() for _ in range(5)], [backend(), backend()], backend(echo)
    row = [backend(path=str(directory / f"{number}.sock")) for number in range(60)]
    never = backend()
    never.drop()
    budget = {"limits": {"connect_timeout": "800ms"}}
    routes = [
        route("good", good),
        route("dropped", holes[0], good, **budget),
        route("holes", holes[1], holes[2], **budget),
        route("hung", holes[3]),
        route("left", holes[4], **budget),
        route("gone", *gone, mode="mongodb"),
        route("never", never, mode="mongodb", health={"fall": 1}),
        route("row", *row, affinity={"by": "none"}),
        route("rude", backend(reset)),
    ]
    with Front(directory / "server", *routes) as front:
        yield Bench(front, holes, gone, row, good)


def talk(front: Front, name: str, source: str = "") -> str:
    """One client that is answered; returns its address as logged."""
    with front.connect(name, b"hello", source) as client:
        assert receive(client, 5) == b"hello"
        return named(client)


def test_a_refused_connect_goes_to_the_next_backend_and_stays_there(backend: Make, tmp_path: Path) -> None:
    one, two = backend(echo), backend(echo)
    with Front(tmp_path, route("echo", one, two), workers=2) as front:

        def homes(count: int, source: str) -> set[str]:
            names = [talk(front, "echo", source) for _ in range(count)]
            return {front.access(name)["backend"] for name in names}

        source = source_of(one.address, two.address)
        assert homes(1, source) == {one.address}
        one.drop()
        assert homes(10, source) == {two.address}
        assert front.route("echo")["backends"][0]["connect_failures_total"] >= 1
        one.listen()
        time.sleep(SUSPECT + 0.2)
        assert homes(10, source) == {two.address}, "the client went back"
        assert homes(1, source_of(one.address, two.address, skip=1)) == {one.address}


def test_a_dropped_connect_goes_to_the_next_backend_within_the_budget(bench: Bench) -> None:
    hole, good, front = bench.holes[0], bench.good, bench.front
    with clogged(hole.listener):
        began = time.monotonic()
        line = front.access(talk(front, "dropped", source_of(hole.address, good.address)))
        assert 0.3 < time.monotonic() - began < 2.0
        assert line["backend"] == good.address
        began = time.monotonic()
        talk(front, "dropped", source_of(hole.address, good.address, skip=1))
        assert time.monotonic() - began < 0.35, "the next client ran into the same backend"


def test_a_client_of_unreachable_backends_alone_is_closed_within_the_budget(bench: Bench) -> None:
    with clogged(bench.holes[1].listener), clogged(bench.holes[2].listener):
        began = time.monotonic()
        with bench.front.connect("holes", b"hello") as client:
            name = named(client)
            ended(client)
        assert 0.7 < time.monotonic() - began < 2.0
    line = bench.front.access(name)
    assert (line["close_reason"], line["bytes_out"], line["connect_ms"]) == ("connect_failed", 0, None)


def test_a_hung_backend_does_not_delay_other_clients(bench: Bench) -> None:
    with clogged(bench.holes[3].listener):
        waiting = [bench.front.connect("hung", b"hello") for _ in range(100)]
        began = time.monotonic()
        for _ in range(20):
            talk(bench.front, "good")
        assert time.monotonic() - began < 1.0
        for client in waiting:
            reset(client)


def test_with_all_backends_gone_clients_are_closed_before_an_answer_and_served_again_later(bench: Bench) -> None:
    front, backends = bench.front, bench.gone
    for each in backends:
        each.drop()
    names = []
    for _ in range(20):
        with front.connect("gone", hello()) as client:
            began = time.monotonic()
            ended(client)
            assert time.monotonic() - began < 1.0
            names.append(named(client))
    lines = [front.access(name) for name in names]
    assert {line["close_reason"] for line in lines} <= {"connect_failed", "no_backend"}
    assert {line["bytes_out"] for line in lines} == {0}
    backends[0].script = lambda upstream: upstream.sendall(b"!")
    backends[0].listen()

    def served() -> bool:
        with front.connect("gone", hello()) as client, contextlib.suppress(ConnectionError):
            return client.recv(1) == b"!"
        return False

    wait_for(served, "the backend is used again")
    assert front.quiet("gone")["backends"][1]["connections_total"] == 0


def test_backends_that_were_never_up_are_not_even_tried(bench: Bench) -> None:
    with bench.front.connect("never", hello()) as client:
        name = named(client)
        ended(client)
    assert bench.front.access(name)["close_reason"] == "no_backend"
    assert bench.front.route("never")["backends"][0]["connect_failures_total"] == 0


def test_a_long_row_of_refusals_ends(bench: Bench) -> None:
    """Unix sockets refuse at once, in the middle of the call: that must not nest, nor go on for every backend there is."""
    for each in bench.row:
        each.drop()
    with bench.front.connect("row", b"hello") as client:
        name, began = named(client), time.monotonic()
        ended(client)
        assert time.monotonic() - began < 2.0
    assert bench.front.access(name)["close_reason"] == "connect_failed"
    failures = sum(each["connect_failures_total"] for each in bench.front.route("row")["backends"])
    assert 3 <= failures <= 32


def test_clients_that_leave_while_their_backend_is_dialled_leave_nothing(bench: Bench) -> None:
    front = bench.front
    with clogged(bench.holes[4].listener):
        for number in range(20):
            client = front.connect("left", b"hello")
            (reset if number % 2 else socket.socket.close)(client)
        assert front.quiet("left")["backends"][0]["connections"] == 0


def test_a_backend_that_accepts_and_resets_at_once(bench: Bench) -> None:
    with bench.front.connect("rude", b"hello") as client:
        ended(client)
    assert bench.front.quiet("rude")["backends"][0]["connections"] == 0
