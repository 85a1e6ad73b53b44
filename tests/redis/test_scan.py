"""SCAN over all nodes: every key comes, the cursor is a number like any other, and a changed cluster ends it cleanly."""

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from puerta.protocol.slots import slot_of
from tests.redis.conftest import Front
from tests.redis.wire import Wire, decoded

pytestmark = pytest.mark.dataplane

CHANGED = b"-ERR the masters of the cluster have changed since this SCAN began; begin again with cursor 0\r\n"
KEYS = [f"{kind}{number}" for kind in ("text", "list", "set") for number in range(150)]


@pytest.fixture
def full(wire: Wire) -> Wire:
    """A connection to a cluster that holds KEYS."""
    commands: list[tuple[str, ...]] = [("SET", key, "x") for key in KEYS[:150]]
    commands += [("RPUSH", key, "x") for key in KEYS[150:300]] + [("SADD", key, "x") for key in KEYS[300:]]
    assert set(wire.pipeline(commands)) <= {b"+OK\r\n", b":1\r\n"}
    return wire


def pages(wire: Wire, *options: str | int, most: int = 2000) -> Iterator[tuple[bytes, list[bytes]]]:
    """(cursor, keys) up to the last, whose cursor is 0."""
    cursor = b"0"
    for _ in range(most):
        cursor, keys = decoded(wire.ask("SCAN", cursor, *options))
        yield cursor, keys
        if cursor == b"0":
            return
    raise AssertionError(f"no end after {most} pages")


def scanned(wire: Wire, *options: str | int) -> list[str]:
    return sorted(key.decode() for _, keys in pages(wire, *options) for key in keys)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("options", [(), ("COUNT", 1), ("COUNT", 7), ("COUNT", 1000), ("count", 100_000)])
def test_every_key_comes_once(full: Wire, protocol: int, options: tuple[str | int, ...]) -> None:
    full.ask("HELLO", protocol)
    assert scanned(full, *options) == sorted(KEYS)


def test_options_hold_on_every_node(full: Wire) -> None:
    assert scanned(full, "MATCH", "set1*") == sorted(key for key in KEYS if key.startswith("set1"))
    assert scanned(full, "TYPE", "list", "COUNT", 20) == sorted(KEYS[150:300])
    assert scanned(full, "COUNT", 30, "match", "*9", "type", "string") == sorted(
        key for key in KEYS[:150] if key[-1] == "9"
    )
    assert scanned(full, "MATCH", "nosuch*") == []


def test_a_tag_in_the_pattern(full: Wire) -> None:
    """A server looks through that slot alone; here it is one node's, and the others must not spoil it."""
    full.pipeline([("SET", f"{{tag}}{number}", "x") for number in range(40)])
    assert scanned(full, "MATCH", "{tag}*", "COUNT", 10) == sorted(f"{{tag}}{number}" for number in range(40))


def test_an_empty_cluster(wire: Wire) -> None:
    assert scanned(wire) == [] and scanned(wire, "MATCH", "*", "COUNT", "10", "TYPE", "hash") == []


def test_cursors_are_numbers_of_64_bits_that_any_connection_may_use(full: Wire, connect: Callable[..., Wire]) -> None:
    cursor, found, seen = b"0", [], []
    while True:
        cursor, keys = decoded(connect().ask("SCAN", cursor, "COUNT", 50))
        found += keys
        if cursor == b"0":
            break
        seen.append(int(cursor))
    assert sorted(key.decode() for key in found) == sorted(KEYS)
    assert len(set(seen)) == len(seen) > 5 and all(0 < number < 1 << 63 for number in seen)


def test_a_cursor_is_never_taken_for_another(full: Wire) -> None:
    """Made up, of another cluster, or of a node that is not there."""
    source = random.Random(1)
    cursors = [cursor for cursor, _ in pages(full, "COUNT", 50)][:-1]
    for cursor in cursors[:5]:
        for other in (int(cursor) ^ 1, int(cursor) ^ 512, int(cursor) + (1 << 10) * 3, int(cursor) | 1023 << 10):
            assert full.ask("SCAN", other)[:1] in b"-*", other
    refused = Counter(full.ask("SCAN", source.randrange(1, 1 << 64))[:4] for _ in range(200))
    assert refused[b"-ERR"] > 190
    assert full.ask("SCAN", "1") == CHANGED and full.ask("SCAN", str((1 << 64) - 1)) == CHANGED
    assert scanned(full) == sorted(KEYS)


def test_keys_that_come_and_go_do_not_hide_those_that_stay(full: Wire, connect: Callable[..., Wire]) -> None:
    other, found = connect(), set()
    for number, (_, keys) in enumerate(pages(full, "COUNT", 10)):
        found |= {key.decode() for key in keys}
        other.pipeline([("SET", f"new{number}.{each}", "x") for each in range(10)])
        if number % 3 == 0:
            other.ask("DEL", *[f"new{number}.{each}" for each in range(10)])
        if number > 400:
            break
    assert set(KEYS) <= found


def test_slots_that_move_meanwhile(full: Wire, front: Front) -> None:
    """The masters are the same ones: the scan goes on, and what did not move is seen."""
    cluster, found = front.cluster, set()
    moved: set[int] = set()
    for number, (_, keys) in enumerate(pages(full, "COUNT", 40)):
        found |= {key.decode() for key in keys}
        if number < 5:
            slot = slot_of(KEYS[number * 7].encode())
            moved.add(slot)
            owner = cluster.master_of_slot(slot)
            cluster.migrate_slot(slot, cluster.masters[(cluster.masters.index(owner) + 1) % 3])
    assert {key for key in KEYS if slot_of(key.encode()) not in moved} <= found
    assert scanned(full) == sorted(KEYS)
