"""The command table and its errors, against what real servers say."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from puerta.protocol import commands, reference
from puerta.protocol.commands import KEYED, LOCAL, PINNED, REFUSED, SPLIT, TABLE, Spec
from puerta.protocol.entry import Entry, read
from puerta.protocol.policy import POLICIES
from tests.protocol.conftest import Node

slowly = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ENTRIES = {entry.name: entry for entry in commands.entries()}


def spec_of(name: str) -> Spec:
    spec = TABLE.resolve(name.encode().split(b"|"))
    assert spec is not None
    return spec


def test_no_command_of_a_server_is_missing(node: Node) -> None:
    reply = node.call(b"COMMAND")
    names = {entry[0].upper() for entry in reply} | {inner[0].upper() for entry in reply for inner in entry[9]}
    assert len(names) > 350
    missing = names - {spec.name for spec in TABLE.specs}
    assert not missing, (
        "renew puerta/protocol/commands.json with playground/update_commands.py, and decide on these in policy.py"
    )


def test_the_data_is_what_valkey_says(valkey: Node) -> None:
    said = {entry.name: entry for entry in read(valkey.call(b"COMMAND"))}
    assert said == {name: ENTRIES[name] for name in said}


def test_every_command_without_keys_was_decided_on() -> None:
    assert {name for name, entry in ENTRIES.items() if not entry.has_keys()} - set(POLICIES) == set()


def test_no_decision_on_a_command_that_does_not_exist() -> None:
    assert set(POLICIES) - set(ENTRIES) == set()


def test_what_servers_want_sent_to_several_nodes_is_not_just_forwarded() -> None:
    several = {
        name for name, entry in ENTRIES.items() if any(tip.startswith("request_policy:") for tip in entry.tips)
    }  # fmt: skip
    assert len(several) > 30
    forwarded = {name for name in several if spec_of(name).kind == KEYED}
    assert forwarded == {"MSETEX", "CLUSTERSCAN"}


def test_rows_are_numbered_by_name_and_complete() -> None:
    assert [spec.index for spec in TABLE.specs] == list(range(len(TABLE.specs)))
    assert [spec.name.split(b"|") for spec in TABLE.specs] == sorted(spec.name.split(b"|") for spec in TABLE.specs)
    for spec in TABLE.specs:
        assert bool(spec.reason) == (spec.kind == REFUSED)
        assert bool(spec.aggregate) == (spec.kind == SPLIT)
        assert spec.handler or spec.kind not in (LOCAL, PINNED)
        assert not (spec.first and spec.finder)
        assert not (spec.readonly and spec.write)


def test_fixed_places_are_within_every_argument_list_of_a_right_length() -> None:
    """The compiled path reads them unchecked."""
    for spec in TABLE.specs:
        shortest = abs(spec.arity)
        assert 0 <= spec.first < shortest or not spec.first
        assert spec.last < shortest
        assert spec.step > 0 or not spec.first


def test_reasons_read_well() -> None:
    shutdown = spec_of("SHUTDOWN").reason
    assert shutdown == b"ERR 'SHUTDOWN' is not available through Puerta: it would stop a node of the cluster"
    assert spec_of("CONFIG|SET").reason.startswith(b"ERR 'CONFIG SET' is not available through Puerta: ")
    for spec in TABLE.specs:
        assert b"\n" not in spec.reason and not spec.reason.endswith(b".")


@pytest.mark.parametrize(
    ("name", "kind", "handler"),
    [
        ("GET", KEYED, b""),
        ("PUBLISH", KEYED, b""),
        ("SPUBLISH", KEYED, b""),
        ("MSETNX", KEYED, b""),
        ("MGET", SPLIT, b"mget"),
        ("SCAN", SPLIT, b"scan"),
        ("SCRIPT|KILL", SPLIT, b"kill"),
        ("FLUSHALL", SPLIT, b""),
        ("HELLO", LOCAL, b"hello"),
        ("CLIENT|REPLY", LOCAL, b"client"),
        ("CLUSTER|SLOTS", LOCAL, b"cluster"),
        ("WATCH", PINNED, b"watch"),
        ("BLPOP", PINNED, b"blocking"),
        ("BRPOPLPUSH", PINNED, b"blocking"),
        ("XREADGROUP", PINNED, b"xread"),
        ("SSUBSCRIBE", PINNED, b"subscribe"),
        ("MONITOR", REFUSED, b""),
        ("CLIENT|TRACKING", REFUSED, b""),
        ("MIGRATE", REFUSED, b""),
    ],
)
def test_what_becomes_of(name: str, kind: int, handler: bytes) -> None:
    assert (spec_of(name).kind, spec_of(name).handler) == (kind, handler)


def test_what_writes_never_counts_as_reading() -> None:
    for name in (
        "GETSET",
        "GETEX",
        "GETDEL",
        "XADD",
        "EVAL",
        "FCALL",
        "PUBLISH",
        "SORT",
        "XREADGROUP",
        "PFADD",
        "SPOP",
    ):
        assert not spec_of(name).readonly, name
    for name in (
        "GET",
        "COMMAND",
        "COMMAND|GETKEYS",
        "LOLWUT",
        "OBJECT|HELP",
        "EVAL_RO",
        "FCALL_RO",
        "SORT_RO",
        "MGET",
        "XREAD",
        "PFCOUNT",
    ):
        assert spec_of(name).readonly, name


def test_look_ups() -> None:
    assert TABLE.get(b"gEt") is TABLE.resolve([b"GET", b"x"])
    assert TABLE.get(b"CONFIG|GET") is None
    assert TABLE.get(b"") is None
    assert TABLE.resolve([b"config", b"gEt", b"x"]) is spec_of("CONFIG|GET")
    assert TABLE.resolve([b"config"]) is TABLE.get(b"CONFIG")
    assert TABLE.resolve([b"config", b"nonsense"]) is None
    assert TABLE.resolve([b"nonsense"]) is None


def test_the_reference_is_up_to_date() -> None:
    document = Path(__file__).parents[2] / "docs/redis-commands.md"
    assert document.read_text() == reference.reference(), "python -m puerta.protocol.reference > docs/redis-commands.md"


def test_the_reference_has_a_row_for_every_command_of_a_server(node: Node) -> None:
    text = (Path(__file__).parents[2] / "docs/redis-commands.md").read_text()
    for entry in read(node.call(b"COMMAND")):
        if not entry.container or entry.arity == -1:  # a container alone is an error
            assert text.count(f"\n| `{entry.name.replace('|', ' ')}` | ") == 1, entry.name


def test_entries_survive_their_file() -> None:
    for name, entry in ENTRIES.items():
        assert Entry.load(name, entry.dump()) == entry


# -- errors

words = st.one_of(
    st.binary(max_size=8), st.binary(min_size=100, max_size=200), st.text("ab\r\n\0'", max_size=6).map(str.encode)
)


@given(name=st.one_of(st.just(b"nonsense"), st.binary(max_size=200)), rest=st.lists(words, max_size=6))
@slowly
def test_unknown_commands_in_the_servers_words(valkey: Node, name: bytes, rest: list[bytes]) -> None:
    assume(TABLE.get(name) is None)
    assert b"-" + commands.unknown_command([name, *rest]) == valkey.line(name, *rest)


@given(name=st.sampled_from([b"config", b"CLUSTER", b"xInfo"]), part=words, rest=st.lists(words, max_size=2))
@slowly
def test_unknown_subcommands_in_the_servers_words(valkey: Node, name: bytes, part: bytes, rest: list[bytes]) -> None:
    args = [name, part, *rest]
    assume(TABLE.resolve(args) is None)
    assert b"-" + commands.unknown_subcommand(args) == valkey.line(*args)


def test_wrong_arities_in_the_servers_words(valkey: Node) -> None:
    tried = 0
    for spec in TABLE.specs:
        name = spec.name.split(b"|")
        lengths = [abs(spec.arity) - 1] + ([spec.arity + 1] if spec.arity > 0 else [])
        for length in lengths:
            args = [*name, *[b"x"] * (length - len(name))]
            if len(args) == length:
                assert not commands.check_arity(spec, length)
                assert b"-" + commands.wrong_arity(spec) == valkey.line(*args)
                tried += 1
    assert tried > 450


def test_arity() -> None:
    get, mget, command = spec_of("GET"), spec_of("MGET"), spec_of("COMMAND")
    assert [commands.check_arity(get, argc) for argc in (1, 2, 3)] == [False, True, False]
    assert [commands.check_arity(mget, argc) for argc in (1, 2, 900)] == [False, True, True]
    assert commands.check_arity(command, 1)
