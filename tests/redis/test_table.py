"""Every row of the command table has somebody who deals with it, and every command gets an answer."""

from collections.abc import Callable

import pytest

from puerta.protocol import commands, spec
from puerta.protocol.commands import KEYED, LOCAL, PINNED, REFUSED, SPLIT, TABLE
from puerta.proxy import redis_local, redis_pinned, redis_server, redis_split
from puerta.proxy.redis_gather import COMBINE
from tests.redis.conftest import Front
from tests.redis.wire import Wire, request

OF_KIND = {kind: [row for row in TABLE.specs if row.kind == kind] for kind in (KEYED, LOCAL, PINNED, REFUSED, SPLIT)}


def test_all_local_commands_have_a_handler_and_no_handler_is_idle() -> None:
    assert {row.handler for row in OF_KIND[LOCAL]} == set(redis_local.HANDLERS)


@pytest.mark.parametrize(
    ("handler", "verbs"), [(b"client", redis_local.CLIENT_VERBS), (b"cluster", redis_server.CLUSTER_VERBS)]
)
def test_all_local_subcommands_have_one_too(handler: bytes, verbs: dict[bytes, object]) -> None:
    assert {row.name.partition(b"|")[2] for row in OF_KIND[LOCAL] if row.handler == handler} == set(verbs)


def test_all_pinned_commands_have_a_handler_and_no_handler_is_idle() -> None:
    assert {row.handler for row in OF_KIND[PINNED]} == set(redis_pinned.HANDLERS)


def test_all_split_commands_have_a_handler_or_go_to_all_masters_and_come_together_again() -> None:
    assert {row.handler for row in OF_KIND[SPLIT]} - {b""} == set(redis_split.HANDLERS)
    for row in OF_KIND[SPLIT]:
        apart = (b"scan", b"wait", b"waitaof", b"kill")
        assert row.aggregate in COMBINE or row.aggregate == commands.ARRAY_BY_POSITION or row.handler in apart, row
    assert set(COMBINE) <= {row.aggregate for row in OF_KIND[SPLIT]}


def test_what_is_split_by_slot_has_its_keys_at_fixed_places_from_the_first_to_the_last() -> None:
    by_slot = [row for row in OF_KIND[SPLIT] if redis_split.HANDLERS.get(row.handler) is redis_split.split_by_slot]
    assert {row.name for row in by_slot} == {b"MGET", b"MSET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"}
    for row in by_slot:
        assert (row.first, row.last, row.step) == (1, -1, 2 if row.name == b"MSET" else 1)


def test_the_compiled_session_has_the_same_numbers_for_the_kinds() -> None:
    """redis_session.pxd names the first two again."""
    assert (spec.KEYED, spec.SPLIT) == (0, 1)


# -- and through Puerta

CLOSES = (b"QUIT",)


def words(name: bytes, count: int) -> list[bytes]:
    named = name.split(b"|")
    return [*named, *[b"x"] * (count - len(named))]


@pytest.mark.dataplane
def test_every_command_of_every_kind_is_answered_once(connect: Callable[..., Wire]) -> None:
    """With as few arguments as it may have, all `x`, and with one more."""
    wire = connect()
    for row in TABLE.specs:
        if row.name in CLOSES:
            continue
        for count in (abs(row.arity), abs(row.arity) + 1):
            wire.send(request(*words(row.name, count)) + request("RESET") + request("ECHO", row.name))
            frames = [wire.frame()]
            while frames[-1] != b"$%d\r\n%s\r\n" % (len(row.name), row.name):
                frames.append(wire.frame())
            confirmations = max(1, count - 1) if b"SUBSCRIBE" in row.name else 1
            assert len(frames) == 2 + confirmations, (row, frames)


@pytest.mark.dataplane
def test_refused_commands_say_why(connect: Callable[..., Wire]) -> None:
    wire = connect()
    for row in OF_KIND[REFUSED]:
        said = wire.ask(*words(row.name, abs(row.arity)))
        shown = row.name.replace(b"|", b" ")
        assert said.startswith(b"-ERR '%s' is not available through Puerta: " % shown), row
    names = {row.name for row in OF_KIND[REFUSED]}
    assert names >= {
        b"SYNC",
        b"PSYNC",
        b"MONITOR",
        b"DEBUG",
        b"SHUTDOWN",
        b"REPLICAOF",
        b"CLUSTER|SETSLOT",
        b"CLIENT|TRACKING",
    }


@pytest.mark.dataplane
def test_wrong_arity_and_unknown_names_are_the_servers_for_every_command(
    front: Front, connect: Callable[..., Wire]
) -> None:
    ours, theirs = connect(), front.cluster.masters[0]
    with Wire(theirs.port) as node:
        for row in TABLE.specs:
            count = abs(row.arity) - 1 if row.arity < 0 else row.arity + 1
            asked = words(row.name, count)
            if len(asked) != count or row.name in CLOSES or (count == 1 and row.subcommands):
                continue
            if TABLE.resolve(asked) is row:
                assert ours.ask(*asked) == node.ask(*asked), asked
        for container in (row for row in TABLE.specs if row.subcommands):
            assert ours.ask(container.name, "no\r\nsuch") == node.ask(container.name, "no\r\nsuch")
