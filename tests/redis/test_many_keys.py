"""Commands with keys in many slots, and those that ask every master: as one server answers them, or an error."""

from collections.abc import Callable

import pytest

from playground.servers import Valkey
from puerta.protocol.slots import slot_of
from tests.redis.conftest import Front
from tests.redis.wire import Wire, decoded, parts, request, until

pytestmark = pytest.mark.dataplane

Connect = Callable[..., Wire]
Command = tuple[bytes | str | int, ...]

CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
NOSCRIPT = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"


@pytest.fixture
def other(server: Valkey) -> Wire:
    """The one server to compare with, empty."""
    wire = Wire(server.port)
    wire.ask("FLUSHALL")
    wire.ask("SCRIPT", "FLUSH")
    return wire


def same(wire: Wire, other: Wire, *asked: Command) -> list[bytes]:
    """Both answer alike, in RESP2 and RESP3; what they say in RESP3."""
    for protocol in (2, 3):
        for each in (wire, other):
            each.ask("FLUSHALL")
            each.ask("HELLO", protocol)
        ours, theirs = wire.pipeline(asked), other.pipeline(asked)
        for command, mine, its in zip(asked, ours, theirs, strict=True):
            assert mine == its, command
    return ours


MANY = [f"k{number}" for number in range(60)]
"""In as many slots, on all nodes."""

SETS: list[Command] = [("SET", key, key) for key in MANY[::2]]


def test_the_keys_are_on_all_nodes_and_some_slots_of_one_node_differ(front: Front) -> None:
    """What the tests below rest on."""
    owners = {key: front.cluster.master_of_slot(slot_of(key.encode())).port for key in MANY}
    assert len(set(owners.values())) == 3
    assert len({slot_of(key.encode()) for key in MANY}) > 50


# -- by slot


def test_values_stand_where_their_keys_stood(wire: Wire, other: Wire) -> None:
    """With duplicates, keys that are missing and keys that hold something else."""
    same(
        wire, other, *SETS, ("RPUSH", "k1", "list"), ("HSET", "k3", "f", "v"), ("SET", "", "empty"), ("SET", "k5", ""),
        ("MGET", *MANY), ("MGET", *MANY[::-1], *MANY), ("MGET", "k0", "k0"), ("MGET", "k0", "k1", "k0", "no", "k1", "", "k5"),
        ("MGET", *["k0", "k2"] * 50), ("MGET", "no"), ("MGET",), ("mget", "k0", "k2"),
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["DEL", "UNLINK", "EXISTS", "TOUCH"])
def test_counts_add_up_as_on_one_server(wire: Wire, other: Wire, verb: str) -> None:
    """A key named twice exists twice, but is deleted once."""
    same(
        wire,
        other,
        *SETS,
        (verb, *MANY, *MANY[:9]),
        (verb, *MANY),
        (verb, "no", "none"),
        (verb, "k0"),
        (verb,),
        ("DBSIZE",),
    )


def test_mset_sets_all_or_says_why_before_any(wire: Wire, other: Wire) -> None:
    pairs = [word for number, key in enumerate(MANY) for word in (key, number)]
    said = same(
        wire, other, ("RPUSH", "k1", "list"), ("MSET", *pairs, "k0", "last"), ("MGET", *MANY), ("MSET", "x", "1", "y"),
        ("MSET", *pairs, "odd"), ("EXISTS", "x", "y", "odd"), ("MSET",), ("MSET", "x"), ("TYPE", "k1"), ("DBSIZE",),
    )  # fmt: skip
    assert said[5] == b":0\r\n" and said[3] == b"-ERR wrong number of arguments for 'mset' command\r\n"


def test_what_must_be_atomic_is_not_taken_apart(wire: Wire) -> None:
    for command in (
        ("MSETNX", "a", "1", "b", "2"), ("MSETEX", "2", "a", "1", "b", "2"), ("RENAME", "a", "b"), ("SINTERSTORE", "a", "b"),
        ("SUNION", "a", "b"), ("PFCOUNT", "a", "b"), ("PFMERGE", "a", "b"), ("BITOP", "AND", "a", "b"), ("SMOVE", "a", "b", "x"),
        ("COPY", "a", "b"), ("LMOVE", "a", "b", "LEFT", "LEFT"), ("ZUNIONSTORE", "a", "1", "b"), ("ZUNION", "2", "a", "b"),
        ("LMPOP", "2", "a", "b", "LEFT"), ("ZMPOP", "2", "a", "b", "MIN"), ("SINTERCARD", "2", "a", "b"), ("LCS", "a", "b"),
        ("SORT", "a", "STORE", "b"), ("GEORADIUS", "a", "0", "0", "1", "m", "STORE", "b"), ("ZRANGESTORE", "a", "b", "0", "1"),
        ("GEORADIUSBYMEMBER", "a", "m", "1", "m", "STOREDIST", "b"), ("XREAD", "STREAMS", "a", "b", "0", "0"),
        ("XREADGROUP", "GROUP", "g", "c", "NOACK", "STREAMS", "a", "b", ">", ">"), ("EVAL", "return 1", "2", "a", "b"),
        ("EVALSHA", "0" * 40, "2", "a", "b"), ("FCALL", "f", "2", "a", "b"),
        ("GEOSEARCHSTORE", "a", "b", "FROMLONLAT", "0", "0", "BYRADIUS", "1", "m"), ("BLPOP", "a", "b", "1"),
    ):  # fmt: skip
        assert wire.ask(*command) == CROSSSLOT, command
    assert wire.ask("EXISTS", "a", "b") == b":0\r\n"


WITH_KEYS: list[Command] = [
    ("RPUSH", "{t}l", "3", "1", "2"), ("SORT", "{t}l", "DESC", "STORE", "{t}s"), ("LRANGE", "{t}s", "0", "-1"),
    ("SORT", "{t}l", "store", "{t}x", "STORE", "{t}y"), ("EXISTS", "{t}x", "{t}y"), ("SORT", "{t}l", "LIMIT", "0", "1"),
    ("GEOADD", "{t}g", "13.36", "38.11", "a", "15.08", "37.5", "b"),
    ("GEORADIUS", "{t}g", "15", "37", "200", "km", "ASC", "STORE", "{t}r"), ("ZRANGE", "{t}r", "0", "-1"),
    ("GEORADIUS", "{t}g", "15", "37", "200", "km", "storedist", "{t}d"), ("ZCARD", "{t}d"),
    ("GEORADIUSBYMEMBER", "{t}g", "a", "200", "km", "STORE", "{t}r"), ("ZADD", "{t}z", "1", "a"), ("ZADD", "{t}w", "2", "a"),
    ("ZUNIONSTORE", "{t}u", "2", "{t}z", "{t}w", "WEIGHTS", "1", "5"), ("ZSCORE", "{t}u", "a"),
    ("ZUNIONSTORE", "{t}u", "0", "{t}z"),
    ("LMPOP", "2", "{t}no", "{t}l", "RIGHT", "COUNT", "1"), ("LMPOP", "0", "{t}l", "LEFT"), ("ZMPOP", "1", "{t}z", "MAX"),
    ("XADD", "streams", "1-1", "f", "v"), ("XREAD", "COUNT", "1", "STREAMS", "streams", "0"),
    ("XREAD", "streams", "streams", "0-0"),
    ("XREAD", "StReAmS", "streams", "0"), ("XGROUP", "CREATE", "streams", "streams", "0"),
    ("XREADGROUP", "GROUP", "streams", "streams", "NOACK", "STREAMS", "streams", ">"), ("XREAD", "STREAMS", "streams"),
    ("XREADGROUP", "group", "streams", "streams", "COUNT", "1", "streams", "streams", "0"), ("XPENDING", "streams", "streams"),
    ("XGROUP", "CREATE", "{s}none", "g", "$", "MKSTREAM"), ("XGROUP", "DESTROY", "{s}none", "g"), ("XINFO", "GROUPS", "streams"),
    ("SETBIT", "{b}1", "1", "1"), ("SETBIT", "{b}2", "2", "1"), ("BITOP", "OR", "{b}3", "{b}1", "{b}2"), ("BITCOUNT", "{b}3"),
    ("OBJECT", "ENCODING", "{b}1"), ("OBJECT", "REFCOUNT", "{b}1"), ("OBJECT", "FREQ", "no"), ("MEMORY", "USAGE", "no"),
    ("MIGRATE", "127.0.0.1", "1", "k", "0"), ("COMMAND", "GETKEYS", "XREAD", "STREAMS", "a", "b", "0", "0"),
]  # fmt: skip


def test_keys_are_found_wherever_they_stand(wire: Wire, other: Wire) -> None:
    ours = same(wire, other, *WITH_KEYS[:-2])
    assert [command for command, said in zip(WITH_KEYS, ours, strict=False) if said.startswith(b"-ERR Protocol")] == []
    assert wire.ask(*WITH_KEYS[-2]).startswith(b"-ERR ")
    assert decoded(wire.ask(*WITH_KEYS[-1])) == [b"a", b"b"]
    wire.ask("SET", "here", "x")
    assert decoded(wire.ask("MEMORY", "USAGE", "here")) > 0


def test_hash_tags(wire: Wire, front: Front) -> None:
    """Where the node agrees with us, there is no redirection."""
    before = front.info()["redirects_moved"]
    for key in ("{}", "{}x", "a}{b}", "{a}{b}", "{{a}}", "{", "a{", "}", "a{}{b}", "{a", "x{\r\n}y", "\0{\0}"):
        slot = decoded(wire.ask("CLUSTER", "KEYSLOT", key))
        assert slot == int(front.cluster.masters[0].ask("CLUSTER", "KEYSLOT", key))
        assert wire.pipeline([("SET", key, key), ("GET", key), ("MGET", key, "no"), ("DEL", key, "no")])[1] == (
            b"$%d\r\n%s\r\n" % (len(key), key.encode())
        )
    assert front.info()["redirects_moved"] == before


# -- every master


def test_all_keys_are_counted_listed_and_flushed(wire: Wire, other: Wire, front: Front) -> None:
    for flush in (("FLUSHALL",), ("FLUSHALL", "ASYNC"), ("FLUSHALL", "SYNC"), ("FLUSHDB",), ("FLUSHDB", "ASYNC")):
        said = wire.pipeline([*SETS, ("DBSIZE",), ("KEYS", "*"), ("KEYS", "k[1-3]*"), ("KEYS", "no")])
        assert said[-4] == b":30\r\n" and said[-1] == b"*0\r\n"
        assert sorted(decoded(said[-3])) == sorted(key.encode() for key in MANY[::2])
        assert sorted(decoded(said[-2])) == sorted(key.encode() for key in MANY[::2] if key[1] in "123")
        assert {node.client.dbsize() > 0 for node in front.cluster.masters} == {True}
        assert wire.pipeline([flush, ("DBSIZE",), ("KEYS", "*"), ("EXISTS", *MANY)]) == [
            b"+OK\r\n", b":0\r\n", b"*0\r\n", b":0\r\n"
        ]  # fmt: skip
        assert {node.client.dbsize() for node in front.cluster.masters} == {0}
    same(wire, other, ("FLUSHALL", "FOO"), ("FLUSHALL", "ASYNC", "SYNC"), ("DBSIZE", "x"), ("KEYS",))


@pytest.mark.parametrize(("protocol", "nothing"), [(2, b"$-1\r\n"), (3, b"_\r\n")])
def test_a_random_key_of_whoever_has_one(wire: Wire, protocol: int, nothing: bytes) -> None:
    wire.ask("HELLO", protocol)
    assert wire.pipeline([("RANDOMKEY",)] * 5) == [nothing] * 5
    for key in MANY[:6]:
        assert wire.pipeline([("SET", key, "x"), *[("RANDOMKEY",)] * 10, ("DEL", key)])[1:-1] == [
            b"$%d\r\n%s\r\n" % (len(key), key.encode())
        ] * 10  # fmt: skip
    wire.pipeline(SETS)
    assert len(set(wire.pipeline([("RANDOMKEY",)] * 200))) > 10


def test_counts_by_channel_add_up(connect: Connect) -> None:
    wire, one, two = connect(), connect(), connect()
    for each in (one, two):
        each.ask("SUBSCRIBE", "c")
    one.ask("PSUBSCRIBE", "p*")
    assert wire.ask("PUBSUB", "NUMSUB", "c", "no", "c") == b"*6\r\n$1\r\nc\r\n:2\r\n$2\r\nno\r\n:0\r\n$1\r\nc\r\n:2\r\n"
    assert wire.pipeline([("PUBSUB", "NUMPAT"), ("PUBSUB", "CHANNELS")]) == [b":1\r\n", b"*1\r\n$1\r\nc\r\n"]
    assert wire.ask("PUBSUB", "NUMSUB") == b"*0\r\n"


# -- scripts


def test_what_counts_as_a_key_of_a_script(wire: Wire, other: Wire) -> None:
    """The arguments behind the keys are none, whatever slot they would be in."""
    same(
        wire, other, ("EVAL", "return {#KEYS, #ARGV}", "0"), ("EVAL", "return {KEYS, ARGV}", "0", "a", "b"),
        ("EVAL", "return {KEYS, ARGV}", "1", "a", "b", "c"), ("EVAL", "return KEYS", "2", "{t}a", "{t}b"),
        ("EVAL", "return redis.call('set', KEYS[1], ARGV[1])", "1", "a", "b"), ("GET", "a"), ("EVAL", "x", "junk", "a"),
        ("EVAL", "return 1", "-1", "a"), ("EVAL", "return 1", "3", "a", "b"), ("EVAL", "return 1", "1"), ("EVAL", "return 1", ""),
        ("EVAL", "return 1", "99999999999999999999", "a"), ("EVAL", "return 1", "01", "a"), ("EVAL", "return 1", "1.0", "a"),
        ("EVAL_RO", "return redis.call('get', KEYS[1])", "1", "a"), ("EVALSHA", "x", "1", "a"), ("EVALSHA", "x" * 40, "0"),
    )  # fmt: skip


def test_a_script_is_loaded_everywhere_and_there_only_if_it_is_everywhere(wire: Wire, front: Front) -> None:
    """EVALSHA at a node that lacks it (new, or a replica until now) says so, and another SCRIPT LOAD mends that."""
    wire.ask("SCRIPT", "FLUSH")
    sha = decoded(wire.ask("SCRIPT", "LOAD", "return KEYS[1]")).decode()
    keys = MANY[:12]

    def run() -> set[bytes]:
        return {frame[:9] for frame in wire.pipeline([("EVALSHA", sha, "1", key) for key in keys])}

    assert all(node.ask("SCRIPT", "EXISTS", sha) == [1] for node in front.cluster.masters)
    assert wire.ask("SCRIPT", "EXISTS", sha, "0" * 40, sha) == b"*3\r\n:1\r\n:0\r\n:1\r\n" and b"-NOSCRIPT" not in run()
    front.cluster.masters[1].ask("SCRIPT", "FLUSH")
    assert wire.ask("SCRIPT", "EXISTS", sha) == b"*1\r\n:0\r\n"
    assert b"-NOSCRIPT" in run() and len(run()) > 1
    assert decoded(wire.ask("SCRIPT", "LOAD", "return KEYS[1]")).decode() == sha
    assert wire.ask("SCRIPT", "EXISTS", sha) == b"*1\r\n:1\r\n" and b"-NOSCRIPT" not in run()
    assert wire.ask("SCRIPT", "FLUSH", "SYNC") == b"+OK\r\n" and run() == {b"-NOSCRIPT"}
    assert wire.ask("SCRIPT", "LOAD", "no such thing").startswith(b"-ERR Error compiling script")


def test_a_function_is_loaded_everywhere(wire: Wire, front: Front) -> None:
    code = "#!lua name=many\nredis.register_function('many_f', function(keys, args) return keys[1] end)"
    assert wire.ask("FUNCTION", "LOAD", "REPLACE", code) == b"$4\r\nmany\r\n"
    assert wire.ask("FUNCTION", "LOAD", code) == b"-ERR Library 'many' already exists\r\n"
    said = wire.pipeline([("FCALL", "many_f", "1", key) for key in MANY[:12]])
    assert said == [b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in MANY[:12]]
    assert wire.ask("FUNCTION", "DELETE", "many") == b"+OK\r\n"
    assert not any(node.ask("FUNCTION", "LIST", "LIBRARYNAME", "many") for node in front.cluster.masters)


def test_a_script_that_does_not_end_is_killed(connect: Connect, front: Front) -> None:
    """While others wait behind it on the same connection: the kill has one of its own."""
    runs, waits, kills = connect(), connect(), connect()
    node = front.cluster.master_of_slot(slot_of(b"k0"))
    node.ask("CONFIG", "SET", "busy-reply-threshold", 50)
    runs.send(request("EVAL", "while true do end", "1", "k0"))
    with Wire(node.port) as direct:
        until(lambda: direct.ask("PING").startswith(b"-BUSY "), "the node is busy")
    waits.send(request("GET", "k0"))
    assert kills.ask("SCRIPT", "KILL") == b"+OK\r\n"
    assert runs.frame().startswith(b"-ERR Script killed by user") and waits.frame()[:1] in b"$-"
    until(lambda: parts(kills.ask("MGET", *MANY[:9])) == [b"$-1\r\n"] * 9, "all are served again")
    assert kills.ask("SCRIPT", "KILL") == b"-NOTBUSY No scripts in execution right now.\r\n"


# -- what the server seems to be


def test_general_questions(wire: Wire, other: Wire) -> None:
    same(
        wire, other, ("PING",), ("PING", "a\r\nb"), ("ECHO", ""), ("ECHO",), ("TIME", "x"), ("COMMAND", "COUNT"),
        ("COMMAND", "INFO", "get"), ("COMMAND", "LIST", "FILTERBY", "PATTERN", "xlen"), ("COMMAND", "DOCS", "nosuch"),
    )  # fmt: skip
    seconds, micros = map(int, decoded(wire.ask("TIME")))
    theirs = int(decoded(other.ask("TIME"))[0])
    assert abs(seconds - theirs) <= 1 and 0 <= micros < 1_000_000
    assert len(wire.ask("COMMAND", "DOCS")) > 100_000
    for section in ("server", "clients", "replication", "cluster", "everything"):
        assert wire.ask("INFO", section) != b"$0\r\n\r\n"
    assert wire.ask("WAIT", "0", "0") == b":0\r\n"


def test_a_pipeline_of_which_some_have_their_keys_in_one_slot(wire: Wire, other: Wire) -> None:
    """Requests that look alike, a run of which has been in one slot for long: the next one is taken apart all the same."""
    for name, rest in (("DEL", ()), ("UNLINK", ()), ("EXISTS", ()), ("MGET", ()), ("MSET", ("x",))):
        together = (name, *(part for key in ("{a}1", "{a}2") for part in (key, *rest)))
        apart = (name, *(part for key in ("{a}1", "{b}2") for part in (key, *rest)))
        same(wire, other, *[together] * 300, apart, together, apart)
