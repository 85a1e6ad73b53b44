"""One command to one node, for the commands whose keys have to be looked for, and for those without keys."""

from typing import Any

from puerta.protocol import commands, resp, slots
from puerta.proxy.redis_caller import Call

CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"

NOT_EXECUTED = (b"-MOVED ", b"-ASK ", b"-TRYAGAIN ", b"-CLUSTERDOWN ", b"-LOADING ", b"-MASTERDOWN ", b"-READONLY ")
"""How errors begin that say: nothing was done, so it may be sent again."""

ASKING = resp.command(b"ASKING")


def slot_for(spec: Any, arguments: list[bytes]) -> tuple[int, bytes]:
    """The one slot of the command's keys: (slot, b""), (-1, b"") for a command without keys, or (-1, CROSSSLOT)."""
    try:
        positions = commands.keys(spec, arguments)
    except ValueError:
        return -1, b""  # any node will say what is wrong with the arguments
    found = {slots.slot_of(arguments[position]) for position in positions}
    if len(found) > 1:
        return -1, CROSSSLOT
    return (found.pop(), b"") if found else (-1, b"")


def forward(session: Any, spec: Any, arguments: list[bytes]) -> None:
    """One leg, to the slot of the keys, or to any node when there are none."""
    slot, problem = slot_for(spec, arguments)
    if problem:
        session.reply(problem)
        return
    cluster = session.cluster
    upstream = (
        cluster.shared_for(slot, session.protocol, spec.readonly)
        if slot >= 0
        else cluster.shared_of(cluster.any_node(), session.protocol)
    )
    if upstream is None or upstream.full():
        session.reply(unavailable(session, slot, upstream))
        return
    call = Call(session, spec, slot, spec.readonly, session.loop.now)
    session.enqueue_call(call)
    upstream.send(call, resp.command(*arguments))


def unavailable(session: Any, slot: int, upstream: Any) -> bytes:
    """Why no node takes the command: in the words that cluster clients know."""
    if upstream is not None:
        return b"-ERR node %s is behind with its replies; try again\r\n" % upstream.node.id.encode()
    if slot < 0:
        return b"-CLUSTERDOWN The cluster is down\r\n"
    node = session.cluster.slots.owner(slot)
    if node is None:
        return b"-CLUSTERDOWN Hash slot not served\r\n"
    return b"-CLUSTERDOWN node %s can't be reached\r\n" % node.id.encode()


def wait_turn(session: Any) -> bool:
    """True when the session has nothing under way; else it is fenced until then."""
    if session.first is None:
        return True
    session.fence()
    return False


def asked_node(cluster: Any, upstream: Any, reply: bytes) -> Any:
    """The node that an ASK error of `upstream` names; None for anything else."""
    found = slots.parse_redirect(reply) if reply.startswith(b"-ASK ") else None
    return cluster.node(found[2] or upstream.node.host, found[3]) if found is not None else None
