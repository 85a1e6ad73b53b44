"""One list of what the nodes of a cluster can do beyond the built-in table, whatever they say."""

import logging
from typing import Any

import pytest

from puerta.blob import Blob
from puerta.board import COMMANDS_BYTES, Board
from puerta.health.learned import Learned, Told, beyond
from puerta.protocol.commands import MOST_COMMANDS, TABLE, extended
from puerta.protocol.entry import Entry, unpack
from puerta.protocol.keys import KeySpec

READS = frozenset({"readonly"})


def entry(name: str, key: int = 1, **more: Any) -> Entry:
    return Entry(name, -2, READS, (key, key, 1), **more)


@pytest.fixture
def blob() -> Blob:
    return Board().commands("cache")


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("puerta"), "propagate", True)
    caplog.set_level(logging.INFO, "puerta")


def listed(blob: Blob) -> list[Entry]:
    found = blob.read(0)
    return unpack(found[1]) if found is not None else []


def names(blob: Blob) -> list[str]:
    return [each.name for each in listed(blob)]


def test_what_any_node_has_is_listed_and_what_none_has_any_more_stays(blob: Blob) -> None:
    learned = Learned("cache", blob)
    steps: list[tuple[list[Told], list[str]]] = [
        ([()], []),
        ([(), (entry("M.B"),)], ["M.B"]),
        ([(entry("M.A"), entry("M.C")), (entry("M.B"),)], ["M.B", "M.A", "M.C"]),
        ([(entry("M.A"),)], ["M.B", "M.A", "M.C"]),
        ([], ["M.B", "M.A", "M.C"]),
    ]
    for told, wanted in steps:
        learned.take(told)
        assert names(blob) == wanted
    assert blob.version == 2


def test_most_nodes_are_believed_and_the_place_is_kept(blob: Blob) -> None:
    learned = Learned("cache", blob)
    old, new = entry("M.A", 1), entry("M.A", 2)
    for told, wanted in ([old, new], old), ([new, old], old), ([new, old, new], new), ([old, new], new):
        learned.take((each, entry("M.B")) for each in told)
        assert listed(blob) == [wanted, entry("M.B")]


def test_a_container_comes_before_its_subcommands_and_stays_one(blob: Blob) -> None:
    learned = Learned("cache", blob)
    learned.take([(entry("M.BOX", container=True), entry("M.BOX|GET", 2), entry("CONFIG|NEW"), entry("M.A"))])
    assert names(blob) == ["CONFIG|NEW", "M.A", "M.BOX", "M.BOX|GET"]
    learned.take([(entry("M.BOX", 3), entry("M.Z"))])
    assert listed(blob)[2:4] == [entry("M.BOX", container=True), entry("M.BOX|GET", 2)]
    numbers = [spec.name for spec in extended(listed(blob)).specs[len(TABLE.specs) :]]
    assert numbers == [b"CONFIG|NEW", b"M.A", b"M.BOX", b"M.BOX|GET", b"M.Z"]


def test_a_new_supervisor_goes_on_with_the_list(blob: Blob) -> None:
    Learned("cache", blob).take([(entry("M.Z"),)])
    Learned("cache", blob).take([(entry("M.A"),)])
    assert names(blob) == ["M.Z", "M.A"]
    blob.publish(b"nonsense")
    Learned("cache", blob).take([(entry("M.A"),)])
    assert names(blob) == ["M.A"]


@pytest.mark.parametrize("specs", [(), (KeySpec("K" * 64, 255, "range", 255, 255, 255),) * 16])
def test_nodes_can_not_fill_the_table_nor_the_board(
    blob: Blob, specs: tuple[KeySpec, ...], caplog: pytest.LogCaptureFixture
) -> None:
    learned = Learned("cache", blob)
    learned.take([(entry("M.FIRST"),)])
    for start in range(0, 9000, 3000):
        learned.take([tuple(entry(f"M.{number}", specs=specs) for number in range(start, start + 3000))])
    assert names(blob)[0] == "M.FIRST"
    assert 100 < len(names(blob)) <= MOST_COMMANDS - len(TABLE.specs)
    assert len(caplog.records) < 6
    found = blob.read(0)
    assert found is not None and len(found[1]) <= COMMANDS_BYTES


def test_what_is_new_in_a_reply() -> None:
    row = [b"m.x", -2, [b"readonly"], 1, 1, 1]
    known = [b"get", 2, [b"readonly"], 1, 1, 1]
    wider = [b"getset", -3, [b"write"], 1, 1, 1]
    assert [each.name for each in beyond([known, row, None, row, wider, [b"x" * 99, 1, [], 0, 0, 0]])] == [
        "M.X",
        "GETSET",
    ]
    for nonsense in ([], None, 5, b"x", [None], [[1, 2, 3]]):
        with pytest.raises(ValueError, match="COMMAND"):
            beyond(nonsense)
