"""Bounds: idle connections, too many connections, no descriptors left, and peers that vanish."""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import Backend, echo, ended, hello, receive

pytestmark = pytest.mark.dataplane

PERIOD = 0.3
"""Seconds between two bytes of a connection that is in use; its idle timeout is longer."""

KEEPALIVE = 2
"""The kernel's number of the keepalive timer."""

KEEPALIVE_SECONDS = 120


@pytest.fixture(scope="module")
def held(backend: Make) -> Backend:
    return backend()


@pytest.fixture(scope="module")
def front(backend: Make, held: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    routes = [
        route("idle", held, limits={"idle_timeout": "1s"}),
        route("patient", held),
        route("mongo", held, mode="mongodb", limits={"connections": 5}),
        route("echo", backend(echo)),
    ]
    with Front(tmp_path_factory.mktemp("limits"), *routes) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def old(front: Front, held: Backend) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from the first test on."""
    with front.connect("patient", b"x") as client, held.take() as upstream:
        receive(upstream, 1)
        yield client, upstream


# -- idle --------------------------------------------------------------------------------------------------------------


def test_only_a_connection_without_a_byte_in_both_directions_is_idle(front: Front, held: Backend) -> None:
    began = time.monotonic()
    with (
        front.connect("idle", b"x") as down, held.take() as down_source,
        front.connect("idle", b"x") as up, held.take() as up_sink,
        front.connect("idle", b"x") as quiet, held.take() as quiet_upstream,
        front.connect("patient", b"x") as patient, held.take() as patient_upstream,
        front.connect("idle", b"x") as slow, held.take() as slow_source,
    ):  # fmt: skip
        name = named(quiet)
        sender = threading.Thread(target=slow_source.sendall, args=(bytes(14 << 20),))
        sender.start()
        for _ in range(round(2.7 / PERIOD)):
            time.sleep(PERIOD)
            down_source.sendall(b"y")
            up.sendall(b"y")
            receive(slow, 1 << 20)
        receive(slow, 5 << 20)
        sender.join()
        assert front.access(name)["close_reason"] == "idle_timeout"
        assert 1.0 < front.access(name)["duration_ms"] / 1000 < time.monotonic() - began
        assert ended(quiet) == "end"
        assert ended(quiet_upstream) == "end"
        assert receive(down, 9) == b"y" * 9
        assert receive(up_sink, 10) == b"x" + b"y" * 9
        patient.sendall(b"y")
        assert receive(patient_upstream, 2) == b"xy"
    front.counted("idle", idle_timeout=1)
    front.counted("patient", idle_timeout=0)


def timers(port: int) -> dict[int, tuple[int, float]]:
    """Peer's port → (timer, seconds until it fires) of the TCP connections that this port has here."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(end.rpartition(":")[2], 16) for end in fields[1:3])
        timer, _, when = fields[5].partition(":")
        if local == port and fields[3] == "01":
            found[remote] = int(timer, 16), int(when, 16) / 100
    return found


def test_small_writes_are_not_held_back_on_either_side(front: Front) -> None:
    """Two small writes in a row: with Nagle's algorithm the second would wait for a delayed acknowledgement, 40 ms."""
    with front.connect("echo") as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"a")
        receive(client, 1)
        began = time.monotonic()
        for _ in range(50):
            client.sendall(b"a")
            time.sleep(0.0005)
            client.sendall(b"b")
            receive(client, 2)
        assert time.monotonic() - began < 50 * 0.03


# -- too many ----------------------------------------------------------------------------------------------------------


def test_one_client_too_many_is_closed_at_once_and_counted(front: Front, held: Backend) -> None:
    before, total = held.served, front.route("mongo")["connections_total"]
    pairs = [(front.connect("mongo", hello()), held.take()) for _ in range(5)]
    for _ in range(3):
        with front.connect("mongo", hello()) as client:
            began = time.monotonic()
            ended(client)
            assert time.monotonic() - began < 1.0
    front.counted("mongo", limit=3)
    assert front.route("mongo")["connections"] == 5
    assert front.route("mongo")["connections_total"] == total + 8
    assert held.served == before + 5
    client, upstream = pairs.pop()
    client.close()
    with upstream:
        assert ended(upstream) == "end"
    wait_for(lambda: front.route("mongo")["connections"] == 4, "one has gone")
    with front.connect("mongo", hello()), held.take() as upstream:
        assert receive(upstream, len(hello())) == hello()
    for sock in sum(pairs, ()):
        sock.close()


def test_the_limit_counts_over_all_workers(backend: Make, tmp_path: Path) -> None:
    both = route("mongo", backend(), mode="mongodb", limits={"connections": 10})
    with Front(tmp_path, both, workers=2) as front, contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(front.connect("mongo", hello()))
        wait_for(lambda: front.route("mongo")["connections"] == 10, "ten are in")
        time.sleep(0.3)
        for _ in range(20):
            ended(stack.enter_context(front.connect("mongo", hello())))
        front.counted("mongo", limit=20)


# -- descriptors -------------------------------------------------------------------------------------------------------


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """Let that process open nothing more."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_accepting_pauses_and_goes_on_later(front: Front) -> None:
    worker = front.worker(0)
    with front.connect("echo", b"old") as old:
        assert receive(old, 3) == b"old"
        with no_descriptors(worker):
            waiting = [front.connect("echo", b"new") for _ in range(10)]
            used = front.cpu()
            time.sleep(1.0)
            assert front.cpu() - used < 0.3, "the worker spins"
            old.sendall(b"still served")
            assert receive(old, 12) == b"still served"
            complaints = [line for line in front.lines() if "cannot accept" in line.get("message", "")]
            assert 1 <= len(complaints) <= 3
        for client in waiting:
            assert receive(client, 3) == b"new"
            client.close()
    assert front.worker(0) == worker


def test_a_connect_that_finds_no_descriptor_is_not_the_backends_fault(front: Front) -> None:
    failures = front.route("echo")["backends"][0]["connect_failures_total"]
    worker = front.worker(0)
    soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (descriptors(worker) + 1, hard))
    try:
        with front.connect("echo", b"x") as client:
            name = named(client)
            ended(client)
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))
    assert front.access(name)["close_reason"] == "limit"
    assert front.route("echo")["backends"][0]["connect_failures_total"] == failures
    with front.connect("echo", b"x") as client:
        assert receive(client, 1) == b"x"


def test_a_small_limit_from_the_start_closes_whom_it_cant_serve(backend: Make, tmp_path: Path) -> None:
    front = Front(tmp_path, route("echo", backend(echo)), module="tests.proxy.launch", environ={"DESCRIPTORS": "200"})
    with front, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(front.connect("echo", b"x")) for _ in range(150)]
        answers = [ended_or(client) for client in clients]
        kept = answers.count(b"x")
        assert 20 < kept < 100
        assert set(answers[:20]) == {b"x"}
        front.counted("echo", limit=150 - kept)
        clients[0].sendall(b"more")
        assert receive(clients[0], 4) == b"more"


def ended_or(sock: socket.socket) -> bytes:
    """The next byte, b"" if there is none."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1)
    return b""


# -- peers that vanish: at the end, for young connections are spared ------------------------------------------------------


def test_both_sides_probe_a_peer_that_may_have_vanished(front: Front, old: tuple[socket.socket, socket.socket]) -> None:
    client, upstream = old

    def probed() -> list[float]:
        near = timers(front.port("patient"))[client.getsockname()[1]]
        far = timers(upstream.getpeername()[1])[upstream.getsockname()[1]]
        return [seconds for timer, seconds in (near, far) if timer == KEEPALIVE]

    assert max(wait_for(lambda: len(found := probed()) == 2 and found, "both have the timer")) <= KEEPALIVE_SECONDS
