"""The map of a worker from slots to nodes, against a list that says the same."""

import random
from typing import Any

import pytest

from puerta.protocol.slots import SLOTS
from puerta.proxy.redis_slots import SlotMap


@pytest.mark.parametrize("seed", range(20))
def test_as_a_list_would_have_it(seed: int) -> None:
    choose = random.Random(seed)
    nodes = [object() for _ in range(choose.randint(1, 300))]
    slots, wanted = SlotMap(), [None] * SLOTS
    for _ in range(200):
        first = choose.randrange(SLOTS)
        last = min(SLOTS - 1, first + choose.choice((0, 0, 1, 63, 64, choose.randrange(SLOTS))))
        node: Any = choose.choice([None, *nodes])
        slots.put(first, last, node)
        wanted[first : last + 1] = [node] * (last + 1 - first)
        for slot in (0, first - 1, first, last, last + 1, SLOTS - 1):
            if 0 <= slot < SLOTS:
                assert slots.owner(slot) is wanted[slot]
    assert slots.owners() == wanted
    assert [slots.owner(slot) for slot in range(SLOTS)] == wanted


def test_nobody_has_any_at_first() -> None:
    assert set(SlotMap().owners()) == {None}


def test_every_slot_of_another_node_than_its_neighbours() -> None:
    slots = SlotMap()
    nodes = [object() for _ in range(1000)]
    wanted = [nodes[slot % len(nodes)] for slot in range(SLOTS)]
    for slot, node in enumerate(wanted):
        slots.put(slot, slot, node)
    assert slots.owners() == wanted
