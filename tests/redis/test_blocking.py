"""Commands that wait in the server: nobody else waits with them, and nothing is lost when somebody goes."""

import time
from collections.abc import Callable

import pytest

from puerta.protocol.slots import slot_of
from tests.redis.conftest import Front
from tests.redis.wire import Wire, parts, request, until

pytestmark = pytest.mark.dataplane

Connect = Callable[..., Wire]

WAITING = [
    (("BLPOP", "k", "0"), ("RPUSH", "k", "v"), b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n"),
    (("BRPOP", "{k}0", "k", "0"), ("RPUSH", "k", "v"), b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n"),
    (("BLMOVE", "k", "{k}2", "LEFT", "RIGHT", "0"), ("RPUSH", "k", "v"), b"$1\r\nv\r\n"),
    (("BRPOPLPUSH", "k", "{k}2", "0"), ("RPUSH", "k", "v"), b"$1\r\nv\r\n"),
    (("BLMPOP", "0", "2", "{k}0", "k", "LEFT"), ("RPUSH", "k", "v"), b"*2\r\n$1\r\nk\r\n*1\r\n$1\r\nv\r\n"),
    (("BZPOPMIN", "k", "0"), ("ZADD", "k", "1", "v"), b"*3\r\n$1\r\nk\r\n$1\r\nv\r\n$1\r\n1\r\n"),
    (("BZMPOP", "0", "1", "k", "MAX"), ("ZADD", "k", "1", "v"), b"*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$1\r\nv\r\n$1\r\n1\r\n"),
    (
        ("XREAD", "COUNT", "1", "BLOCK", "0", "STREAMS", "k", "$"), ("XADD", "k", "1-1", "f", "v"),
        b"*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
    ),
]  # fmt: skip


def waiting(front: Front) -> int:
    return sum(int(node.client.info("clients")["blocked_clients"]) for node in front.cluster.masters)


@pytest.mark.parametrize(
    ("wait", "push", "wanted"), WAITING, ids=lambda value: value[0] if isinstance(value, tuple) else ""
)
def test_waits_until_it_comes(
    connect: Connect, front: Front, wait: tuple[str, ...], push: tuple[str, ...], wanted: bytes
) -> None:
    wire, other = connect(), connect()
    wire.send(request(*wait) + request("ECHO", "behind") + request("EXISTS", "k"))
    until(lambda: waiting(front) == 1, "it waits")
    assert other.pipeline([("SET", "{k}x", "1"), ("GET", "{k}x"), ("PING",)]) == [
        b"+OK\r\n",
        b"$1\r\n1\r\n",
        b"+PONG\r\n",
    ]
    assert not wire.buffer
    other.send(request(*push))
    assert wire.frames(2) == [wanted, b"$6\r\nbehind\r\n"]


def test_what_came_before_is_done_before(wire: Wire) -> None:
    """It runs on a connection of its own."""
    for number in range(100):
        assert wire.pipeline([("RPUSH", "k", number), ("BLPOP", "k", "0"), ("EXISTS", "k")])[1:] == [
            b"*2\r\n$1\r\nk\r\n$%d\r\n%d\r\n" % (len(str(number)), number), b":0\r\n"
        ]  # fmt: skip


@pytest.mark.parametrize(("protocol", "nothing"), [(2, b"*-1\r\n"), (3, b"_\r\n")])
def test_waits_no_longer_than_it_says(wire: Wire, protocol: int, nothing: bytes) -> None:
    wire.ask("HELLO", protocol)
    started = time.monotonic()
    assert wire.ask("BLPOP", "k", "0.2") == nothing
    assert time.monotonic() - started >= 0.2


def test_errors_of_the_server(wire: Wire) -> None:
    assert wire.ask("BLPOP", "a", "b", "0").startswith(b"-CROSSSLOT ")
    assert wire.ask("BLPOP", "a", "x") == b"-ERR timeout is not a float or out of range\r\n"
    assert wire.ask("XREAD", "BLOCK", "x", "STREAMS", "a", "0") == b"-ERR timeout is not an integer or out of range\r\n"
    assert wire.ask("XREAD", "BLOCK", "0", "STREAMS", "a").startswith(b"-ERR Unbalanced")
    assert wire.pipeline([("SET", "s", "1"), ("BLPOP", "s", "0"), ("PING",)])[1:] == [
        b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", b"+PONG\r\n"
    ]  # fmt: skip


def test_whoever_is_gone_takes_nothing(connect: Connect, front: Front) -> None:
    """Gone while waiting, with more commands behind it, or with the last byte."""
    for more in (b"", request("PING"), request("PING") * 5000):
        for half in (False, True):
            gone = connect()
            gone.send(request("GET", "x") + request("BLPOP", "k", "0") + more)
            gone.frame()
            if not half:
                until(lambda: waiting(front) == 1, "it waits")
            gone.close()
            until(lambda: waiting(front) == 0, "nobody waits")
    other = connect()
    assert other.pipeline([("RPUSH", "k", "v"), ("LLEN", "k")]) == [b":1\r\n", b":1\r\n"]


def test_many_wait_at_once(connect: Connect, front: Front) -> None:
    wires = [connect() for _ in range(40)]
    for number, wire in enumerate(wires):
        wire.send(request("BLPOP", f"k{number}", "0"))
    until(lambda: waiting(front) == 40, "all wait")
    other = connect()
    assert other.pipeline([("RPUSH", f"k{number}", number) for number in range(40)]) == [b":1\r\n"] * 40
    for number, wire in enumerate(wires):
        assert parts(wire.frame())[1] == b"$%d\r\n%d\r\n" % (len(str(number)), number)


def test_in_a_slot_that_has_moved_or_moves_meanwhile(connect: Connect, front: Front) -> None:
    cluster, wire, other = front.cluster, connect(), connect()
    slot = slot_of(b"{blocked}")
    for _ in range(2):
        owner = cluster.master_of_slot(slot)
        target = cluster.masters[(cluster.masters.index(owner) + 1) % 3]
        wire.send(request("BLPOP", "{blocked}", "0"))
        until(lambda: waiting(front) == 1, "it waits")
        cluster.migrate_slot(slot, target)
        until(
            lambda target=target: int(target.client.info("clients")["blocked_clients"]) == 1,
            "it waits at the new owner",
        )
        assert other.ask("RPUSH", "{blocked}", "v") == b":1\r\n"
        assert wire.frame() == b"*2\r\n$9\r\n{blocked}\r\n$1\r\nv\r\n"


def test_in_a_slot_that_is_moving(connect: Connect, front: Front) -> None:
    cluster, wire = front.cluster, connect()
    slot = slot_of(b"{asked}")
    owner = cluster.master_of_slot(slot)
    target = cluster.masters[(cluster.masters.index(owner) + 1) % 3]
    cluster.begin_migration(slot, target)
    assert (
        wire.pipeline([("RPUSH", "{asked}", "v"), ("BLPOP", "{asked}", "0")])[1]
        == b"*2\r\n$7\r\n{asked}\r\n$1\r\nv\r\n"
    )
    cluster.end_migration(slot, owner, target)


def test_wait_waits_for_replicas_and_later_commands_with_it(wire: Wire) -> None:
    started = time.monotonic()
    assert wire.pipeline([("SET", "a", "1"), ("WAIT", "0", "0"), ("WAIT", "1", "100"), ("GET", "a")]) == [
        b"+OK\r\n", b":0\r\n", b":0\r\n", b"$1\r\n1\r\n"
    ]  # fmt: skip
    assert time.monotonic() - started >= 0.1


def test_who_waits_for_replicas_holds_nobody_up(connect: Connect) -> None:
    wire, other = connect(), connect()
    wire.send(request("WAIT", "1", "0"))
    for number in range(100):
        assert other.ask("SET", "a", number) == b"+OK\r\n"
    wire.close()
