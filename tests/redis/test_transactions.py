"""MULTI, EXEC, DISCARD and WATCH: one piece on one node, whatever the cluster does meanwhile."""

import threading
from collections.abc import Callable

import pytest

from playground.cluster import ClusterNode, ValkeyCluster
from puerta.protocol.slots import slot_of
from tests.redis.conftest import Front
from tests.redis.wire import Wire, request, until

pytestmark = pytest.mark.dataplane

Connect = Callable[..., Wire]

CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"


def test_a_command_without_keys_comes_first(wire: Wire) -> None:
    said = wire.pipeline([("MULTI",), ("PING",), ("ECHO", "x"), ("SET", "a", "1"), ("GET", "a"), ("EXEC",)])
    assert said == [b"+OK\r\n", *[b"+QUEUED\r\n"] * 4, b"*4\r\n+PONG\r\n$1\r\nx\r\n+OK\r\n$1\r\n1\r\n"]


def test_only_commands_without_keys(wire: Wire) -> None:
    asked = [("MULTI",), ("PING",), ("EVAL", "return 1", "0"), ("TIME",), ("PUBLISH", "c", "x"), ("EXEC",)]
    assert wire.pipeline(asked)[-1].startswith(b"*4\r\n+PONG\r\n:1\r\n*2\r\n")


def test_nothing_at_all(wire: Wire) -> None:
    assert wire.pipeline([("MULTI",), ("EXEC",), ("EXEC",), ("DISCARD",), ("MULTI",), ("DISCARD",), ("DISCARD",)]) == [
        b"+OK\r\n", b"*0\r\n", b"-ERR EXEC without MULTI\r\n", b"-ERR DISCARD without MULTI\r\n", b"+OK\r\n", b"+OK\r\n",
        b"-ERR DISCARD without MULTI\r\n",
    ]  # fmt: skip


def test_keys_of_two_slots(wire: Wire) -> None:
    said = wire.pipeline(
        [("MULTI",), ("SET", "a", "1"), ("SET", "b", "1"), ("SET", "a", "2"), ("EXEC",), ("MGET", "a", "b")]
    )
    assert said == [b"+OK\r\n", b"+QUEUED\r\n", CROSSSLOT, b"+QUEUED\r\n", ABORTED, b"*2\r\n$-1\r\n$-1\r\n"]


@pytest.mark.parametrize(
    "command", [("MSET", "a", "1", "b", "2"), ("DEL", "a", "b"), ("RENAME", "a", "b"), ("MGET", "a", "b")]
)
def test_one_command_with_keys_of_two_slots(wire: Wire, command: tuple[str, ...]) -> None:
    assert wire.pipeline([("MULTI",), command, ("EXEC",)]) == [b"+OK\r\n", CROSSSLOT, ABORTED]


def test_what_would_be_split_otherwise_is_fine_within_one_slot(wire: Wire) -> None:
    said = wire.pipeline(
        [("MULTI",), ("MSET", "{t}a", "1", "{t}b", "2"), ("MGET", "{t}a", "{t}b"), ("DEL", "{t}a", "{t}b"), ("EXEC",)]
    )
    assert said[-1] == b"*3\r\n+OK\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n:2\r\n"


@pytest.mark.parametrize(
    "command", ["DBSIZE", "KEYS *", "SCAN 0", "FLUSHALL", "SCRIPT LOAD x", "CLIENT ID", "HELLO 3", "SUBSCRIBE c"]
)
def test_what_no_single_node_can_answer_is_refused_and_spoils_it(wire: Wire, command: str) -> None:
    said = wire.pipeline([("MULTI",), tuple(command.split()), ("SET", "a", "1"), ("EXEC",), ("GET", "a")])
    assert said[1].endswith(b" can't be used in a transaction through Puerta\r\n")
    assert said[3:] == [ABORTED, b"$-1\r\n"]


def test_errors_while_it_runs_are_parts_of_the_reply(wire: Wire) -> None:
    said = wire.pipeline(
        [("SET", "s", "x"), ("MULTI",), ("INCR", "s"), ("SET", "s", "1"), ("EVAL", "return 1", "x"), ("EXEC",)]
    )
    assert said[-1].startswith(
        b"*3\r\n-ERR value is not an integer or out of range\r\n+OK\r\n-ERR value is not an integer"
    )


def test_one_larger_than_may_be_held(connect: Connect, front: Front) -> None:
    wire = connect(front.narrow)
    said = wire.pipeline([("MULTI",), *[("SET", "a", "x" * 60_000)] * 4, ("EXEC",), ("GET", "a")])
    assert said[1:3] == [b"+QUEUED\r\n"] * 2 and said[3].startswith(
        b"-ERR the transaction is larger than Puerta may hold"
    )
    assert said[-2:] == [ABORTED, b"$-1\r\n"]


def test_transactions_of_many_clients_never_mix(connect: Connect) -> None:
    wires = [connect() for _ in range(8)]
    for number, wire in enumerate(wires):
        asked = [("MULTI",), ("SET", "k", number), ("INCR", "n"), ("GET", "k"), ("EXEC",)]
        if number % 2:
            wire.ask("HELLO", "3")
        asked = [("MULTI",), ("SET", "{k}", number), ("INCR", "{k}n"), ("GET", "{k}"), ("EXEC",)]
        wire.send(b"".join(request(*command) for command in asked) * 50)
    counts = set()
    for number, wire in enumerate(wires):
        for frame in wire.frames(250)[4::5]:
            head, _, rest = frame.partition(b"+OK\r\n:")
            count, _, value = rest.partition(b"\r\n")
            assert head == b"*3\r\n" and value == b"$1\r\n%d\r\n" % number
            counts.add(int(count))
    assert counts == set(range(1, 401))


# -- WATCH


@pytest.mark.parametrize(("protocol", "nothing"), [(2, b"*-1\r\n"), (3, b"_\r\n")])
def test_a_watched_key_that_changed(connect: Connect, protocol: int, nothing: bytes) -> None:
    wire, other = connect(), connect()
    wire.ask("HELLO", protocol)
    assert wire.ask("WATCH", "k") == b"+OK\r\n"
    assert other.ask("SET", "k", "other") == b"+OK\r\n"
    assert wire.pipeline([("MULTI",), ("SET", "k", "mine"), ("EXEC",)])[-1] == nothing
    assert wire.pipeline([("WATCH", "k"), ("MULTI",), ("SET", "k", "mine"), ("EXEC",)])[-1] == b"*1\r\n+OK\r\n"
    assert other.ask("GET", "k") == b"$4\r\nmine\r\n"


def test_changes_that_do_not_count(connect: Connect) -> None:
    """Of another key, before the watch, after an UNWATCH or a DISCARD."""
    wire, other = connect(), connect()
    for free in ((), ("UNWATCH",), ("MULTI", "DISCARD")):
        other.ask("SET", "k", "1")
        wire.ask("WATCH", "k" if free else "{k}2")
        other.ask("SET", "k", "2")
        for word in free:
            wire.ask(word)
        assert wire.pipeline([("MULTI",), ("SET", "k", "mine"), ("EXEC",)])[-1] == b"*1\r\n+OK\r\n"


def test_ones_own_change_counts(wire: Wire) -> None:
    said = wire.pipeline([("WATCH", "k"), ("SET", "k", "1"), ("MULTI",), ("GET", "k"), ("EXEC",), ("GET", "k")])
    assert said[-2:] == [b"*-1\r\n", b"$1\r\n1\r\n"]


def test_watched_keys_and_their_transaction_must_share_a_node(wire: Wire, front: Front) -> None:
    here, there = keys_of_two_nodes(front.cluster)
    assert wire.ask("WATCH", here, there) == CROSSSLOT
    assert wire.pipeline([("WATCH", here), ("WATCH", there)]) == [b"+OK\r\n", CROSSSLOT]
    assert wire.pipeline([("MULTI",), ("SET", there, "1"), ("EXEC",)]) == [b"+OK\r\n", CROSSSLOT, ABORTED]
    assert wire.ask("GET", there) == b"$-1\r\n"


def keys_of_two_nodes(cluster: ValkeyCluster) -> tuple[str, str]:
    here = "k0"
    owner = cluster.master_of_slot(slot_of(here.encode()))
    return here, next(
        key for key in map("k{}".format, range(99)) if cluster.master_of_slot(slot_of(key.encode())) is not owner
    )


def test_what_was_sent_before_exec_is_done_before_it_and_what_comes_after_it_after(wire: Wire) -> None:
    """The transaction of a WATCH runs on a connection of its own."""
    asked, wanted = [], []
    for number in range(200):
        asked += [
            ("WATCH", "{w}"),
            ("SET", "{w}a", number),
            ("MULTI",),
            ("GET", "{w}a"),
            ("SET", "{w}b", number),
            ("EXEC",),
        ]
        asked += [("GET", "{w}b")]
        text = b"$%d\r\n%d\r\n" % (len(str(number)), number)
        wanted += [b"*2\r\n" + text + b"+OK\r\n", text]
    said = wire.pipeline(asked)
    assert [said[at + offset] for at in range(0, len(said), 7) for offset in (5, 6)] == wanted


def test_a_watch_leaves_nothing_on_its_connection(connect: Connect, front: Front) -> None:
    """Neither for the session's own next transaction nor for the next session, however it ended."""
    ends = [
        [("UNWATCH",)],
        [("MULTI",), ("DISCARD",)],
        [("MULTI",), ("EXEC",)],
        [("MULTI",), ("GET",), ("EXEC",)],
        [("RESET",)],
        [],
    ]
    before = int(front.info()["upstream_connections"])
    other = connect()
    for end in ends * 3:
        wire = connect()
        wire.pipeline([("WATCH", "k"), *end])
        wire.close()
        fresh = connect()
        fresh.ask("WATCH", "{k}other")
        other.ask("SET", "k", "1")
        assert fresh.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == b"*1\r\n+PONG\r\n"
    until(lambda: int(front.info()["upstream_connections"]) <= before + 3, "the connections are given back")


def test_a_client_that_vanishes_in_a_transaction_changes_nothing(connect: Connect) -> None:
    for _ in range(10):
        wire = connect()
        wire.pipeline([("WATCH", "k"), ("MULTI",), ("SET", "k", "1")])
        wire.close()
        wire = connect()
        wire.pipeline([("MULTI",), ("SET", "k", "1")])
        wire.close()
    assert connect().ask("GET", "k") == b"$-1\r\n"


# -- while the slot moves


def test_in_a_slot_that_has_moved(connect: Connect, front: Front) -> None:
    """Puerta does not know yet; the transaction is done once, at the new owner."""
    for number in range(3):
        wire = connect()
        tag = f"{{moved{number}}}"
        wire.ask("SET", tag, 0)
        move(front.cluster, tag)
        said = wire.pipeline([("MULTI",), ("INCR", tag), ("SET", f"{tag}x", "1"), ("EXEC",), ("GET", tag)])
        assert said[-2:] == [b"*2\r\n:1\r\n+OK\r\n", b"$1\r\n1\r\n"]


def move(cluster: ValkeyCluster, key: str) -> None:
    slot = slot_of(key.encode())
    owner = cluster.master_of_slot(slot)
    cluster.migrate_slot(slot, cluster.masters[(cluster.masters.index(owner) + 1) % 3])


def finish(cluster: ValkeyCluster, slot: int, owner: ClusterNode, target: ClusterNode) -> None:
    cluster.move_keys(slot, owner, target)
    cluster.end_migration(slot, owner, target)


def test_in_a_slot_that_is_moving(connect: Connect, front: Front) -> None:
    """With its key still here, already there, or not yet anywhere; keys of both sides have to wait until it is over."""
    cluster = front.cluster
    for number, moved in enumerate((0, 1)):
        wire = connect()
        tag = f"{{moving{number}}}"
        slot = slot_of(tag.encode())
        wire.pipeline([("SET", tag, 5)])
        owner = cluster.master_of_slot(slot)
        target = cluster.masters[(cluster.masters.index(owner) + 1) % 3]
        cluster.begin_migration(slot, target)
        cluster.move_keys(slot, owner, target, moved)
        assert wire.pipeline([("MULTI",), ("INCR", tag), ("GET", tag), ("EXEC",)])[-1] == b"*2\r\n:6\r\n$1\r\n6\r\n"
        assert wire.pipeline([("MULTI",), ("INCR", f"{tag}new"), ("EXEC",)])[-1] == b"*1\r\n:1\r\n"
        if moved:
            assert wire.pipeline([("WATCH", tag), ("MULTI",), ("INCR", tag), ("EXEC",)])[-1] == b"*1\r\n:7\r\n"
        end = threading.Timer(0.1, finish, (cluster, slot, owner, target))
        end.start()
        both = wire.pipeline([("MULTI",), ("GET", f"{tag}new"), ("EXISTS", tag, f"{tag}new"), ("EXEC",)])[-1]
        end.join()
        assert both == b"*2\r\n$1\r\n1\r\n:2\r\n"


def test_a_watched_key_whose_slot_moves_has_changed(connect: Connect, front: Front) -> None:
    wire = connect()
    wire.pipeline([("SET", "{watched}", "1"), ("WATCH", "{watched}")])
    move(front.cluster, "{watched}")
    assert wire.pipeline([("MULTI",), ("INCR", "{watched}"), ("EXEC",)])[-1] == b"*-1\r\n"
    again = [("WATCH", "{watched}"), ("MULTI",), ("INCR", "{watched}"), ("EXEC",)]
    assert wire.pipeline(again)[-1] == b"*1\r\n:2\r\n"


def test_a_transaction_of_too_many_commands_is_refused(wire: Wire) -> None:
    """They would all be put on a connection that others share, at once."""
    wire.ask("MULTI")
    assert set(wire.pipeline([("PING",)] * 16384)) == {b"+QUEUED\r\n"}
    assert wire.ask("PING").startswith(b"-ERR the transaction has more commands than Puerta takes (16384)")
    assert wire.ask("EXEC").startswith(b"-EXECABORT")
    assert wire.ask("PING") == b"+PONG\r\n"


def test_the_protocol_stays_while_keys_are_watched(wire: Wire) -> None:
    """The connection that watches them speaks one of them only."""
    wire.ask("HELLO", 3)
    wire.ask("WATCH", "k")
    assert wire.ask("HELLO", 2).startswith(b"-ERR HELLO can't change the protocol")
    wire.ask("HELLO", 3)
    wire.ask("UNWATCH")
    assert not wire.ask("HELLO", 2).startswith(b"-")
