"""A cluster at one moment, for the admin interface: it has no tables on the board to read verdicts from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from puerta.health.dial import Result
from puerta.health.node import NodeWatch
from puerta.health.topology import Layout
from puerta.health.verdict import DOWN, STARTING
from puerta.health.views import Node


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node. `role` is master, replica, spare, or seed while nothing is known of it; `master` is the address of a
    replica's master; `cell` is the number of its table on the board, -1 for none; times are of the monotonic clock."""

    id: str
    node_id: str
    role: str
    master: str
    state: str
    slots: int
    cell: int
    downs: int = 0
    since: float = 0.0
    checked: float = 0.0
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster. `seen` is when its layout was last confirmed, on the monotonic clock; 0 = not yet."""

    nodes: tuple[NodeState, ...]
    uncovered: int
    epoch: int
    version: int
    seen: float


def state_of(node: Node, watch: NodeWatch | None) -> str:
    """The verdict, unless the cluster itself gave the node up: it is the first to know, and acts on it."""
    return DOWN if node.failed else STARTING if watch is None else watch.verdict.state


def node_states(layout: Layout, watches: Mapping[str, NodeWatch], cells: Mapping[str, int]) -> tuple[NodeState, ...]:
    """The layout's nodes; before there is a layout, the seeds."""
    masters = {node.id: str(node.address) for node in layout.masters}
    roles = [("master", layout.masters), ("replica", layout.replicas), ("spare", layout.spares)]
    if not layout.nodes:
        roles = [("seed", tuple(Node("", watch.address.host, watch.address.port) for watch in watches.values()))]
    return tuple(_state(role, node, masters, watches, cells) for role, nodes in roles for node in nodes)


def _state(
    role: str, node: Node, masters: Mapping[str, str], watches: Mapping[str, NodeWatch], cells: Mapping[str, int]
) -> NodeState:
    address = str(node.address)
    watch = watches.get(address)
    slots = sum(last - first + 1 for first, last in node.slots)
    state = NodeState(
        address, node.id, role, masters.get(node.master, ""), state_of(node, watch), slots, cells.get(address, -1)
    )
    if watch is None:
        return state
    verdict = watch.verdict
    return replace(state, downs=verdict.downs, since=verdict.since, checked=watch.checked, result=watch.result)
