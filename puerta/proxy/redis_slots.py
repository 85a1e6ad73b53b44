"""Which node has each slot, small enough to stay close to the processor.

Every command looks up a slot at random, and in a list of 16,384 nodes (128 KiB) that is a wait for memory each time. Here a
slot costs two bytes, and 64 neighbours with one node, as they nearly always have, share two.
"""

from typing import Any

import cython

from puerta.protocol.slots import SLOTS

BLOCK = cython.declare(cython.int, 64)
MIXED = cython.declare(cython.int, 0xFFFF)
"""The block's slots are not all of one node."""


class SlotMap:
    """`nodes` are those that have, or had, slots, by a number of the map's own; number 0 is nobody."""

    if not cython.compiled:
        __slots__ = ("blocks", "nodes", "numbers")

    def __init__(self) -> None:
        self.nodes: list[Any] = [None]
        if not cython.compiled:
            self.numbers = [0] * SLOTS
            self.blocks = [0] * (SLOTS // BLOCK)

    def owner(self, slot: int) -> Any:
        """The node that has the slot, which is 0 to 16383; None when nobody has."""
        number = self.blocks[slot // BLOCK]
        if number == MIXED:
            number = self.numbers[slot]
        return self.nodes[number]

    def put(self, first: int, last: int, node: Any) -> int:
        """The slots `first` to `last` are the node's from now on."""
        if node not in self.nodes:
            self.nodes.append(node)
        number = self.nodes.index(node)
        for slot in range(first, last + 1):
            self.numbers[slot] = number
        for block in range(first // BLOCK, last // BLOCK + 1):
            self.blocks[block] = number
            for slot in range(block * BLOCK, block * BLOCK + BLOCK):
                if self.numbers[slot] != number:
                    self.blocks[block] = MIXED
        return 0

    def owners(self) -> list[Any]:
        """The node of each slot, or None."""
        return [self.nodes[self.numbers[slot]] for slot in range(SLOTS)]
