"""Commands that a cluster has besides those of the table: modules, newer servers, and whatever a broken one may say."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puerta.protocol import commands
from puerta.protocol.commands import KEYED, PINNED, REFUSED, TABLE, Spec, Table
from puerta.protocol.entry import pack, read, unpack
from tests.protocol.conftest import Node

ATTRIBUTES = (
    "aggregate", "arity", "blocking", "first", "handler", "kind", "last", "name", "readonly", "reason", "step", "write",
)  # fmt: skip


def fresh() -> Table:
    return Table(commands.entries())


def described(
    name: bytes, arity: int = -2, flags: tuple[bytes, ...] = (), keys: tuple[int, int, int] = (0, 0, 0), *more: Any
) -> list[Any]:
    """One element of a COMMAND reply."""
    return [name, arity, list(flags), *keys, *more]


def learned(*row: Any) -> Spec:
    (spec,) = fresh().learn(read([described(*row)]))
    return spec


def test_a_table_learned_from_a_server_is_the_same(valkey: Node) -> None:
    table = Table([])
    assert len(table.learn(read(valkey.call(b"COMMAND")))) == len(TABLE.specs)
    for spec in table.specs:
        own = TABLE.resolve(spec.name.split(b"|"))
        assert own is not None
        assert [getattr(spec, name) for name in ATTRIBUTES] == [getattr(own, name) for name in ATTRIBUTES]
        assert (spec.finder is None) == (own.finder is None) and (spec.subcommands is None) == (own.subcommands is None)


def test_what_is_known_does_not_change() -> None:
    table = fresh()
    before = [(spec, spec.kind, spec.arity, spec.first) for spec in table.specs]
    assert table.learn(read([described(b"get", 9, (b"admin",)), described(b"shutdown", -1, (b"readonly",))])) == []
    assert before == [(spec, spec.kind, spec.arity, spec.first) for spec in table.specs]


def test_a_known_command_may_take_more_arguments_but_never_fewer() -> None:
    table = fresh()
    row = table.resolve([b"PEXPIREAT", b"k"])
    assert row is not None
    row.arity = 3  # as it was in Redis 6
    said = [described(b"pexpireat", -2), described(b"get", -3), described(b"ping", -1), described(b"echo", -2)]
    assert table.learn(read([*said, described(b"get", -2, (), (0, 0, 0), [], [], [], [described(b"get|x", -2)])])) == [
        row, table.get(b"GET"),
    ]  # fmt: skip
    assert (row.arity, row.first) == (-3, 1)
    assert [(spec.arity, spec.first) for spec in (table.get(b"GET"), table.get(b"ECHO")) if spec] == [(-2, 1), (2, 0)]


def test_what_is_known_of_one_cluster_is_not_of_another() -> None:
    before = TABLE.get(b"CONFIG")
    assert before is not None and before.subcommands is not None
    fresh().learn(read([described(b"m.x", 2, (b"readonly",)), described(b"get", -2)]))
    assert TABLE.get(b"M.X") is None
    assert TABLE.resolve([b"GET"]).arity == 2  # type: ignore[union-attr]


def test_workers_get_what_the_supervisor_learned(valkey: Node) -> None:
    entries = list(read(valkey.call(b"COMMAND")))
    assert unpack(pack(entries)) == entries


def test_new_commands_by_what_the_server_says() -> None:
    spec = learned(b"json.get", -2, (b"readonly", b"module"), (1, 1, 1))
    assert (spec.name, spec.kind, spec.readonly, spec.first, spec.index) == (
        b"JSON.GET",
        KEYED,
        True,
        1,
        len(TABLE.specs),
    )
    assert learned(b"json.mget", -3, (b"readonly",), (1, -2, 1)).last == -2
    assert learned(b"m.keyless", 1, (b"readonly",)).kind == KEYED
    assert learned(b"m.waits", -2, (b"write", b"blocking"), (1, 1, 1)).kind == PINNED
    for row in (
        (b"m.write", -2, (b"write",)),
        (b"m.nothing", -2),
        (b"m.admin", -2, (b"admin",), (1, 1, 1)),
        (b"m.sub", -2, (b"pubsub",), (1, 1, 1)),
        (b"m.waits", -2, (b"readonly", b"blocking")),
        (b"m.dangerous", -2, (b"readonly",), (0, 0, 0), [b"@dangerous"]),
        (b"m.moves", -2, (b"readonly", b"movablekeys")),
    ):
        assert learned(*row).kind == REFUSED, row
        assert b"M." in learned(*row).reason


def test_places_beyond_the_shortest_argument_list_are_checked() -> None:
    spec = learned(b"m.far", -2, (b"readonly",), (1, 3, 1))
    assert spec.first == 0
    assert commands.keys(spec, [b"m.far", b"a"]) == [1]
    assert commands.keys(spec, [b"m.far", b"a", b"b", b"c", b"d"]) == [1, 2, 3]


@pytest.mark.parametrize("places", [(1, 1, 1), (2, 2, 1), (1, 3, 1), (1, -1, 1), (1, -1, 2), (1, -2, 1), (2, -3, 2)])
def test_a_call_of_a_modules_command_that_is_long_enough_has_fixed_places(places: tuple[int, int, int]) -> None:
    table = fresh()
    (spec,) = table.learn(read([described(b"m.any", -1, (b"readonly",), places)]))
    usual = table.usual(spec)
    assert (spec.first, spec.arity, table.resolve([b"m.any"]) is spec) == (0, -1, True)
    assert (usual.first, usual.last, usual.step) == places
    assert (usual.name, usual.index, usual.kind, usual.readonly) == (b"M.ANY", spec.index, KEYED, True)
    for count in range(1, 12):
        args = [b"m.any", *[b"k"] * (count - 1)]
        if commands.check_arity(usual, count):
            assert commands.keys(usual, args) == commands.keys(spec, args) != []
    assert commands.check_arity(usual, 6)


def test_who_has_keys_at_other_places_too_has_no_such_calls() -> None:
    assert [spec for spec in TABLE.specs if TABLE.usual(spec) is not spec] == []
    table = fresh()
    (spec,) = table.learn(read([described(b"m.any", -1, (b"readonly", b"movablekeys"), (1, 1, 1))]))
    assert table.usual(spec) is spec


def test_specifications_in_both_protocols() -> None:
    begin = {b"type": b"keyword", b"spec": {b"keyword": b"KEYS", b"startfrom": -2}}
    find = {b"type": b"range", b"spec": {b"lastkey": -1, b"keystep": 2, b"limit": 2}}
    resp3 = {b"flags": [], b"begin_search": begin, b"find_keys": find}
    for raw in (resp3, flat(resp3)):
        spec = learned(b"m.find", -2, (b"movablekeys", b"readonly"), (0, 0, 0), [], [], [raw], [])
        assert spec.kind == KEYED
        args = [b"m.find", b"keys", b"a", b"1", b"b", b"2", b"x"]
        assert [args[place] for place in commands.keys(spec, args)] == [b"a"]
        assert commands.keys(spec, [b"m.find", b"a", b"b"]) == []


def flat(value: Any) -> Any:
    """A map as RESP2 writes it."""
    return [part for key, item in value.items() for part in (key, flat(item))] if isinstance(value, dict) else value


def test_new_subcommands() -> None:
    table = fresh()
    config = [described(b"config|get", 9), described(b"config|new", 2), described(b"other|new", 2)]
    box = [described(b"m.box|get", 3, (b"readonly",), (2, 2, 1))]
    containers = {b"config": config, b"m.box": box, b"mget": [described(b"mget|new", 2)]}
    reply = [described(name, -2, (), (0, 0, 0), [], [], [], inner) for name, inner in containers.items()]
    added = table.learn(read(reply))
    assert [spec.name for spec in added] == [b"CONFIG|NEW", b"M.BOX", b"M.BOX|GET"]
    assert [spec.index for spec in added] == [len(TABLE.specs) + place for place in range(3)]
    assert table.resolve([b"config", b"new"]) is added[0] and added[0].kind == REFUSED
    found = table.resolve([b"M.box", b"get", b"k"])
    assert found is added[2] and commands.keys(found, [b"M.box", b"get", b"k"]) == [2]
    assert table.resolve([b"m.box", b"set"]) is None


def test_a_cluster_can_not_fill_the_table() -> None:
    table = fresh()
    table.learn(read([described(b"c%d" % number, 2, (b"readonly",), (1, 1, 1)) for number in range(5000)]))
    assert len(table.specs) == commands.MOST_COMMANDS
    assert table.learn(read([described(b"more", 2)])) == []


@pytest.mark.parametrize(
    "row",
    [
        described(b"", 2), described(b"n" * 65, 2), described(b"a b", 2), described(b"a\r\nb", 2), described(b"\xff", 2),
        described(b"a|b", 2), described(b"a", 0), described(b"a", 1 << 40), [b"a", b"2", [], 0, 0, 0], [None, 2, [], 0, 0, 0],
        [b"a", True, [], 0, 0, 0], described(b"a", 2, (), (1, 1, 1 << 70)), [b"a", 2, []], [], None, b"a", 7,
    ],
)  # fmt: skip
def test_malformed_descriptions_are_passed_over(row: Any) -> None:
    table = fresh()
    assert [spec.name for spec in table.learn(read([row, described(b"good", 2, (b"readonly",))]))] == [b"GOOD"]


PARTS = {
    b"range": (b"lastkey", b"keystep", b"limit"),
    b"keynum": (b"keynumidx", b"firstkey", b"keystep"),
}
WORDS = [b"index", b"keyword", b"range", b"keynum", b"movablekeys", b"readonly"]
numbers = st.integers(-300, 300)
small = st.integers(-3, 3)
values = st.recursive(
    st.one_of(st.none(), numbers, st.sampled_from(WORDS), st.binary(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from([b"type", b"spec", b"index", b"limit"]), inner)
    ),
    max_leaves=12,
)


@st.composite
def key_specs(draw: st.DrawFn) -> dict[bytes, Any]:
    find = draw(st.sampled_from(sorted(PARTS)))
    where = {b"index": draw(small), b"keyword": draw(st.sampled_from([b"K", b"\0"])), b"startfrom": draw(small)}
    return {
        b"begin_search": {b"type": draw(st.sampled_from([b"index", b"keyword"])), b"spec": where},
        b"find_keys": {b"type": find, b"spec": {part: draw(st.one_of(small, numbers)) for part in PARTS[find]}},
    }


@st.composite
def descriptions(draw: st.DrawFn) -> Any:
    places = draw(st.tuples(small, small, small))
    specs = draw(st.lists(st.one_of(key_specs(), values), max_size=3))
    name, arity = draw(st.sampled_from([b"x", b"y", b"x|y"])), draw(st.one_of(small, numbers))
    return described(name, arity, (b"movablekeys",), places, draw(values), draw(values), specs, draw(values))


@given(
    rows=st.lists(st.one_of(values, descriptions()), max_size=3),
    rest=st.lists(st.sampled_from([b"x", b"K", b"1", b"2", b"9", b"-1"]), max_size=8),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_description_puts_keys_where_there_are_no_arguments(rows: list[Any], rest: list[bytes]) -> None:
    for spec in Table([]).learn(read(rows)):
        args = [*spec.name.split(b"|"), *rest]
        if commands.check_arity(spec, len(args)):
            places = commands.keys(spec, args)
            assert all(0 < place < len(args) for place in places)
        assert not spec.first or (spec.first < abs(spec.arity) and spec.last < abs(spec.arity))
