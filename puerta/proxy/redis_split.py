"""Commands taken apart: by slot (MGET, MSET, DEL …) or to every master (DBSIZE, KEYS, SCRIPT LOAD …)."""

from collections.abc import Callable
from typing import Any

from puerta.protocol import commands, resp
from puerta.proxy import redis_scatter
from puerta.proxy.redis_caller import RAW
from puerta.proxy.redis_forward import forward
from puerta.proxy.redis_gather import COMBINE, Gather, first_fine
from puerta.proxy.redis_scan import scan
from puerta.proxy.redis_wait import wait

NO_MASTERS = b"-CLUSTERDOWN The cluster is down\r\n"


def take(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    return HANDLERS.get(spec.handler, to_all_masters)(session, spec, arguments)


# -- by slot


def split_by_slot(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """MGET, DEL and their like. Not atomic over several slots, as each slot may be another node's."""
    step = spec.step
    if (len(arguments) - 1) % step:
        session.reply(resp.error(commands.wrong_arity(spec)))
        return True
    if not redis_scatter.split(session, spec, arguments):
        forward(session, spec, arguments)
    return True


# -- to every master


def to_all_masters(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    cluster = session.cluster
    nodes = cluster.masters()
    if not nodes:
        session.reply(NO_MASTERS)
        return True
    if spec.aggregate == commands.ONE:
        nodes = [cluster.any_node() or nodes[0]]
    gather = Gather(session, spec, COMBINE[spec.aggregate], spec.aggregate == commands.ANY_OK)
    request = resp.command(*arguments)
    for node in nodes:
        gather.add(spec, RAW, cluster.shared_of(node, session.protocol), request)
    gather.seal()
    return True


# -- SCRIPT KILL and FUNCTION KILL: behind the script itself, on its shared connection, they would wait for its end


def kill(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    cluster = session.cluster
    nodes = cluster.masters()
    if not nodes:
        session.reply(NO_MASTERS)
        return True
    gather = Gather(session, spec, first_fine, True)
    request = resp.command(*arguments)
    for node in nodes:
        upstream = cluster.borrow(node, session.protocol)
        gather.add(spec, RAW, upstream, request)
        if upstream is not None:
            gather.legs[-1].gather = Lent(gather, upstream)
    gather.seal()
    return True


class Lent:
    """Gives the leg's connection back when its reply has come. One that does not come in time is lost with its connection."""

    __slots__ = ("gather", "upstream")

    def __init__(self, gather: Gather, upstream: Any) -> None:
        self.gather = gather
        self.upstream = upstream

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        cluster, upstream = self.gather.session.cluster, self.upstream
        cluster.schedule(0, lambda: cluster.give_back(upstream, True))
        self.gather.leg_answered(leg, reply)


HANDLERS: dict[bytes, Callable[[Any, Any, list[bytes]], bool]] = {
    b"del": split_by_slot,
    b"exists": split_by_slot,
    b"kill": kill,
    b"mget": split_by_slot,
    b"mset": split_by_slot,
    b"scan": scan,
    b"touch": split_by_slot,
    b"unlink": split_by_slot,
    b"wait": wait,
    b"waitaof": wait,
}
"""By the table's `handler`; commands without one go to all masters."""
