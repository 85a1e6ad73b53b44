"""Clients that cost much: they are bounded, counted and ended by the route's limits, and others notice nothing.

All routes here are one worker's, so that whoever is held up is held up by them.
"""

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.cluster import ClusterNode, ValkeyCluster
from puerta.protocol.slots import slot_of
from tests.harness import wait_for
from tests.proxy.front import Front, named
from tests.proxy.peers import PATIENCE, ended
from tests.redis.limited import KIB, MIB, SLACK, Memory, route
from tests.redis.wire import Wire, request

BUFFER = 256 * KIB
"""limits.buffer of the narrow route."""

ROOM = MIB
"""What a request may be longer than its longest argument may be (redis_session.ROOM)."""

CLIENT = 16 * KIB
"""A session and what belongs to it, without what it holds."""

TOO_LARGE = b"-ERR a part of the reply is larger than Puerta may hold (limits.buffer)\r\n"
VALUE = 64 * KIB
IDLE_MOST = 4096
SLOW = 1.0
"""Seconds that no round trip of another client may take, on a machine that does other things too."""


@pytest.fixture(scope="module")
def front(cluster: ValkeyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    routes = [
        route("open", cluster),
        route("narrow", cluster, buffer=f"{BUFFER}B"),
        route("huge", cluster, buffer="1GiB", call_timeout="300ms"),
        route("idle", cluster, idle_timeout="1s"),
        route("few", cluster, connections=3, buffer=f"{BUFFER}B"),
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    with Front(tmp_path_factory.mktemp("limits"), *routes) as running:
        yield running
        assert "Traceback" not in running.text(), running.text()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def fresh(cluster: ValkeyCluster, tmp_path: Path) -> Iterator[Front]:
    """A worker that has not served anybody, so that it has no free memory to hide what a test needs."""
    with Front(tmp_path, route("cache", cluster)) as running:
        yield running
        assert "Traceback" not in running.text(), running.text()


@pytest.fixture
def others(front: Front) -> Iterator[None]:
    """Another client, on a route of its own, that must not notice what the test does."""
    stop = threading.Event()
    slowest, rounds = 0.0, 0

    def talk() -> None:
        nonlocal slowest, rounds
        with Wire(front.port("open")) as wire:
            while not stop.is_set():
                began = time.monotonic()
                assert (
                    wire.pipeline([("SET", "others", rounds), ("GET", "others"), ("MGET", "others", "a", "b")])[0]
                    == b"+OK\r\n"
                )
                slowest, rounds = max(slowest, time.monotonic() - began), rounds + 1
                time.sleep(0.002)

    thread = threading.Thread(target=talk)
    thread.start()
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    stop.set()
    thread.join()
    print(f"others: {rounds} rounds in {seconds:.1f} s, the slowest {slowest:.3f} s")
    assert slowest < SLOW and rounds > 5 * seconds


@contextlib.contextmanager
def clients(front: Front, name: str, count: int) -> Iterator[list[socket.socket]]:
    """So many that hardly read: small segments and a small window, so that the kernel holds little for them."""
    made = []
    try:
        for _ in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", front.port(name)))
            made.append(sock)
        yield made
    finally:
        for sock in made:
            sock.close()


def closed(front: Front, name: str) -> dict[str, int]:
    return {reason: count for reason, count in front.route(name)["closed"].items() if count}


def test_500_clients_that_never_read(front: Front, others: None) -> None:
    """What they asked for is held up to the limit; beyond it they are closed."""
    with Wire(front.port("narrow")) as wire:
        assert wire.ask("SET", "large", b"x" * VALUE) == b"+OK\r\n"
    memory, bound = Memory(front, settled=True), 500 * (BUFFER + CLIENT) + SLACK
    before = closed(front, "narrow").get("output_limit", 0)
    with clients(front, "narrow", 500) as slow:
        for sock in slow:
            sock.sendall(request("GET", "large") * 3)
        memory.stays_below(bound, 1.0)
        assert memory.grown() > 500 * VALUE and front.route("narrow")["connections"] == 500
        for sock in slow:
            sock.sendall(request("GET", "large") * 13)
        memory.stays_below(bound)
        front.counted("narrow", output_limit=before + 500)
    front.quiet("narrow")
    memory.comes_back()


def test_replies_of_many_commands_that_nobody_reads(front: Front, others: None) -> None:
    """Of every way that a reply can come: forwarded, taken apart, from all masters, pinned, made here."""
    with Wire(front.port("narrow")) as wire:
        wire.pipeline([("SET", f"k{number}", b"x" * VALUE) for number in range(8)])
        wire.ask("RPUSH", "l", *[b"x" * VALUE] * 3)
    memory = Memory(front)
    asked = [
        ("MGET", *[f"k{number}" for number in range(3)]), ("KEYS", "*"), ("EVAL", "return redis.call('get', KEYS[1])", "1", "k0"),
        ("ECHO", "x" * VALUE), ("COMMAND", "DOCS"), ("INFO",), ("BLMPOP", "0.1", "1", "l", "LEFT", "COUNT", "3"),
        ("MULTI",), ("GET", "k1"), ("EXEC",),
    ]  # fmt: skip
    before = closed(front, "narrow").get("output_limit", 0)
    with clients(front, "narrow", len(asked) * 10) as slow:
        for number, sock in enumerate(slow):
            with contextlib.suppress(OSError):
                sock.sendall(b"".join(request(*command) for command in asked[number % 10 :] + asked) * 4)
        memory.stays_below(len(slow) * (2 * BUFFER + ROOM + CLIENT) + SLACK, 1.0)
        front.counted("narrow", output_limit=before + len(slow))
    front.quiet("narrow")


def test_who_reads_gets_replies_of_any_length(front: Front, others: None) -> None:
    """Longer than the limit by far, over a small window: its node waits for it, and little is held."""
    value = b"0123456789abcdef" * 300_000
    with Wire(front.port("open")) as wire:
        assert wire.ask("SET", "longest", value) == b"+OK\r\n"
    memory = Memory(front)
    wanted = b"$%d\r\n%s\r\n" % (len(value), value) + b"+PONG\r\n"
    front.quiet("few")
    with clients(front, "few", 3) as slow:
        for sock in slow:
            sock.sendall(request("GET", "longest") + request("PING"))
            received = bytearray()
            while len(received) < len(wanted):
                chunk = sock.recv(20_000)
                assert chunk, f"the end, after {len(received)} bytes"
                received += chunk
            assert received == wanted and memory.grown() < SLACK
    front.counted("few", output_limit=0)


def test_50_clients_that_read_long_values(fresh: Front) -> None:
    """All at once, three nodes send them 800 MiB: a worker needs for it less than one of the values takes."""
    size, names = 16 * MIB, [f"long{number}" for number in range(10)]
    with Wire(fresh.port("cache")) as wire:
        for name in names:
            assert wire.ask("SETRANGE", name, size - 1, "x") == b":%d\r\n" % size
    memory, wanted, bad = Memory(fresh), len(b"$%d\r\n\r\n" % size) + size, []

    def reads(number: int) -> None:
        space = memoryview(bytearray(256 * KIB))
        with Wire(fresh.port("cache")) as wire:
            wire.send(request("GET", names[number % len(names)]))
            got, end = 0, b""
            while got < wanted and (count := wire.socket.recv_into(space)):
                got += count
                end = (end + bytes(space[max(0, count - 3) : count]))[-3:]
            if (got, end) != (wanted, b"x\r\n"):
                bad.append((number, got, end))

    threads = [threading.Thread(target=reads, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.stays_below(SLACK, 0.05)
    print(f"a worker's memory grew by {(memory.most - memory.before) / MIB:.1f} MiB at the most")
    assert not bad
    with Wire(fresh.port("cache")) as wire:
        wire.pipeline([("UNLINK", name) for name in names])


def test_the_first_byte_comes_before_the_last_has_left_the_node(front: Front, cluster: ValkeyCluster) -> None:
    size = 64 * MIB
    node = cluster.master_of_slot(slot_of(b"longest"))
    with Wire(front.port("huge")) as wire, clients(front, "open", 1) as (sock,):
        assert wire.ask("SETRANGE", "longest", size - 1, "x") == b":%d\r\n" % size
        before = left(node)
        sock.sendall(request("GET", "longest"))
        got = len(sock.recv(20_000))
        time.sleep(0.2)  # nobody reads: it goes no further than it has to
        assert 0 < left(node) - before < size / 2
        space = memoryview(bytearray(256 * KIB))
        while got < size + len(b"$%d\r\n\r\n" % size):
            got += sock.recv_into(space)
        assert left(node) - before > size
        wire.ask("DEL", "longest")


def left(node: ClusterNode) -> int:
    """Bytes that a node has given to its clients' sockets."""
    return int(node.client.info("stats")["total_net_output_bytes"])


def test_an_idle_client_is_small(fresh: Front) -> None:
    """Without what the kernel holds."""
    memory = Memory(fresh)
    with clients(fresh, "cache", 4000) as idle:
        for sock in idle:
            sock.sendall(request("PING"))
            assert sock.recv(100) == b"+PONG\r\n"
        print(f"{memory.grown() / len(idle):.0f} bytes a client")
        assert memory.grown() < IDLE_MOST * len(idle)


def test_what_must_be_put_together_is_bounded(front: Front) -> None:
    """An error instead, and the client stays."""
    with Wire(front.port("narrow")) as wire:
        wire.pipeline([("SET", f"part{number}", b"x" * VALUE) for number in range(8)])
        assert wire.ask("MGET", *[f"part{number}" for number in range(8)]) == TOO_LARGE
        assert len(wire.ask("MGET", "part0", "part1", "part2")) > 3 * VALUE
        assert wire.ask("PING") == b"+PONG\r\n"


PARTIAL = b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$100\r\n"


def test_a_line_without_an_end_is_bounded(front: Front) -> None:
    """It can't be passed on as it comes, as a value can: its client goes, and when nobody waits for it, its connection."""
    memory = Memory(front, settled=True)
    before = closed(front, "narrow").get("output_limit", 0)
    for _ in range(3):
        with Wire(front.port("narrow")) as wire:
            wire.send(request("EVAL", "return redis.status_reply(string.rep('x', 24000000))", "0"))
            memory.stays_below(SLACK, 1.0)
            assert wire.rest() == b""
        with Wire(front.port("narrow")) as wire:  # what is sent before the connection is given up is lost with it
            wait_for(lambda wire=wire: wire.ask("EVAL", "return 1", "0") == b":1\r\n", "its next connection works")
    front.counted("narrow", output_limit=before + 3)
    with Wire(front.port("narrow")) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        wire.send(request("EVAL", "return redis.status_reply(string.rep('x', 100000))", "0"))
        assert wire.frame() == b"+%b\r\n" % (b"x" * 100000)


def test_2000_clients_that_send_a_byte_now_and_then(front: Front, others: None) -> None:
    memory = Memory(front)
    with clients(front, "open", 2000) as slow:
        for at in range(0, len(PARTIAL), 9):
            for sock in slow:
                sock.sendall(PARTIAL[at : at + 9])
        for _ in range(3):
            for sock in slow:
                sock.sendall(b"x")
        memory.stays_below(2000 * CLIENT + SLACK)
        assert front.route("open")["connections"] == 2001
        for sock in slow:
            sock.sendall(b"x" * 97 + b"\r\n")
        assert {sock.recv(100) for sock in slow} == {b"+OK\r\n"}
    wait_for(lambda: front.route("open")["connections"] == 1, "they have gone")
    memory.comes_back()


def test_who_only_trickles_is_idle(front: Front, others: None) -> None:
    """The time counts from the last command, not from the last byte; who sends a long one is not idle."""
    before = closed(front, "idle").get("idle_timeout", 0)
    with clients(front, "idle", 200) as slow, Wire(front.port("idle")) as busy, Wire(front.port("idle")) as waits:
        waits.send(request("BLPOP", "nobody", "0"))
        busy.send(b"*3\r\n$3\r\nSET\r\n$4\r\nlong\r\n$%d\r\n" % (16 * VALUE))
        for sock in slow:
            sock.sendall(PARTIAL)
        gone = 0
        for _ in range(16):
            time.sleep(0.15)
            busy.send(b"x" * VALUE)
            for sock in slow:
                try:
                    sock.sendall(b"x")
                except OSError:
                    gone += 1
        assert gone >= 200
        front.counted("idle", idle_timeout=before + 200)
        busy.send(b"\r\n")
        assert busy.frame() == b"+OK\r\n"
        waits.send(request("PING"))
        assert waits.quiet()


def test_who_waits_on_purpose_is_not_late(front: Front, others: None) -> None:
    """For limits.call_timeout; nor is a subscriber that hears nothing, nor a WATCH."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(front.port("huge"))) for _ in range(5)]
        asked: list[tuple[str, ...]] = [
            ("BLPOP", "{w}list", "0"), ("XREAD", "BLOCK", "0", "STREAMS", "{w}stream", "$"), ("BZPOPMIN", "{w}set", "5"),
            ("SUBSCRIBE", "w"), ("WATCH", "{w}string"),
        ]  # fmt: skip
        for wire, command in zip(wires, asked, strict=True):
            wire.send(request(*command))
        assert wires[3].frame().startswith(b"*3") and wires[4].frame() == b"+OK\r\n"
        time.sleep(1.0)
        other = stack.enter_context(Wire(front.port("huge")))
        other.pipeline([("RPUSH", "{w}list", "v"), ("XADD", "{w}stream", "*", "f", "v"), ("ZADD", "{w}set", "1", "v")])
        other.ask("PUBLISH", "w", "v")
        assert all(wire.frame()[:1] == b"*" for wire in wires[:4])
        assert wires[4].pipeline([("MULTI",), ("PING",), ("EXEC",)])[2] == b"*1\r\n+PONG\r\n"


@pytest.mark.parametrize("announced", [b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n", b"*1048576\r\n$4\r\nMGET\r\n"])
def test_what_is_announced_and_never_sent_costs_nothing(front: Front, others: None, announced: bytes) -> None:
    """Room is made for what has come."""
    memory = Memory(front)
    with clients(front, "huge", 100) as liars:
        for sock in liars:
            sock.sendall(announced + b"$1\r\nx\r\n" * 20)
        memory.stays_below(100 * CLIENT + SLACK)
        assert front.route("huge")["connections"] == 100
    front.quiet("huge")
    memory.comes_back()


def test_what_is_longer_than_the_limit_is_refused_when_it_is_announced(front: Front) -> None:
    before = closed(front, "narrow").get("protocol_error", 0)
    for name, size in (("narrow", BUFFER + 1), ("open", 64 * MIB + 1), ("huge", 512 * MIB + 1)):
        with Wire(front.port(name)) as wire:
            wire.send(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % size)
            assert wire.rest() == b"-ERR Protocol error: invalid bulk length\r\n"
    front.counted("narrow", protocol_error=before + 1)


def test_a_request_of_many_arguments_is_bounded_too(front: Front, others: None) -> None:
    memory = Memory(front)
    before = closed(front, "narrow").get("protocol_error", 0)
    with clients(front, "narrow", 20) as large:
        for sock in large:
            with contextlib.suppress(OSError):
                sock.sendall(b"*1000000\r\n$3\r\nDEL\r\n" + b"$0\r\n\r\n" * 400_000)
        memory.stays_below(20 * (BUFFER + ROOM) * 4 + SLACK)
        front.counted("narrow", protocol_error=before + 20)
    front.quiet("narrow")
    memory.comes_back()


def test_subscribers_that_never_read(front: Front, others: None) -> None:
    """They are closed, as they would miss messages; one that reads gets all."""
    memory = Memory(front)
    before = closed(front, "narrow").get("output_limit", 0)
    with clients(front, "narrow", 100) as slow, Wire(front.port("narrow")) as reads, Wire(front.port("open")) as other:
        for sock in slow:
            sock.sendall(request("SUBSCRIBE", "loud"))
        reads.ask("SUBSCRIBE", "loud")
        wait_for(lambda: other.ask("PUBSUB", "NUMSUB", "loud").endswith(b":101\r\n"), "all have subscribed")
        for number in range(16):
            other.ask("PUBLISH", "loud", b"%x" % number * VALUE)
            assert reads.frame().endswith(b"%x" % number * VALUE + b"\r\n")
        memory.stays_below(100 * (BUFFER + VALUE + CLIENT) + 2 * SLACK)
        front.counted("narrow", output_limit=before + 100)
        wait_for(lambda: other.ask("PUBSUB", "NUMSUB", "loud").endswith(b":1\r\n"), "their subscriptions are gone")
    front.quiet("narrow")
    memory.comes_back()


def test_one_client_too_many_is_closed_at_once_and_counted(front: Front) -> None:
    front.quiet("few")
    with clients(front, "few", 3) as first:
        for sock in first:
            sock.sendall(b"PING\r\n")
            assert sock.recv(100) == b"+PONG\r\n"
        with clients(front, "few", 2) as more:
            for sock in more:
                ended(sock)
        front.counted("few", limit=2)
        first[0].close()
        wait_for(lambda: front.route("few")["connections"] == 2, "one has gone")
        with clients(front, "few", 1) as (sock,):
            sock.sendall(b"PING\r\n")
            assert sock.recv(100) == b"+PONG\r\n"


def test_what_was_counted_outlives_its_worker(fresh: Front) -> None:
    with Wire(fresh.port("cache")) as wire:
        wire.pipeline([("PING",)] * 5)
    wait_for(lambda: fresh.route("cache")["commands_total"] == 5, "five commands")
    killed = fresh.worker(0)
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: fresh.workers().get(0, [killed]) != [killed] and fresh.serves("cache"), "another worker")
    with Wire(fresh.port("cache")) as wire:
        wire.pipeline([("PING",)] * 3)
        assert b"commands_in_this_worker:3\r\n" in wire.ask("INFO")
    wait_for(lambda: fresh.route("cache")["commands_total"] == 9, "nine commands")


def test_every_end_has_a_line_that_says_why(front: Front) -> None:
    ends = {"client_closed": b"PING\r\n", "protocol_error": b"*x\r\n", "quit": b"QUIT\r\n"}
    for reason, data in ends.items():
        sock = front.connect("open", data)
        name = named(sock)
        assert sock.recv(100)
        if reason == "client_closed":
            sock.close()
        line = front.access(name)
        sock.close()
        assert line["close_reason"] == reason.replace("quit", "client_closed") and line["bytes_in"] == len(data)
