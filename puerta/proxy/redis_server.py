"""The server that Puerta seems to be: one that has everything, no cluster, database 0, a master without replicas.

A cluster client that asks anyway is told of a cluster of one node, the address it already talks to, so that it does not
bypass us.
"""

import fnmatch
import hashlib
import os
import re
from collections.abc import Callable
from typing import Any

from puerta import __version__
from puerta.protocol import resp
from puerta.protocol.slots import slot_of
from puerta.reactor import native

OK = b"+OK\r\n"
LIKE_VERSION = b"7.2.0"
"""The Redis version whose behaviour towards simple clients Puerta shows."""

PARAMETERS = {b"appendonly": b"no", b"databases": b"1", b"maxmemory": b"0", b"save": b"", b"timeout": b"0"}
"""What CONFIG GET knows: benchmark and monitoring tools ask for these."""

MOST_PATTERNS = 1024
"""Bytes of all patterns of one CONFIG GET, and one for each: to compile a pattern takes much longer than to read it."""

Pairs = list[tuple[bytes, bytes]]


def null(session: Any) -> bytes:
    return b"_\r\n" if session.protocol == 3 else b"$-1\r\n"


def mapping(session: Any, pairs: Pairs) -> bytes:
    """Names and encoded values: a map in RESP3, a flat array in RESP2."""
    body = b"".join(resp.bulk(name) + value for name, value in pairs)
    return b"%%%d\r\n%s" % (len(pairs), body) if session.protocol == 3 else b"*%d\r\n%s" % (len(pairs) * 2, body)


def verbatim(session: Any, text: bytes) -> bytes:
    """Text for people: a verbatim string in RESP3."""
    return b"=%d\r\ntxt:%s\r\n" % (len(text) + 4, text) if session.protocol == 3 else resp.bulk(text)


def greeting(client: int, protocol: int) -> Pairs:
    """HELLO's answer."""
    return [
        (b"server", resp.bulk(b"redis")),
        (b"version", resp.bulk(LIKE_VERSION)),
        (b"proto", resp.integer(protocol)),
        (b"id", resp.integer(client)),
        (b"mode", resp.bulk(b"standalone")),
        (b"role", resp.bulk(b"master")),
        (b"modules", b"*0\r\n"),
    ]


def fine(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """READONLY, READWRITE, ASKING: cluster clients say so; it changes nothing here."""
    return OK


def role(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return resp.array([resp.bulk(b"master"), resp.integer(0), b"*0\r\n"])


def config(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    if sum(map(len, arguments[2:])) + len(arguments) - 2 > MOST_PATTERNS:
        return b"-ERR the patterns are longer than Puerta takes for CONFIG GET\r\n"
    words = [argument.lower().decode("latin-1") for argument in arguments[2:]]
    patterns = [re.compile(fnmatch.translate(word)) for word in words]  # fnmatch itself would keep 32768 of them
    return mapping(
        session,
        [
            (name, resp.bulk(value))
            for name, value in PARAMETERS.items()
            if any(pattern.match(name.decode()) for pattern in patterns)
        ],
    )


# -- CLUSTER


def own_address(session: Any) -> tuple[bytes, int]:
    host, port = native.local_address(session.fd)
    return host.encode(), port


def own_id(session: Any) -> bytes:
    return hashlib.sha1(session.route.name.encode(), usedforsecurity=False).hexdigest().encode()


def cluster(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return CLUSTER_VERBS[spec.name.partition(b"|")[2]](session, arguments)


def cluster_keyslot(session: Any, arguments: list[bytes]) -> bytes:
    return resp.integer(slot_of(arguments[2]))


def cluster_myid(session: Any, arguments: list[bytes]) -> bytes:
    return resp.bulk(own_id(session))


def cluster_info(session: Any, arguments: list[bytes]) -> bytes:
    fields = {
        b"state": b"ok",
        b"slots_assigned": b"16384",
        b"slots_ok": b"16384",
        b"slots_pfail": b"0",
        b"slots_fail": b"0",
        b"known_nodes": b"1",
        b"size": b"1",
        b"current_epoch": b"1",
        b"my_epoch": b"1",
    }
    return verbatim(session, b"".join(b"cluster_%s:%s\r\n" % field for field in fields.items()))


def cluster_nodes(session: Any, arguments: list[bytes]) -> bytes:
    line = b"%s %s:%d@0 myself,master - 0 0 1 connected 0-16383\n" % (own_id(session), *own_address(session))
    return verbatim(session, line)


def cluster_slots(session: Any, arguments: list[bytes]) -> bytes:
    host, port = own_address(session)
    node = resp.array([resp.bulk(host), resp.integer(port), resp.bulk(own_id(session)), b"*0\r\n"])
    return resp.array([resp.array([resp.integer(0), resp.integer(16383), node])])


def cluster_shards(session: Any, arguments: list[bytes]) -> bytes:
    host, port = own_address(session)
    node = mapping(
        session,
        [
            (b"id", resp.bulk(own_id(session))),
            (b"port", resp.integer(port)),
            (b"ip", resp.bulk(host)),
            (b"endpoint", resp.bulk(host)),
            (b"role", resp.bulk(b"master")),
            (b"replication-offset", resp.integer(0)),
            (b"health", resp.bulk(b"online")),
        ],
    )
    slots = resp.array([resp.integer(0), resp.integer(16383)])
    return resp.array([mapping(session, [(b"slots", slots), (b"nodes", resp.array([node]))])])


CLUSTER_VERBS: dict[bytes, Callable[[Any, list[bytes]], bytes]] = {
    b"INFO": cluster_info,
    b"KEYSLOT": cluster_keyslot,
    b"MYID": cluster_myid,
    b"MYSHARDID": cluster_myid,
    b"NODES": cluster_nodes,
    b"SHARDS": cluster_shards,
    b"SLOTS": cluster_slots,
}

# -- INFO and SLOWLOG


def info(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """Puerta's own sections, in INFO's format."""
    wanted = {argument.lower() for argument in arguments[1:]}
    everything = not wanted or bool(wanted & {b"all", b"default", b"everything"})
    parts = []
    for name, fields in info_sections(session).items():
        if everything or name.lower().encode() in wanted:
            lines = "".join(f"{key}:{value}\r\n" for key, value in fields.items())
            parts.append(f"# {name}\r\n{lines}")
    return verbatim(session, "\r\n".join(parts).encode())


def info_sections(session: Any) -> dict[str, dict[str, Any]]:
    route, nodes = session.route, session.cluster.masters()
    return {
        "Server": {
            "redis_version": LIKE_VERSION.decode(),
            "redis_mode": "standalone",
            "process_id": os.getpid(),
            "puerta_version": __version__,
        },
        "Clients": {"connected_clients": route.connections},
        "Replication": {"role": "master", "connected_slaves": 0},
        "Cluster": {"cluster_enabled": 0},
        "Puerta": {
            "route": route.name,
            "cluster_masters": len(nodes),
            "cluster_slots_covered": sum(node is not None for node in session.cluster.slots.owners()),
            "upstream_connections": len(session.cluster.connections),
            "commands_in_this_worker": route.commands_taken(),
            "redirects_moved": route.redis_count("redirects_moved"),
            "redirects_ask": route.redis_count("redirects_ask"),
            "retries": route.redis_count("retries"),
            "timeouts": route.redis_count("timeouts"),
        },
    }


def slowlog(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """Puerta's own slow log: commands of this route that took longer than limits.slowlog, as this worker saw them."""
    calls = session.route.slow_calls
    verb = spec.name.partition(b"|")[2]
    if verb == b"LEN":
        return resp.integer(len(calls))
    if verb == b"RESET":
        calls.clear()
        return OK
    count = resp.whole(arguments[2]) if len(arguments) > 2 else 10
    if count is None or count < -1:
        return b"-ERR count should be greater than or equal to -1\r\n"
    most = len(calls) if count < 0 else count
    return resp.array([slow_entry(*call) for call in list(calls)[::-1][:most]])


def slow_entry(number: int, at: float, seconds: float, name: bytes, client: str) -> bytes:
    return resp.array(
        [
            resp.integer(number),
            resp.integer(int(at)),
            resp.integer(int(seconds * 1e6)),
            resp.array([resp.bulk(name)]),
            resp.bulk(client.encode()),
            resp.bulk(b""),
        ]
    )


HANDLERS: dict[bytes, Callable[[Any, Any, list[bytes]], bytes | None]] = {
    b"asking": fine,
    b"cluster": cluster,
    b"config": config,
    b"info": info,
    b"readonly": fine,
    b"role": role,
    b"slowlog": slowlog,
}
"""By the table's `handler`."""
