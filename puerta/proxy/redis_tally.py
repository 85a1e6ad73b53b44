"""What a worker counts about each node of a cluster, and how it reaches the board.

Connections count where they stand, in the `Tally` of their node: one addition to a request, no name and no object. Ten
times a second what has gathered is added to the cells that the layout gave the node.
"""

from collections.abc import Iterable
from typing import Any

from puerta.board import Board


class NodeCells:
    """This worker's cells of all nodes. `held` says whose cells they are now: a node that left, or got others, leaves what it
    counted last and no connections."""

    def __init__(self, board: Board, route: str, row: int) -> None:
        self.board, self.route, self.row = board, route, row
        self.held: dict[int, Any] = {}

    def write(self, nodes: Iterable[Any]) -> None:
        present = {node.cell: node for node in nodes if node.cell >= 0}
        for cell, node in self.held.items():
            if present.get(cell) is not node:
                self.put(cell, node.tally, 0, 0)
        for cell, node in present.items():
            self.put(cell, node.tally, node.connections, node.in_flight)
        self.held = present

    def put(self, cell: int, tally: Any, connections: int, in_flight: int) -> None:
        table, row = self.board.node(self.route, cell), self.row
        table.set(row, "connections", connections)
        table.set(row, "in_flight", in_flight)
        if not (tally.calls or tally.failures or tally.opened or tally.errors or tally.timeouts):
            return
        table.add(row, "connections_total", tally.opened)
        table.add(row, "connect_us", tally.connect_us)
        table.add(row, "connect_failures", tally.failures - tally.losses)
        table.add(row, "lost", tally.losses)
        table.add(row, "commands_total", tally.calls)
        table.add(row, "errors", tally.errors)
        table.add(row, "timeouts", tally.timeouts)
        tally.clear()
