"""What a Redis Cluster looks like, made of what its nodes say: pure arithmetic on their views.

Nodes may disagree: one that is cut off from the majority goes on with an old map, and every change needs a moment to
spread. Two rules decide. *A node knows best what it owns itself*; of one that does not answer, the others tell. And of
two that own a slot, *the one with the higher config epoch does*: so the cluster itself decides it (Redis Cluster
specification, "UPDATE messages" and "Hash slots configuration").
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from puerta.health.views import SLOTS, Node, View

MOST_CHANGES = 8
"""Named one by one in a log line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What all views come to. `masters` have slots; `spares` are all that is neither a master with slots nor a
    replica of one."""

    masters: tuple[Node, ...] = ()
    replicas: tuple[Node, ...] = ()
    spares: tuple[Node, ...] = ()
    uncovered: int = SLOTS

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.masters + self.replicas + self.spares

    @property
    def epoch(self) -> int:
        return max((node.epoch for node in self.nodes), default=0)


def describe(old: Layout, new: Layout) -> str:
    """What `new` changes, in words; "" if it is nothing that an operator would see."""
    if not old.nodes:
        return f"{len(new.masters)} masters, {len(new.replicas)} replicas, {_covered_in_words(new)}"
    before, after = _roles(old), _roles(new)
    found = [f"{address} came as a {role}" for address, role in after.items() if address not in before]
    found += [f"{address} left" for address in before if address not in after]
    found += [f"{address} is a {role} now" for address, role in after.items() if before.get(address, role) != role]
    if len(found) > MOST_CHANGES:
        found[MOST_CHANGES:] = [f"{len(found) - MOST_CHANGES} changes more"]
    moved = sum(one != other for one, other in zip(owners(old.masters), owners(new.masters), strict=True))
    if moved:
        found.append(f"{moved} slot{'s' * (moved > 1)} moved")
    if old.uncovered != new.uncovered:
        found.append(_covered_in_words(new))
    return ", ".join(found)


def _covered_in_words(layout: Layout) -> str:
    return f"slots without a node: {layout.uncovered}" if layout.uncovered else "every slot has a node"


def _roles(layout: Layout) -> dict[str, str]:
    roles = {str(node.address): "master" for node in layout.masters}
    roles.update({str(node.address): "replica" for node in layout.replicas})
    roles.update({str(node.address): "spare" for node in layout.spares})
    return roles


def owners(nodes: Iterable[Node]) -> list[str]:
    """Each slot's owner by its id, the last of `nodes` where several claim it; "" where nobody does."""
    found = [""] * SLOTS
    for node in nodes:
        for first, last in node.slots:
            found[first : last + 1] = [node.id] * (last + 1 - first)
    return found


# -- the choice --------------------------------------------------------------------------------------------------------


def choose(views: Iterable[View]) -> Layout:
    """The layout that the views come to."""
    group = kin(list(views))
    own = {view.myself: view.nodes[view.myself] for view in group}
    told = Counter(node for view in group for node in view.nodes.values() if node.id not in own)
    known = Counter(id for view in group for id in view.nodes)
    for node in sorted(told, key=lambda node: (node.epoch, told[node], node.id)):
        own[node.id] = node
    members = [node for node in own.values() if 2 * known[node.id] > len(group)]  # others are new, or were forgotten
    places = {node.id: placed(node.id, group) for node in members}
    return lay_out(replace(node, host=places[node.id][0], port=places[node.id][1]) for node in members)


def kin(views: list[View]) -> list[View]:
    """Those of one cluster: views that know each other's nodes. Where there are several clusters, the one with most
    slots, then with most views: a seed may lead elsewhere, or to a node that was reset."""
    groups: list[list[View]] = []
    for view in views:
        near = [group for group in groups if any(view.nodes.keys() & other.nodes.keys() for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([view, *(other for group in near for other in group)])
    return max(groups, key=lambda group: (_covered(group), len(group)), default=[])


def _covered(group: list[View]) -> int:
    return max(sum(last - first + 1 for node in view.nodes.values() for first, last in node.slots) for view in group)


def placed(id: str, group: list[View]) -> tuple[str, int]:
    """Where most views say that the node is."""
    votes = Counter((view.nodes[id].host, view.nodes[id].port) for view in group if id in view.nodes)
    return max(votes, key=lambda place: (votes[place], place))


def lay_out(nodes: Iterable[Node]) -> Layout:
    """Give each slot to the owner with the highest epoch, and each replica to its master."""
    ordered = sorted(nodes, key=lambda node: (node.epoch, node.id))
    owner = owners(ordered)
    ranges: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for id, run in groupby(owner):
        length = sum(1 for _ in run)
        ranges.setdefault(id, []).append((start, start + length - 1))
        start += length
    ranges.pop("", None)
    by_address = sorted(ordered, key=lambda node: (node.host, node.port))
    masters = tuple(replace(node, slots=tuple(ranges[node.id])) for node in by_address if node.id in ranges)
    rest = [replace(node, slots=()) for node in by_address if node.id not in ranges]
    replicas = tuple(node for node in rest if node.master in ranges)
    spares = tuple(node for node in rest if node.master not in ranges)
    return Layout(masters, replicas, spares, owner.count(""))


# -- the blob ----------------------------------------------------------------------------------------------------------


def dump(
    layout: Layout,
    up: Mapping[str, bool],
    cells: Mapping[str, int],
    seeds: Sequence[str],
    version: int = 0,
    looked: float = 0.0,
) -> bytes:
    """Compact JSON for the workers; `up` and `cells` (which table counts it; -1 = none) are by a node's id.

    `seeds` are those of the configuration that led to this cluster, another of which may name another cluster.
    `looked` is when the look began in which the layout was seen, in seconds of the monotonic clock.
    """

    def node(one: Node) -> dict[str, Any]:
        return {"id": one.id, "host": one.host, "port": one.port, "up": up[one.id], "cell": cells[one.id]}

    found = {
        "version": version,
        "seeds": list(seeds),
        "looked_ns": round(looked * 1e9),
        "epoch": layout.epoch,
        "masters": [
            node(master)
            | {
                "slots": [list(pair) for pair in master.slots],
                "replicas": [node(replica) for replica in layout.replicas if replica.master == master.id],
            }
            for master in layout.masters
        ],
        "spares": [node(spare) for spare in layout.spares],
        "uncovered": layout.uncovered,
    }
    return json.dumps(found, separators=(",", ":")).encode()


def load(data: bytes) -> tuple[Layout, dict[str, bool], dict[str, int], list[str]]:
    """What `dump` was given first, without epochs: a new supervisor begins with what the last one published."""
    found = json.loads(data)
    entries: list[dict[str, Any]] = []

    def node(entry: dict[str, Any], master: str = "") -> Node:
        entries.append(entry)
        slots = tuple((first, last) for first, last in entry.get("slots", ()))
        return Node(entry["id"], entry["host"], entry["port"], master, found["epoch"], slots)

    masters = tuple(node(entry) for entry in found["masters"])
    replicas = tuple(node(entry, of["id"]) for of in found["masters"] for entry in of["replicas"])
    spares = tuple(node(entry) for entry in found["spares"])
    layout = Layout(masters, replicas, spares, found["uncovered"])
    up, cells = {each["id"]: each["up"] for each in entries}, {each["id"]: each["cell"] for each in entries}
    return layout, up, cells, found["seeds"]
