"""Once two sockets are joined: ends, resets, slow readers, and every byte as it was."""

import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import (
    OP_COMPRESSED,
    Backend,
    SpeaksFirst,
    echo,
    ended,
    hello,
    message,
    op_msg,
    receive,
    receive_all,
    reset,
    say_all,
)

pytestmark = pytest.mark.dataplane

MIB = 1 << 20


def send_seed(sock: socket.socket) -> None:
    """Answer with as many random bytes as the client asks for, while taking all that it sends; end when it ended."""
    size, seed = struct.unpack("<QQ", receive(sock, 16))
    data = random.Random(seed).randbytes(size)
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    digest = hashlib.sha256()
    while piece := sock.recv(1 << 18):
        digest.update(piece)
    sender.join()
    sock.sendall(digest.digest())


@pytest.fixture(scope="module")
def held(backend: Make) -> Backend:
    """Its connections are the test's."""
    return backend()


@pytest.fixture(scope="module")
def front(backend: Make, held: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    routes = [
        route("held", held),
        route("echo", backend(echo)),
        route("seeded", backend(send_seed)),
        route("banner", backend(lambda sock: sock.sendall(b"220 ready\r\n"), kind=SpeaksFirst)),
        route("mongo", held, mode="mongodb"),
    ]
    with Front(tmp_path_factory.mktemp("relaying"), *routes) as running:
        yield running


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_clients_half_close_is_passed_on_and_the_reply_still_comes(front: Front, held: Backend) -> None:
    with front.connect("held", b"request") as client, held.take() as upstream:
        name = named(client)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(upstream) == b"request"
        upstream.sendall(b"reply" * 1000)
        upstream.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"reply" * 1000
        line = front.access(name)
    assert line["close_reason"] == "client_closed"
    assert (line["bytes_in"], line["bytes_out"]) == (7, 5000)


def test_an_end_right_behind_the_first_bytes_is_passed_on(front: Front, held: Backend) -> None:
    for _ in range(20):
        with front.connect("held", b"request") as client:
            client.shutdown(socket.SHUT_WR)
            with held.take() as upstream:
                assert receive_all(upstream) == b"request"


def test_a_backends_half_close_is_passed_on_and_the_client_may_go_on(front: Front, held: Backend) -> None:
    with front.connect("held", b"request") as client, held.take() as upstream:
        name = named(client)
        upstream.sendall(b"last words")
        upstream.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"last words"
        client.sendall(b" and more")
        assert receive(upstream, 16) == b"request and more"
        client.shutdown(socket.SHUT_WR)
        assert receive_all(upstream) == b""
        assert front.access(name)["close_reason"] == "backend_closed"


def test_what_a_backend_sent_before_it_closed_reaches_a_slow_client_whole(front: Front, held: Backend) -> None:
    data = os.urandom(8 * MIB)
    with front.connect("held", b"go") as client, held.take() as upstream:
        receive(upstream, 2)
        sender = threading.Thread(target=say_all, args=(upstream, data))
        sender.start()
        time.sleep(0.2)
        assert receive_all(client) == data
        sender.join()


def test_what_a_client_sent_before_it_closed_reaches_the_backend_whole(front: Front, held: Backend) -> None:
    data = os.urandom(8 * MIB)
    client = front.connect("held", b"!")

    def say_and_leave() -> None:
        client.sendall(data)
        client.close()

    with held.take() as upstream:
        sender = threading.Thread(target=say_and_leave)
        sender.start()
        time.sleep(0.2)
        assert receive_all(upstream) == b"!" + data
        sender.join()


def test_a_backend_that_speaks_first_is_heard(front: Front) -> None:
    with front.connect("banner") as client:
        assert receive_all(client) == b"220 ready\r\n"


# -- resets ------------------------------------------------------------------------------------------------------------


def test_a_clients_reset_resets_the_backend(front: Front, held: Backend) -> None:
    before = front.route("held")["closed"]["client_reset"]
    client = front.connect("held", b"x")
    name = named(client)
    with held.take() as upstream:
        reset(client)
        assert ended(upstream) == "reset"
    assert front.access(name)["close_reason"] == "client_reset"
    front.counted("held", client_reset=before + 1)


def test_a_clients_reset_is_noticed_while_its_reply_waits(front: Front, held: Backend) -> None:
    client = front.connect("held", b"x")
    with held.take() as upstream:
        stuff(upstream)
        reset(client)
        upstream.settimeout(10)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                upstream.sendall(bytes(MIB))


def test_a_backends_reset_resets_the_client(front: Front, held: Backend) -> None:
    with front.connect("held", b"x") as client:
        name = named(client)
        upstream = held.take()
        receive(upstream, 1)
        reset(upstream)
        assert ended(client) == "reset"
        assert front.access(name)["close_reason"] == "backend_reset"


def test_a_reset_after_half_a_close_is_still_noticed(front: Front, held: Backend) -> None:
    with front.connect("held", b"x") as client:
        name = named(client)
        upstream = held.take()
        client.shutdown(socket.SHUT_WR)
        assert receive_all(upstream) == b"x"
        reset(upstream)
        assert ended(client) == "reset"
        assert front.access(name)["close_reason"] == "backend_reset"


def test_a_thousand_resets_cost_a_line_each_and_leave_nothing(front: Front) -> None:
    for name in front.routes:
        front.quiet(name)  # and every line about it is written
    lines, total = len(front.lines()), front.route("echo")["connections_total"]
    for _ in range(1000):
        client = front.connect("echo", b"x")
        reset(client)
    wait_for(lambda: front.route("echo")["connections_total"] >= total + 1000, "all were counted")
    status = front.quiet("echo")
    assert status["connections_total"] == total + 1000
    assert status["backends"][0]["connections"] == 0
    wait_for(lambda: len(front.lines()) >= lines + 1000, "all were logged")
    assert len(front.lines()) == lines + 1000
    assert {line["close_reason"] for line in front.accesses("echo")} <= {
        "client_reset",
        "client_closed",
        "backend_reset",
    }


def test_a_backend_that_dies_in_a_reply_ends_the_client_and_nobody_answers_for_it(front: Front, held: Backend) -> None:
    served = held.served
    request, answer = op_msg({"find": "things", "$db": "test"}), op_msg({"ok": 1, "cursor": {"firstBatch": [0] * 100}})
    with front.connect("mongo", hello() + request) as client:
        with held.take() as upstream:
            assert receive(upstream, len(hello() + request)) == hello() + request
            upstream.sendall(answer[: len(answer) // 2])
        assert receive_all(client) == answer[: len(answer) // 2]
        assert held.served == served + 1
    assert held.waiting.empty()


# -- slow readers ------------------------------------------------------------------------------------------------------


def stuff(sock: socket.socket) -> int:
    """Send until nobody takes more; returns the bytes."""
    sent = 0
    sock.settimeout(0.5)
    try:
        while True:
            sent += sock.send(bytes(MIB))
    except TimeoutError:
        return sent


def test_a_slow_reader_costs_no_memory_and_holds_up_nobody(front: Front, held: Backend) -> None:
    data = random.Random(5).randbytes(48 * MIB)
    with front.connect("held", b"x") as client, held.take() as upstream:
        receive(upstream, 1)
        before = front.memory()
        sent = threading.Event()

        def send_it() -> None:
            upstream.sendall(data)
            sent.set()

        sender = threading.Thread(target=send_it)
        sender.start()
        assert not sent.wait(0.5), "the backend was not held back"
        assert front.memory() - before < 2 * MIB
        client.sendall(b"the other direction")
        assert receive(upstream, 19) == b"the other direction"
        with front.connect("echo", b"another client") as other:
            assert receive(other, 14) == b"another client"
        used = front.cpu()
        time.sleep(0.5)
        assert front.cpu() - used < 0.2, "waiting for the reader keeps the worker busy"
        assert receive(client, len(data)) == data
        sender.join()


def test_many_slow_readers_cost_a_buffer_each(front: Front, held: Backend) -> None:
    """20 readers hold at most `limits.buffer` (512 KiB) each."""
    before = front.memory()
    pairs = []
    for _ in range(20):
        client = front.connect("held", b"x")
        pairs.append((client, held.take()))
    for _, upstream in pairs:
        upstream.settimeout(0)
        with pytest.raises(BlockingIOError):
            while True:
                upstream.send(bytes(4 * MIB))
                time.sleep(0.002)
    time.sleep(0.2)
    assert front.memory() - before < 20 * (512 << 10) + 3 * MIB
    for sock in sum(pairs, ()):
        reset(sock)


# -- exactness ---------------------------------------------------------------------------------------------------------


def exchange(front: Front, size: int, seed: int) -> None:
    """`size` random bytes in each direction at the same time, through the route "seeded"."""
    with front.connect("seeded", struct.pack("<QQ", size, seed)) as client:
        client.settimeout(60)
        mine = random.Random(seed + 1).randbytes(size)
        sender = threading.Thread(target=say_all, args=(client, mine))
        sender.start()
        assert (
            hashlib.sha256(receive(client, size)).digest()
            == hashlib.sha256(random.Random(seed).randbytes(size)).digest()
        )
        assert receive_all(client) == hashlib.sha256(mine).digest()
        sender.join()


def test_64_mib_both_ways(front: Front) -> None:
    exchange(front, 64 * MIB, 7)


def test_200_connections_at_once(front: Front) -> None:
    failures: list[BaseException] = []

    def one(seed: int) -> None:
        try:
            exchange(front, 20_000 + 937 * seed, seed)
        except BaseException as failure:
            failures.append(failure)

    before = front.quiet("seeded")
    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    moved = sum(20_000 + 937 * seed for seed in range(200))

    def counted() -> tuple[int, ...]:
        after = front.quiet("seeded")
        return tuple(after[name] - before[name] for name in ("connections_total", "bytes_in", "bytes_out"))

    wait_for(lambda: counted() == (200, moved + 200 * 16, moved + 200 * 32), "everything was counted")


def test_wire_messages_of_any_kind_pass_unchanged(front: Front, held: Backend) -> None:
    """Unacknowledged writes (moreToCome), exhaust replies without a request each, compressed messages, unknown operations."""
    dice = random.Random(36)
    messages = [
        op_msg({"insert": "c", "$db": "d"}, flags=0x2),
        op_msg({"getMore": 1, "$db": "d"}, flags=0x10000),
        *(message(OP_COMPRESSED, struct.pack("<iiB", 2013, 900, kind) + dice.randbytes(700)) for kind in range(4)),
        message(2999, dice.randbytes(100_000)),
        message(2013, b""),
    ]
    with front.connect("mongo", hello("exact")) as client, held.take() as upstream:
        assert receive(upstream, len(hello("exact"))) == hello("exact")
        for data in messages:
            client.sendall(data)
            assert receive(upstream, len(data)) == data
        for data in messages:
            upstream.sendall(data)
        assert receive(client, sum(map(len, messages))) == b"".join(messages)


@pytest.mark.parametrize("size", [1, 2, 65535, 65536, 65537, 131072, 524288, 524289])
def test_sizes_at_the_edges_of_a_read(front: Front, size: int) -> None:
    data = os.urandom(size)
    with front.connect("echo") as client:
        threading.Thread(target=client.sendall, args=(data,)).start()
        assert receive(client, size) == data
        client.sendall(b"on")
        assert receive(client, 2) == b"on"
