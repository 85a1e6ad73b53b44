"""What processes tell each other through shared memory is whole, whoever is overtaken or killed."""

import errno
import mmap
import os
import signal
import time

import pytest

from puerta.blob import Blob
from puerta.board import BUCKETS, COMMANDS, NODES, REDIS, ROWS, Board
from puerta.errors import BoardFull

LENGTHS = (0, 1, 7, 8, 4096, 60_000)
SIZE = 64 << 10


def content(version: int) -> bytes:
    """What the writer publishes as its n-th: every byte depends on n, and so does the length."""
    return bytes([version % 251]) * LENGTHS[version % len(LENGTHS)]


@pytest.fixture
def board() -> Board:
    return Board(1 << 20)


def test_nothing_is_read_before_the_first_publication(board: Board) -> None:
    assert board.blob("a", SIZE).read(0) is None


def test_a_version_is_read_once(board: Board) -> None:
    blob = board.blob("a", SIZE)
    for number in range(1, 8):
        assert blob.publish(content(number)) == number
        assert blob.read(number - 1) == (number, content(number))
        assert blob.read(number) is None
    assert blob.version == 7


def test_a_blob_is_found_again_by_its_name(board: Board) -> None:
    board.blob("a", SIZE).publish(b"one")
    board.blob("b", SIZE).publish(b"two")
    assert board.blob("a", SIZE).read(0) == (1, b"one")
    assert board.blob("b", SIZE).read(0) == (1, b"two")


def test_what_is_too_long_is_refused_and_changes_nothing(board: Board) -> None:
    blob = board.blob("a", 10)
    blob.publish(b"x" * 10)
    with pytest.raises(BoardFull, match="11 bytes"):
        blob.publish(b"y" * 11)
    assert blob.read(0) == (1, b"x" * 10)


def test_a_writer_that_was_killed_halfway_leaves_the_last_version(board: Board) -> None:
    blob = board.blob("a", SIZE)
    blob.publish(b"one" * 100)
    half = blob.base + 1  # version 2 goes here; its writer dies before it moves the pointer
    blob.cells[half], blob.cells[half + 1], blob.cells[half + 2] = 2, 5, 12345
    assert blob.read(0) == (1, b"one" * 100)
    assert Blob(blob.cells, blob.base, SIZE).publish(b"two") == 2
    assert blob.read(1) == (2, b"two")


@pytest.mark.parametrize("cell", [0, 1, 2, 3], ids=["version", "length", "checksum", "bytes"])
def test_a_torn_half_is_never_taken(board: Board, cell: int) -> None:
    blob = board.blob("a", SIZE)
    version = blob.publish(b"some bytes")
    blob.cells[blob.base + 1 + (version & 1) * blob.half + cell] ^= 1 << 20
    assert blob.read(0) is None


def test_two_processes_never_see_a_torn_blob(board: Board) -> None:
    blob = board.blob("a", SIZE)
    writer = os.fork()
    if not writer:
        while True:
            blob.publish(content(blob.version + 1))
    try:
        seen, last, deadline = 0, 0, time.monotonic() + 1.5
        while time.monotonic() < deadline:
            found = blob.read(last)
            if found is not None:
                assert found[0] > last
                assert found[1] == content(found[0])
                last, seen = found[0], seen + 1
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert seen > 100
    found = blob.read(0)  # its end came in the middle of something
    assert found is not None
    assert found[1] == content(found[0])


def test_histograms_are_summed_over_the_rows_asked_for() -> None:
    histograms = Board().latency("cache")
    cells = histograms.cells
    for row, command, bucket, amount in ((0, 0, 0, 1), (1, 0, 0, 2), (1, COMMANDS - 1, BUCKETS - 1, 5), (2, 7, 3, 9)):
        cells[histograms.index(row, command) + bucket] += amount
        cells[histograms.sum_index(row, command)] += amount * 10
    found = histograms.totals([0, 1])
    assert set(found) == {0, COMMANDS - 1}
    assert found[0] == ([3] + [0] * (BUCKETS - 1), 30)
    assert found[COMMANDS - 1] == ([0] * (BUCKETS - 1) + [5], 50)


def test_no_two_cells_of_histograms_are_the_same() -> None:
    histograms = Board().latency("cache")
    firsts = [histograms.index(row, command) for row in (0, 1, ROWS - 1) for command in (0, 1, COMMANDS - 1)]
    cells = [first + bucket for first in firsts for bucket in range(BUCKETS)]
    cells += [histograms.sum_index(row, command) for row in (0, 1, ROWS - 1) for command in (0, 1, COMMANDS - 1)]
    assert len(set(cells)) == len(cells)
    assert max(cells) < histograms.base + ROWS * COMMANDS * (BUCKETS + 1)


def test_a_redis_route_has_all_its_places_before_the_fork() -> None:
    board = Board()
    board.lay_out([("mongo", ["a:1"])], ["cache", "other"])
    assert board.used < len(board.cells) // 2  # room for a reload with routes of other names
    used = board.used
    (
        board.redis("cache"),
        board.latency("cache"),
        board.topology("cache"),
        board.commands("cache"),
        board.node("cache", NODES - 1),
    )
    board.route("other"), board.verdict("mongo", "a:1")
    assert board.used == used


def test_a_full_board_says_what_to_do() -> None:
    with pytest.raises(BoardFull, match=r"latency cache .* restart"):
        Board(mmap.PAGESIZE * 64).latency("cache")


def test_a_row_is_released_with_its_gauges_at_zero_and_its_counters_kept() -> None:
    board = Board()
    board.lay_out([], ["cache"])
    for name in REDIS:
        board.redis("cache").set(5, name, 3)
    board.node("cache", 9).set(5, "connections", 3)
    board.node("cache", 9).set(5, "connections_total", 3)
    board.node("cache", 9).set(5, "in_flight", 3)
    board.release(5)
    gauges = {"upstream_connections", "pinned", "pinned_pool", "topology_version", "shared_resp2", "shared_resp3"}
    assert board.redis("cache").row(5) == {name: 0 if name in gauges else 3 for name in REDIS}
    assert board.node("cache", 9).get(5, "connections") == board.node("cache", 9).get(5, "in_flight") == 0
    assert board.node("cache", 9).get(5, "connections_total") == 3


def test_a_board_has_room_for_many_redis_routes() -> None:
    Board().lay_out([], [f"cache{number}" for number in range(40)])


def test_a_smaller_board_must_do_where_address_space_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = mmap.mmap

    def strict(descriptor: int, size: int, flags: int) -> mmap.mmap:
        if size > 1 << 30:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return plain(descriptor, size, flags)

    monkeypatch.setattr(mmap, "mmap", strict)
    Board().lay_out([], ["cache"])
