"""One command to one node, for the commands whose keys have to be looked for, and for those without keys."""

from typing import Any

from puerta.protocol import commands, resp, slots
from puerta.proxy.redis_upstream import Call

CROSSSLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"


class Muted:
    """Swallows a reply: CLIENT REPLY OFF and SKIP must never reach a shared connection."""

    def leg_answered(self, call: Any, reply: bytes) -> None:
        pass

    def caller_left(self) -> None:
        pass


MUTED = Muted()


def slot_for(spec: Any, arguments: list[bytes]) -> tuple[int, bytes]:
    """The one slot of the command's keys: (slot, b""), (-1, b"") for a command without keys, or (-1, error)."""
    try:
        positions = commands.keys(spec, arguments)
    except ValueError as error:
        text = error.args[0] if error.args else b"ERR syntax error"
        return -1, resp.error(text if isinstance(text, bytes) else str(text).encode())
    found = {slots.slot_of(arguments[position]) for position in positions}
    if len(found) > 1:
        return -1, CROSSSLOT
    return (found.pop(), b"") if found else (-1, b"")


def forward(session: Any, spec: Any, arguments: list[bytes], muted: bool = False) -> None:
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
    if upstream is None or upstream.log.size() > session.most:
        session.reply(unavailable(session, slot, upstream))
        return
    call = Call(session, spec, slot, spec.readonly, session.loop.now)
    if muted:
        call.gather = MUTED
    else:
        session.enqueue_call(call)
    upstream.send(call, resp.command(*arguments))


def unavailable(session: Any, slot: int, upstream: Any) -> bytes:
    """Why no node takes the command: in the words that cluster clients know."""
    if upstream is not None:
        return b"-ERR node %s is behind with its replies; try again\r\n" % upstream.node.id.encode()
    node = session.cluster.slots[slot] if slot >= 0 else None
    if node is None:
        return b"-CLUSTERDOWN Hash slot not served\r\n"
    return b"-CLUSTERDOWN node %s can't be reached\r\n" % node.id.encode()
