import pytest

from puerta.reactor import memory
from puerta.reactor.native import Buffer
from tests.proxy.front import rollup

pytestmark = pytest.mark.dataplane

MIB = 1 << 20
PIECE = 16 << 10


def held() -> int:
    return rollup("self", "Private_Dirty")


def test_what_was_freed_below_an_object_that_lives_on_is_given_back() -> None:
    memory.trim()
    before = held()
    buffers, kept = [], []
    for number in range(64 * MIB // PIECE):
        buffer = Buffer()
        buffer.append(b"x" * PIECE)
        buffers.append(buffer)
        kept.append(bytes(1000 + number % 7))
    assert held() - before > 60 * MIB
    del buffer
    buffers.clear()
    assert held() - before > 48 * MIB, "the C library gives it back by itself: then there is nothing to test"
    memory.trim()
    assert held() - before < 24 * MIB  # each piece that lives on keeps the page it is on
    assert len(kept) == 64 * MIB // PIECE
