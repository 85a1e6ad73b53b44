"""Where the slots are: what the supervisor publishes, and what errors teach in between."""

from typing import Any

from puerta.protocol import slots
from puerta.proxy.redis_handshake import READONLY, say
from puerta.proxy.redis_slots import SlotMap


def apply(cluster: Any, layout: dict[str, Any]) -> None:
    """Take over a published layout; the connections to nodes that are gone get closed by and by."""
    owners = SlotMap()
    masters: set[Any] = set()
    replicas: set[Any] = set()
    others: set[Any] = set()
    for entry in layout["masters"]:
        master = listed(cluster, entry)
        (masters if entry["up"] else others).add(master)
        known = [(listed(cluster, each), each["up"]) for each in entry["replicas"]]
        replicas.update(node for node, _ in known)
        master.heirs = [node for node, _ in known]
        master.replicas = [node for node, up in known if up]
        for first, last in entry["slots"]:
            owners.put(first, last, master)
    spares = {listed(cluster, entry) for entry in layout["spares"]}
    kept = keep_learned(cluster, owners, masters | replicas | others | spares, layout["looked_ns"] / 1e9)
    pairs = zip(cluster.slots.owners(), owners.owners(), strict=True)
    moved = {slot for slot, (before, after) in enumerate(pairs) if before is not after}
    cluster.slots = owners
    cluster.found_masters = None
    for node in set(cluster.nodes.values()) - masters - replicas - others - spares:
        cluster.retire(node)
    for node in cluster.nodes.values():
        take_role(cluster, node, node in masters or node in kept, node in replicas and node not in kept)
    for upstream in cluster.connections if moved else ():
        upstream.fence_slots(moved)
    prewarm(cluster)


def listed(cluster: Any, entry: dict[str, Any]) -> Any:
    """The node of an entry of the layout."""
    node = cluster.register(entry["host"], entry["port"])
    node.cell = entry["cell"]
    return node


def keep_learned(cluster: Any, owners: SlotMap, listed: set[Any], looked: float) -> set[Any]:
    """What a redirection said after the supervisor began to look is newer than what it saw. Returns the nodes of which it was
    said: they are in office, whatever the layout lists them as."""
    kept = set()
    for slot, (node, when) in list(cluster.learned.items()):
        if when < looked or node not in listed:
            del cluster.learned[slot]
        else:
            owners.put(slot, slot, node)
            kept.add(node)
    return kept


def take_role(cluster: Any, node: Any, master: bool, replica: bool) -> None:
    """A replica answers reads only on connections that say READONLY first: those that are open say it now."""
    if master:
        node.deposed = 0.0
        node.replica = False
    elif not node.deposed:
        node.deposed = cluster.loop.now
    if replica:
        node.replica = True
        for upstream in (node.resp2, node.resp3):
            if upstream is not None and not upstream.replica:
                say(cluster, upstream, READONLY)
                upstream.replica = True


def names_known(cluster: Any) -> bool:
    """The addresses of all masters that answer are known. Look-ups begin for every node."""
    known = [cluster.resolve(node.host) is not None or bool(node.deposed) for node in cluster.nodes.values()]
    return all(known)


def prewarm(cluster: Any) -> None:
    """Open the shared connections ahead of their use; look up the names of all, for those without slots may get some."""
    names_known(cluster)
    for node in list(cluster.nodes.values()):
        if node.resp2 is None and (cluster.reads_replicas if node.replica else not node.deposed):
            cluster.open(node, 2)


def move(cluster: Any, slot: int, node: Any) -> None:
    """An error said that the slot is there now.

    A replica that has its master's slot has taken its place, and all its slots, even one that did not answer when the cluster
    was last looked at: nothing may ask both of them for their keys.
    """
    before = cluster.slots.owner(slot)
    cluster.route.count_redis("refresh_wanted", 1)
    if before is node:
        return
    moved = {slot}
    if before is not None and node in before.heirs:
        moved = {each for each, owner in enumerate(cluster.slots.owners()) if owner is before}
    for each in moved:
        cluster.learned[each] = (node, cluster.loop.now)
        cluster.slots.put(each, each, node)
    node.deposed = 0.0  # it is in office, whatever it was in the last layout
    cluster.found_masters = None
    for upstream in (before.resp2, before.resp3) if before is not None else cluster.connections:
        if upstream is not None:
            upstream.fence_slots(moved)


def learn(cluster: Any, line: bytes, origin: str) -> bool:
    """Take over what an error of the node at `origin` says of the layout. False: it is for the next layout to say."""
    found = slots.parse_redirect(line) if line.startswith(b"-MOVED ") else None
    node = cluster.node(found[2] or origin, found[3]) if found is not None else None
    if found is None or node is None:
        cluster.route.count_redis("refresh_wanted", 1)
        return False
    move(cluster, found[1], node)
    return True
