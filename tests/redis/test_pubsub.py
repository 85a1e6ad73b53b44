"""Subscriptions: what a subscriber may do and sees, and that none of it is lost silently or left behind."""

import contextlib
import random
from collections.abc import Callable

import pytest

from playground.cluster import ValkeyCluster
from playground.servers import Valkey
from puerta.protocol.slots import slot_of
from tests.redis.conftest import Front
from tests.redis.wire import Wire, decoded, parts, request, until

pytestmark = pytest.mark.dataplane

Connect = Callable[..., Wire]
Commands = list[tuple[str, ...]]

CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"


def message(protocol: int, *words: str) -> bytes:
    body = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
    return b"%s%d\r\n%s" % (b">" if protocol == 3 else b"*", len(words), body)


def channels_of_all_nodes(cluster: ValkeyCluster) -> list[str]:
    """A shard channel for each master."""
    found: dict[int, str] = {}
    for name in map("shard{}".format, range(200)):
        found.setdefault(cluster.master_of_slot(slot_of(name.encode())).port, name)
        if len(found) == len(cluster.masters):
            return list(found.values())
    raise AssertionError("a master has no slot")


def subscribers(cluster: ValkeyCluster, verb: str, channel: str) -> int:
    return sum(int(node.ask("PUBSUB", verb, channel)[1]) for node in cluster.masters)


# -- what it sees


@pytest.mark.parametrize("protocol", [2, 3])
def test_messages_come_from_every_node(connect: Connect, front: Front, protocol: int) -> None:
    wire, other = connect(), connect()
    wire.ask("HELLO", protocol)
    wire.pipeline([("SUBSCRIBE", "news"), ("PSUBSCRIBE", "n?w*")])
    for node in front.cluster.masters:
        node.ask("PUBLISH", "news", node.port)
        said = sorted(wire.frames(2))
        wanted = [message(protocol, "message", "news", str(node.port))]
        assert said == sorted([*wanted, message(protocol, "pmessage", "n?w*", "news", str(node.port))])
    other.ask("PUBLISH", "news", "through Puerta")
    assert message(protocol, "message", "news", "through Puerta") in wire.frames(2)


def one_by_one(wire: Wire, asked: Commands, count: Callable[[tuple[str, ...]], int]) -> list[bytes]:
    """Each with its own confirmations: a subscriber's replies may come in pieces."""
    found = []
    for command in asked:
        wire.send(request(*command))
        found += wire.frames(count(command))
    return found


def confirmations(command: tuple[str, ...]) -> int:
    return max(1, len(command) - 1) if "SUBSCRIBE" in command[0] else 1


NUMBERS: Commands = [
    ("SUBSCRIBE", "a", "b", "a"), ("PSUBSCRIBE", "p*"), ("UNSUBSCRIBE", "a", "nosuch"), ("SSUBSCRIBE", "{t}1", "{t}2"),
    ("SSUBSCRIBE", "{t}1"), ("SUNSUBSCRIBE", "{t}1", "{t}none"), ("PUNSUBSCRIBE",), ("PUNSUBSCRIBE",), ("SUNSUBSCRIBE",),
    ("SUNSUBSCRIBE",), ("UNSUBSCRIBE",), ("UNSUBSCRIBE",), ("PUNSUBSCRIBE", "x", "y"), ("SUNSUBSCRIBE", "{t}1"),
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3])
def test_confirmations_count_as_the_servers_do(connect: Connect, server: Valkey, protocol: int) -> None:
    """Also those of who is not subscribed: one a channel, or one of none."""
    wire = connect()
    with Wire(server.port) as other:
        for each in (wire, other):
            each.ask("HELLO", protocol)
        assert one_by_one(wire, NUMBERS, confirmations) == one_by_one(other, NUMBERS, confirmations)
        wire.send(b"".join(request(*command) for command in NUMBERS) + request("PING"))
        other.send(b"".join(request(*command) for command in NUMBERS) + request("PING"))
        count = sum(map(confirmations, NUMBERS)) + 1
        assert wire.frames(count) == other.frames(count)


ASKED: Commands = [
    ("PING",), ("PING", "x"), ("GET", "a"), ("ECHO", "x"), ("MULTI",), ("EXEC",), ("CLIENT", "ID"), ("MGET", "a", "b"),
    ("NOSUCH",), ("PUBLISH", "other", "x"), ("SPUBLISH", "other", "x"), ("GET",), ("BLPOP", "a", "1"), ("WATCH", "a"),
    ("DBSIZE",), ("SUBSCRIBE", "more"), ("PSUBSCRIBE", "m*"), ("HELLO", "3"), ("UNSUBSCRIBE", "more"), ("PUNSUBSCRIBE",),
    ("COMMAND", "COUNT"),
]  # fmt: skip


def test_in_resp2_a_subscriber_may_do_as_little_as_at_the_server(connect: Connect, server: Valkey) -> None:
    for first in (("SUBSCRIBE", "c"), ("PSUBSCRIBE", "c"), ("SSUBSCRIBE", "c")):
        wire = connect()
        with Wire(server.port) as other:
            for asked in ([first], ASKED, [(first[0].replace("SUB", "UNSUB"),)]):
                assert wire.pipeline(asked) == other.pipeline(asked)
    assert [frame[:9] for frame in connect().pipeline([("SUBSCRIBE", "c"), *ASKED])].count(b"-ERR Can'") == 12


MIXED: Commands = [
    ("SUBSCRIBE", "a", "a"), ("SUBSCRIBE", "a"), ("UNSUBSCRIBE", "a"), ("UNSUBSCRIBE",), ("UNSUBSCRIBE", "no", "none"), ("GET",),
    ("PSUBSCRIBE", "p*"), ("PUNSUBSCRIBE", "p*"), ("PUNSUBSCRIBE",), ("SSUBSCRIBE", "s"), ("SUNSUBSCRIBE", "s"),
    ("SUNSUBSCRIBE",), ("SUBSCRIBE",), ("SSUBSCRIBE",), ("PING",), ("PING", "x"), ("GET", "a"), ("ECHO", "x"), ("HELLO", "3"),
    ("HELLO", "2"), ("RESET",), ("CLIENT", "REPLY", "OFF"), ("CLIENT", "REPLY", "ON"), ("CLIENT", "REPLY", "SKIP"),
    ("CLIENT", "REPLY", "X"), ("WATCH", "a"), ("UNWATCH",), ("EXEC",), ("EXEC", "x"), ("DISCARD",), ("BLPOP", "a", "0.001"),
    ("CLIENT", "SETNAME", "me"), ("CLIENT", "GETNAME"), ("NOSUCH",),
]  # fmt: skip
END = request("RESET") + request("ECHO", "the end")


def all_frames(wire: Wire) -> list[bytes]:
    """Up to the answer to END. Of HELLO's only the shape, as clients have ids of their own."""
    found = []
    while (frame := wire.frame()) != b"$7\r\nthe end\r\n":
        found.append(frame[:4] if b"\r\nversion\r\n" in frame else frame)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_subscriber_does_it_is_told_what_the_server_says(
    connect: Connect, server: Valkey, seed: int
) -> None:
    """Confirmations are no replies: CLIENT REPLY does not hold them back."""
    source = random.Random(seed)
    with Wire(server.port) as other:
        wire = connect()
        for _ in range(40):
            asked = source.choices(MIXED, k=source.randrange(2, 14))
            for each in (wire, other):
                each.send(b"".join(request(*command) for command in asked) + END)
            ours, theirs = all_frames(wire), all_frames(other)
            assert ours == theirs, asked


def test_in_resp3_a_subscriber_may_do_everything(wire: Wire) -> None:
    wire.ask("HELLO", "3")
    wire.ask("SUBSCRIBE", "c")
    said = wire.pipeline(
        [
            ("SET", "a", "1"), ("GET", "a"), ("MGET", "a", "b"), ("MULTI",), ("INCR", "a"), ("EXEC",), ("DBSIZE",), ("PING",),
            ("WATCH", "a"), ("UNWATCH",), ("RPUSH", "l", "x"), ("BLPOP", "l", "0"), ("ECHO", "x"),
        ]
    )  # fmt: skip
    assert said == [
        b"+OK\r\n", b"$1\r\n1\r\n", b"*2\r\n$1\r\n1\r\n_\r\n", b"+OK\r\n", b"+QUEUED\r\n", b"*1\r\n:2\r\n", b":1\r\n",
        b"+PONG\r\n", b"+OK\r\n", b"+OK\r\n", b":1\r\n", b"*2\r\n$1\r\nl\r\n$1\r\nx\r\n", b"$1\r\nx\r\n",
    ]  # fmt: skip


def test_a_subscriber_that_goes_back_to_resp2_gets_its_messages_in_it(connect: Connect, server: Valkey) -> None:
    asked: Commands = [("HELLO", "3"), ("SUBSCRIBE", "c"), ("HELLO", "2"), ("PUNSUBSCRIBE",), ("PING",), ("GET", "a")]
    wire = connect()
    with Wire(server.port) as other:
        ours, theirs = wire.pipeline(asked), other.pipeline(asked)
        assert ours[3:] == theirs[3:] and ours[2][:1] == theirs[2][:1] == b"*"
        for port in (server.port, wire.socket.getpeername()[1]):
            with Wire(port) as speaker:
                speaker.ask("PUBLISH", "c", "x")
        assert wire.frame() == other.frame() == message(2, "message", "c", "x")
        assert wire.ask("UNSUBSCRIBE") == other.ask("UNSUBSCRIBE")
        assert wire.ask("GET", "a") == b"$-1\r\n"


# -- between replies, never within


def test_messages_come_between_the_replies(connect: Connect) -> None:
    """Of all lengths, while others publish: hiredis would see a push in the midst of a reply."""
    wire, other = connect(), connect()
    wire.ask("HELLO", "3")
    wire.ask("SUBSCRIBE", "c")
    wire.pipeline([("SET", "big", "x" * 700_000), ("SET", "small", "y")])
    asked = [("GET", "big"), ("MGET", "big", "small"), ("GET", "small"), ("STRLEN", "big")] * 6
    wire.send(b"".join(request(*command) for command in asked))
    other.pipeline([("PUBLISH", "c", number) for number in range(300)])
    found = [wire.frame() for _ in range(len(asked) + 300)]
    pushed = [frame for frame in found if frame[:1] == b">"]
    assert pushed == [message(3, "message", "c", str(number)) for number in range(300)]
    big = b"$700000\r\n" + b"x" * 700_000 + b"\r\n"
    wanted = [big, b"*2\r\n" + big + b"$1\r\ny\r\n", b"$1\r\ny\r\n", b":700000\r\n"] * 6
    assert [frame for frame in found if frame[:1] != b">"] == wanted


def test_messages_wait_for_the_end_of_a_long_reply_and_stay_in_order(connect: Connect, front: Front) -> None:
    """While the client does not read its reply's rest."""
    wire, other = connect(), connect()
    wire.ask("HELLO", "3")
    wire.ask("SUBSCRIBE", "c")
    other.ask("SET", "big", "x" * 12_000_000)
    wire.send(request("GET", "big") + request("SUBSCRIBE", "d") + request("ECHO", "behind"))
    until(wire.fill, "the reply has begun")
    until(lambda: other.ask("PUBLISH", "c", "1") and other.ask("STRLEN", "big"), "a message on its way")
    other.pipeline([("PUBLISH", "c", number) for number in range(2, 5)])
    assert len(wire.frame()) > 12_000_000
    assert wire.frames(6) == [
        *[message(3, "message", "c", str(number)) for number in range(1, 5)],
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:2\r\n",
        b"$6\r\nbehind\r\n",
    ]


# -- shard channels


def test_shard_channels_of_two_slots(connect: Connect) -> None:
    wire = connect()
    assert wire.ask("SSUBSCRIBE", "a", "b") == CROSSSLOT
    assert wire.ask("SUNSUBSCRIBE", "a", "b") == CROSSSLOT
    assert wire.pipeline([("SSUBSCRIBE", "{t}a", "{t}b"), ("PING",)])[0][:4] == b"*3\r\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_shard_channels_of_all_nodes(connect: Connect, front: Front, protocol: int) -> None:
    """Each is published to at its owner; the numbers are the client's own."""
    wire, other = connect(), connect()
    wire.ask("HELLO", protocol)
    names = channels_of_all_nodes(front.cluster)
    for number, name in enumerate(names):
        assert wire.ask("SSUBSCRIBE", name).endswith(b":%d\r\n" % (number + 1))
    for name in names:
        assert other.ask("SPUBLISH", name, "x") == b":1\r\n"
        assert wire.frame() == message(protocol, "smessage", name, "x")
    assert decoded(other.ask("PUBSUB", "SHARDNUMSUB", *names))[1::2] == [1, 1, 1]
    assert wire.ask("SUNSUBSCRIBE", names[1]).endswith(b":2\r\n")
    wire.send(request("SUNSUBSCRIBE"))
    ended = wire.frames(2)
    assert sorted(parts(frame)[1] for frame in ended) == sorted(
        b"$%d\r\n%s\r\n" % (len(name), name.encode()) for name in (names[0], names[2])
    )
    assert [parts(frame)[2] for frame in ended] == [b":1\r\n", b":0\r\n"]
    assert wire.ask("PING") == b"+PONG\r\n"
    for name in names:
        assert other.ask("SPUBLISH", name, "x") == b":0\r\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_shard_channel_whose_slot_moves(connect: Connect, front: Front, protocol: int) -> None:
    """It is subscribed again at the new owner, and the client sees nothing of that but its messages."""
    cluster, wire, other = front.cluster, connect(), connect()
    wire.ask("HELLO", protocol)
    name = f"moving{protocol}"
    slot = slot_of(name.encode())
    wire.pipeline([("SSUBSCRIBE", name), ("SSUBSCRIBE", f"{{{name}}}2"), ("SUBSCRIBE", "other")])
    for _ in range(2):
        target = cluster.masters[(cluster.masters.index(cluster.master_of_slot(slot)) + 1) % 3]
        cluster.migrate_slot(slot, target)
        until(
            lambda target=target: sum(map(int, target.ask("PUBSUB", "SHARDNUMSUB", name, f"{{{name}}}2")[1::2])) == 2,
            "it is subscribed again",
        )
        assert other.pipeline([("SPUBLISH", name, "x"), ("SPUBLISH", f"{{{name}}}2", "y")]) == [b":1\r\n"] * 2
        assert wire.frames(2) == [
            message(protocol, "smessage", name, "x"),
            message(protocol, "smessage", f"{{{name}}}2", "y"),
        ]
    assert wire.ask("SUNSUBSCRIBE", name).endswith(b":1\r\n")
    assert wire.ask("SUNSUBSCRIBE").endswith(b":0\r\n") and wire.ask("UNSUBSCRIBE").endswith(b":0\r\n")
    assert wire.ask("PING") == b"+PONG\r\n"
    assert subscribers(cluster, "SHARDNUMSUB", name) == 0


def test_a_shard_channel_whose_slot_has_moved_before(connect: Connect, front: Front) -> None:
    """And Puerta has not heard of it yet."""
    cluster = front.cluster
    for number in range(3):
        name = f"moved before {number}"
        slot = slot_of(name.encode())
        wire, other = connect(), connect()
        target = cluster.masters[(cluster.masters.index(cluster.master_of_slot(slot)) + 1) % 3]
        cluster.migrate_slot(slot, target)
        assert wire.ask("SSUBSCRIBE", name) == b"*3\r\n$10\r\nssubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (
            len(name),
            name.encode(),
        )
        assert other.ask("SPUBLISH", name, "x") == b":1\r\n"
        assert wire.frame() == message(2, "smessage", name, "x")


# -- the end


@pytest.mark.parametrize("verb", ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_subscription_whose_connection_is_lost_ends_the_client(
    connect: Connect, front: Front, verb: str, protocol: int
) -> None:
    """It would miss messages and not know: so it must hear of it. Others don't."""
    wire, other = connect(), connect()
    wire.ask("HELLO", protocol)
    assert wire.ask(verb, "doomed")[:1] != b"-"
    for node in front.cluster.masters:
        node.ask("CLIENT", "KILL", "TYPE", "pubsub")
    with contextlib.suppress(ConnectionResetError):
        assert wire.rest() == b""
    assert other.pipeline([("PING",), ("DBSIZE",)]) == [b"+PONG\r\n", b":0\r\n"]


@pytest.mark.parametrize("verb", ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"])
def test_connections_are_given_back_after_the_last_unsubscribe(connect: Connect, front: Front, verb: str) -> None:
    """And by clients that leave. The same ones serve the next subscriber, and nothing is left on them."""
    undo = verb.replace("SUB", "UNSUB")
    before = int(front.info()["upstream_connections"])
    names = channels_of_all_nodes(front.cluster)
    for _ in range(25):
        wire, gone = connect(), connect()
        for name in names:
            assert wire.ask(verb, name).startswith(b"*3\r\n")
        gone.ask(verb, names[0])
        for name in names:
            assert wire.ask(undo, name).startswith(b"*3\r\n")
        assert wire.ask("PING") == b"+PONG\r\n"
        gone.close()
        wire.close()
    until(lambda: int(front.info()["upstream_connections"]) <= before + len(names) + 1, "they are given back")
    if verb != "PSUBSCRIBE":
        kind = "SHARDNUMSUB" if verb == "SSUBSCRIBE" else "NUMSUB"
        until(lambda: subscribers(front.cluster, kind, names[0]) == 0, "nobody is subscribed")
    fresh = connect()
    fresh.pipeline([("WATCH", "a"), ("MULTI",), ("PING",)])
    assert fresh.ask("EXEC") == b"*1\r\n+PONG\r\n"
