"""Where the keys of each command are, against what real servers say."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from puerta.protocol import commands
from puerta.protocol.commands import TABLE
from puerta.protocol.entry import read
from tests.protocol.conftest import Node

slowly = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

CHANNELS = {"SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE", "CLUSTERSCAN"}
"""What stands at their keys' places decides on the slot, but the server does not call it a key."""

SEEN_FROM = {"PFMERGE": 3, "SUNSUBSCRIBE": 2}
"""Shorter lists are right, but COMMAND GETKEYS can't tell their keys."""

ENTRIES = {entry.name: entry for entry in commands.entries()}
WITH_KEYS = sorted(name for name, entry in ENTRIES.items() if entry.has_keys())
COUNTED = sorted(name for name, entry in ENTRIES.items() if any(spec.find == "keynum" for spec in entry.specs))

BIG = [b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809"]
NUMBERS = [b"0", b"1", b"2", b"3", b"4", b"-1", b"x", b"", b"01", b" 1", *BIG]


def arguments(name: str, *rest: bytes) -> list[bytes]:
    return [*name.encode().split(b"|"), *rest]


def keys_as_the_server_sees(node: Node, args: list[bytes]) -> list[bytes]:
    """Sorted; none when it sees none."""
    reply = node.call(b"COMMAND", b"GETKEYS", *args)
    if isinstance(reply, list):
        return sorted(reply)
    assert "key arguments" in str(reply) or "Invalid arguments" in str(reply), reply
    return []


def keys_as_puerta_sees(args: list[bytes]) -> list[bytes]:
    spec = TABLE.resolve(args)
    assert spec is not None
    return sorted(args[place] for place in commands.keys(spec, args))


def keys_or_none(args: list[bytes]) -> list[bytes]:
    try:
        return keys_as_puerta_sees(args)
    except ValueError:
        return []


def samples(name: str, arity: int) -> Iterator[list[bytes]]:
    """Argument lists of several lengths; with `2` where a number of keys may be, so that two keys are found."""
    shortest = max(abs(arity), SEEN_FROM.get(name, 1))
    for length in {shortest} if arity > 0 else range(shortest, shortest + 6):
        args = arguments(name)
        args += [b"2" if name in COUNTED and place < 3 else b"k%d" % place for place in range(len(args), length)]
        yield args


def test_keys_are_where_the_server_sees_them(node: Node) -> None:
    """Of every command the server has. Arities are its own: Redis 7.0 takes fewer arguments than Valkey for some commands."""
    arities = {entry.name: entry.arity for entry in read(node.call(b"COMMAND"))}
    tried = 0
    for name in {*WITH_KEYS} & {*arities} - {"XREAD", "XREADGROUP"}:
        for args in samples(name, arities[name]):
            expected = [] if name in CHANNELS else keys_or_none(args)
            assert keys_as_the_server_sees(node, args) == expected, args
            tried += 1
    assert tried > 500


@pytest.mark.parametrize("name", COUNTED)
@given(number=st.sampled_from(NUMBERS), more=st.integers(0, 6))
@settings(parent=slowly, max_examples=40)
def test_numbers_of_keys(valkey: Node, name: str, number: bytes, more: int) -> None:
    assume(name != "MSETEX" or number not in (b"01", b" 1"))  # the one that is read strictly
    args = arguments(name)
    counts = [spec.start + spec.one for spec in ENTRIES[name].specs if spec.find == "keynum"]
    for place in range(1, abs(ENTRIES[name].arity) + more):
        args.append(number if place in counts else b"k%d" % place)
    try:
        found = keys_as_puerta_sees(args)
    except ValueError:
        assert b"-" in valkey.line(*args)[:1]
    else:
        assert keys_as_the_server_sees(valkey, args) == found


OPTIONS = [
    b"STORE",
    b"store",
    b"STOREDIST",
    b"BY",
    b"GET",
    b"LIMIT",
    b"ASC",
    b"KEYS",
    b"AUTH",
    b"AUTH2",
    b"COPY",
    b"a",
    b"",
]


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("SORT", [b"k"]),
        ("SORT_RO", [b"k"]),
        ("GEORADIUS", [b"k", b"1", b"2", b"3", b"m"]),
        ("GEORADIUSBYMEMBER", [b"k", b"m", b"3", b"m"]),
    ],
)
@given(options=st.lists(st.sampled_from(OPTIONS), max_size=7))
@slowly
def test_keys_among_options(valkey: Node, name: str, fixed: list[bytes], options: list[bytes]) -> None:
    args = arguments(name, *fixed, *options)
    assert keys_as_the_server_sees(valkey, args) == keys_as_puerta_sees(args)


@pytest.mark.parametrize(
    "rest",
    [
        "k 0 1",
        "k 0 1 COPY",
        "- 0 1 KEYS a b",
        "- 0 1 COPY REPLACE AUTH p keys a",
        "- 0 1 AUTH2 u KEYS KEYS a",
        "k 0 1 KEYS a",
    ],
)
def test_keys_of_migrate(valkey: Node, rest: str) -> None:
    args = [b"" if word == "-" else word.encode() for word in f"MIGRATE host 6379 {rest}".split()]
    assert keys_as_the_server_sees(valkey, args) == keys_as_puerta_sees(args)


@given(
    group=st.booleans(),
    options=st.lists(st.sampled_from(["BLOCK 1", "count 2", "NoAck"]), max_size=3),
    names=st.lists(st.sampled_from(["a", "b", "COUNT", "streams"]), min_size=1, max_size=4),
    word=st.sampled_from(["STREAMS", "streams", "sTrEaMs"]),
)
@slowly
def test_streams_among_options(valkey: Node, group: bool, options: list[str], names: list[str], word: str) -> None:
    parts = ["XREADGROUP GROUP g c" if group else "XREAD", *options, word, *names, *["0"] * len(names)]
    args = " ".join(parts).encode().split()
    assert keys_as_the_server_sees(valkey, args) == keys_as_puerta_sees(args)


@pytest.mark.parametrize(
    ("args", "found", "waits"),
    [
        (b"XREAD STREAMS a 0", b"a", False),
        (b"XREAD COUNT 1 streams a b 0 0", b"a b", False),
        (b"XREAD BLOCK 0 StReAmS streams STREAMS 0 0", b"streams STREAMS", True),
        (b"XREAD STREAMS BLOCK 0", b"BLOCK", False),
        (b"XREAD COUNT streams block 1 STREAMS a b 0 0", b"a b", True),
        (b"XREAD STREAMS a b 0", b"", False),
        (b"XREAD STREAMS a", b"", False),
        (b"XREAD COUNT 1 a 0", b"", False),
        (b"XREAD nonsense STREAMS a 0", b"", False),
        (b"XREADGROUP GROUP g c STREAMS a >", b"a", False),
        (b"XREADGROUP GROUP streams streams STREAMS a b > >", b"a b", False),
        (b"XREADGROUP COUNT 1 GROUP streams c STREAMS a b > >", b"a b", False),
        (b"XREADGROUP COUNT 1 GROUP g streams STREAMS a b > >", b"a b", False),
        (b"XREADGROUP GROUP block block NOACK STREAMS a >", b"a", False),
        (b"XREADGROUP NOACK COUNT 1 BLOCK 5 GROUP g c STREAMS a >", b"a", True),
    ],
)
def test_streams(valkey: Node, args: bytes, found: bytes, waits: bool) -> None:
    words = args.split(b" ")
    spec = TABLE.resolve(words)
    assert spec is not None
    places = commands.keys(spec, words)
    assert [words[place] for place in places] == found.split()
    assert commands.blocks(words) == waits
    if len(places) > 1:  # the server routes by the same keys: in two slots, it says so
        assert str(valkey.call(*words)).startswith("CROSSSLOT")


def test_keys_by_name() -> None:
    for line, found in (
        (b"LCS a b LEN", b"a b"),
        (b"BITOP AND d a b", b"a b d"),
        (b"ZUNIONSTORE d 2 a b WEIGHTS 1 2", b"a b d"),
        (b"BLMPOP 0 2 a b LEFT", b"a b"),
        (b"XGROUP CREATE a g $", b"a"),
        (b"XINFO STREAM a FULL", b"a"),
        (b"OBJECT ENCODING a", b"a"),
        (b"MEMORY USAGE a SAMPLES 5", b"a"),
        (b"SSUBSCRIBE a b", b"a b"),
        (b"SPUBLISH a m", b"a"),
        (b"CLUSTER KEYSLOT a", b""),
        (b"MSETEX 2 a 1 b 2 EX 5", b"a b"),
        (b"DELIFEQ a v", b"a"),
        (b"HGETEX a EX 5 FIELDS 1 f", b"a"),
        (b"BLPOP a b 0", b"a b"),
        (b"MSETNX a 1 b 2", b"a b"),
        (b"SUNSUBSCRIBE", b""),
        (b"EVAL x 0 a", b""),
        (b"FCALL f 1 a b", b"a"),
    ):
        assert keys_as_puerta_sees(line.split()) == found.split(), line


@pytest.mark.parametrize("name", [b"EVAL", b"EVAL_RO", b"FCALL"])
@pytest.mark.parametrize("number", [b"x", b"", b"-1", b"3", b"01", b"+1", b"-0", b" 1", b"1.0", *BIG])
def test_scripts_with_a_wrong_number_of_keys(valkey: Node, name: bytes, number: bytes) -> None:
    """In the server's words, whose own order of checks decides."""
    code = b"#!lua name=l\nserver.register_function('f', function() return 1 end)"
    assert valkey.call(b"FUNCTION", b"LOAD", b"REPLACE", code) == b"l"
    args = [name, b"f" if name == b"FCALL" else b"return 1", number, b"a", b"b"]
    spec = TABLE.get(name)
    assert spec is not None
    with pytest.raises(ValueError) as caught:
        commands.keys(spec, args)
    assert b"-" + caught.value.args[0] == valkey.line(*args)
