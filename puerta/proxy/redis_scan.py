"""SCAN over the whole cluster: one master after the other, in the order of their addresses.

A cursor is the node's own with twenty low bits of ours: which master it belongs to, and a fingerprint of all masters. When
a master has come or gone since the scan began (a failover, a node added), part of the keys could be passed over, so the
client is told to begin again. Keys that migrate between masters meanwhile can appear twice or not at all, as they can
for a cluster client.
"""

import binascii
from typing import Any

from puerta.protocol import resp
from puerta.protocol.resp import elements
from puerta.proxy.redis_caller import RAW
from puerta.proxy.redis_gather import Gather

PLACE_BITS = 10
PRINT_BITS = 10
MOST = 1 << 64

CHANGED = b"-ERR the masters of the cluster have changed since this SCAN began; begin again with cursor 0\r\n"
TOO_LARGE = b"-ERR the node's cursor is too large to be passed on\r\n"


def scan(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    text = arguments[1]
    if not text.isdigit() or len(text) > 20 or int(text) >= MOST:
        session.reply(b"-ERR invalid cursor\r\n")
        return True
    cluster = session.cluster
    nodes = cluster.masters()
    mark = fingerprint(nodes)
    own, place = 0, 0
    if int(text):
        rest, said = divmod(int(text), 1 << PRINT_BITS)
        own, place = divmod(rest, 1 << PLACE_BITS)
        if said != mark or place >= len(nodes):
            session.reply(CHANGED)
            return True
    if not nodes:
        session.reply(b"-CLUSTERDOWN The cluster is down\r\n")
        return True
    request = resp.command(arguments[0], b"%d" % own, *arguments[2:])
    gather = Gather(session, spec, lambda replies: answer(replies[0], place, len(nodes), mark))
    gather.add(spec, RAW, cluster.shared_of(nodes[place], session.protocol), request)
    gather.seal()
    return True


def fingerprint(nodes: list[Any]) -> int:
    """Of the set of masters; never 0, so that no cursor on the way is."""
    return binascii.crc_hqx(" ".join(node.id for node in nodes).encode(), 0) % ((1 << PRINT_BITS) - 1) + 1


def answer(reply: bytes, place: int, count: int, mark: int) -> bytes:
    """The node's reply with its cursor made ours."""
    cursor, keys = elements(reply)
    own = int(cursor.split(b"\r\n")[1])
    if own >= MOST >> (PLACE_BITS + PRINT_BITS):
        return TOO_LARGE
    if not own:
        place += 1
    ours = (own << PLACE_BITS | place) << PRINT_BITS | mark if place < count else 0
    return resp.array([resp.bulk(b"%d" % ours), keys])
