"""Commands that Puerta answers itself: who the client is, and what the "server" it talks to looks like.

To its clients Puerta is one server that has everything: no cluster, database 0, role master. A cluster client that asks
anyway is told of a cluster of one node, the address it already talks to, so that it does not bypass us.
"""

import hashlib
import os
import time
from collections.abc import Callable
from typing import Any

from puerta import __version__
from puerta.protocol import resp
from puerta.protocol.slots import slot_of
from puerta.reactor import native

OK = b"+OK\r\n"
LIKE_VERSION = b"7.2.0"
"""The Redis version whose behaviour towards simple clients Puerta shows."""

Answer = Callable[[Any, Any, list[bytes]], bytes | None]


def answer(session: Any, spec: Any, arguments: list[bytes]) -> bytes | None:
    """The reply, or None when the handler has replied by itself."""
    handler = HANDLERS.get(spec.name) or HANDLERS.get(spec.name.partition(b"|")[0])
    if handler is None:
        return resp.error(b"ERR '%s' is not available through Puerta" % spec.name.lower())
    return handler(session, spec, arguments)


def null(session: Any) -> bytes:
    return b"_\r\n" if session.protocol == 3 else b"$-1\r\n"


def mapping(session: Any, pairs: list[tuple[bytes, bytes]]) -> bytes:
    """Names and encoded values: a map in RESP3, a flat array in RESP2."""
    body = b"".join(resp.bulk(name) + value for name, value in pairs)
    return b"%%%d\r\n%s" % (len(pairs), body) if session.protocol == 3 else b"*%d\r\n%s" % (len(pairs) * 2, body)


def ping(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    if len(arguments) > 2:
        return b"-ERR wrong number of arguments for 'ping' command\r\n"
    if session.state.pubsub is not None and session.protocol == 2:
        return resp.array([resp.bulk(b"pong"), resp.bulk(arguments[1] if len(arguments) > 1 else b"")])
    return resp.bulk(arguments[1]) if len(arguments) > 1 else b"+PONG\r\n"


def echo(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return resp.bulk(arguments[1])


def clock(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    now = time.time_ns() // 1000
    return resp.array([resp.bulk(b"%d" % (now // 1_000_000)), resp.bulk(b"%d" % (now % 1_000_000))])


def select(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    if not arguments[1].lstrip(b"-").isdigit():
        return b"-ERR invalid DB index\r\n"
    return OK if int(arguments[1]) == 0 else b"-ERR SELECT is not allowed in cluster mode\r\n"


def leave(session: Any, spec: Any, arguments: list[bytes]) -> None:
    """QUIT: earlier replies, +OK, and the end."""
    session.reply(OK)
    session.leaving = True


def reset(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    session.state.reset()
    return b"+RESET\r\n"


def accepted(session: Any, user: bytes, password: bytes) -> bool:
    wanted = session.route.config.client_auth.password
    return user == b"default" and (wanted is None or same(password, wanted.encode()))


def same(given: bytes, wanted: bytes) -> bool:
    """Compare without telling by the time it takes."""
    return hashlib.sha256(given).digest() == hashlib.sha256(wanted).digest()


WRONGPASS = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


def auth(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    if len(arguments) > 3:
        return b"-ERR syntax error\r\n"
    if session.route.config.client_auth.password is None:
        return (
            b"-ERR Client sent AUTH, but no password is set: clients need none here, and Puerta does not pass AUTH on "
            b"to the cluster (see auth and client_auth in its configuration)\r\n"
        )
    user = arguments[1] if len(arguments) == 3 else b"default"
    if not accepted(session, user, arguments[-1]):
        return WRONGPASS
    session.state.trusted = True
    session.state.user = user
    session.state.refresh()
    return OK


def hello(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """HELLO [version [AUTH user password] [SETNAME name]]: nothing changes unless all of it is right."""
    state = session.state
    version = session.protocol
    if len(arguments) > 1:
        if not arguments[1].isdigit():
            return b"-ERR Protocol version is not an integer or out of range\r\n"
        version = int(arguments[1])
        if version not in (2, 3):
            return b"-NOPROTO unsupported protocol version\r\n"
    trusted, name = state.trusted, None
    at = 2
    while at < len(arguments):
        option = arguments[at].upper()
        if option == b"AUTH" and at + 2 < len(arguments):
            if session.route.config.client_auth.password is not None:
                if not accepted(session, arguments[at + 1], arguments[at + 2]):
                    return WRONGPASS
                trusted = True
            at += 3
        elif option == b"SETNAME" and at + 1 < len(arguments):
            name = arguments[at + 1]
            if not printable(name):
                return BAD_NAME
            at += 2
        else:
            return b"-ERR Syntax error in HELLO option '%s'\r\n" % arguments[at][:64].replace(b"\r", b" ").replace(b"\n", b" ")
    if not trusted:
        return (
            b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
            b"<pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
        )
    state.trusted = trusted
    if name is not None:
        state.name = name
    session.protocol = version
    state.refresh()
    pairs = [
        (b"server", resp.bulk(b"redis")),
        (b"version", resp.bulk(LIKE_VERSION)),
        (b"proto", resp.integer(version)),
        (b"id", resp.integer(state.id)),
        (b"mode", resp.bulk(b"standalone")),
        (b"role", resp.bulk(b"master")),
        (b"modules", b"*0\r\n"),
    ]
    return mapping(session, pairs)


BAD_NAME = b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n"


def printable(name: bytes) -> bool:
    return all(33 <= byte <= 126 for byte in name)


# -- CLIENT


def client_line(session: Any) -> bytes:
    state = session.state
    return b"id=%d addr=%s laddr=%s fd=%d name=%s age=%d idle=0 flags=N db=0 resp=%d user=%s lib-name=%s lib-ver=%s" % (
        state.id,
        f"{session.host}:{session.port}".encode(),
        "{}:{}".format(*native.local_address(session.fd)).encode(),
        session.fd,
        state.name,
        int(session.loop.now - session.opened),
        session.protocol,
        state.user,
        state.library,
        state.library_version,
    )


def client(session: Any, spec: Any, arguments: list[bytes]) -> bytes | None:
    state = session.state
    verb = arguments[1].upper()
    if verb == b"ID":
        return resp.integer(state.id)
    if verb == b"GETNAME":
        return resp.bulk(state.name) if state.name else null(session)
    if verb == b"SETNAME":
        if not printable(arguments[2]):
            return BAD_NAME
        state.name = arguments[2]
        return OK
    if verb == b"SETINFO":
        return client_setinfo(state, arguments)
    if verb in (b"INFO", b"LIST"):
        return resp.bulk(client_line(session) + b"\n")
    if verb in (b"NO-EVICT", b"NO-TOUCH"):
        return OK if arguments[2].upper() in (b"ON", b"OFF") else b"-ERR syntax error\r\n"
    if verb == b"REPLY":
        return client_reply(session, arguments[2].upper())
    if verb == b"GETREDIR":
        return resp.integer(-1)
    if verb == b"TRACKINGINFO":
        pairs = [(b"flags", resp.array([resp.bulk(b"off")])), (b"redirect", resp.integer(-1)), (b"prefixes", b"*0\r\n")]
        return mapping(session, pairs)
    return resp.error(b"ERR 'CLIENT %s' is not available through Puerta" % verb[:64])


def client_setinfo(state: Any, arguments: list[bytes]) -> bytes:
    option, value = arguments[2].lower(), arguments[3]
    if not printable(value):
        return b"-ERR %s cannot contain spaces, newlines or special characters.\r\n" % option[:64].replace(b"\r", b"").replace(
            b"\n", b""
        )
    if option == b"lib-name":
        state.library = value[:256]
    elif option == b"lib-ver":
        state.library_version = value[:256]
    else:
        return b"-ERR Unrecognized option '%s'\r\n" % option[:64].replace(b"\r", b"").replace(b"\n", b"")
    return OK


def client_reply(session: Any, mode: bytes) -> bytes | None:
    """Suppressed here, for a shared connection must always answer."""
    state = session.state
    if mode not in (b"ON", b"OFF", b"SKIP"):
        return b"-ERR syntax error\r\n"
    state.muted = mode == b"OFF"
    state.skip_next = mode == b"SKIP"
    state.refresh()
    return OK if mode == b"ON" else None


# -- the server it seems to be


def own_address(session: Any) -> tuple[bytes, int]:
    host, port = native.local_address(session.fd)
    return host.encode(), port


def own_id(session: Any) -> bytes:
    return hashlib.sha1(session.route.name.encode(), usedforsecurity=False).hexdigest().encode()


def cluster(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    verb = arguments[1].upper()
    host, port = own_address(session)
    if verb == b"KEYSLOT":
        return resp.integer(slot_of(arguments[2]))
    if verb == b"MYID":
        return resp.bulk(own_id(session))
    if verb == b"INFO":
        text = b"cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n"
        return resp.bulk(text + b"cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\n")
    if verb == b"NODES":
        return resp.bulk(b"%s %s:%d@0 myself,master - 0 0 1 connected 0-16383\n" % (own_id(session), host, port))
    if verb == b"SLOTS":
        node = resp.array([resp.bulk(host), resp.integer(port), resp.bulk(own_id(session)), b"*0\r\n"])
        return resp.array([resp.array([b":0\r\n", b":16383\r\n", node])])
    if verb == b"SHARDS":
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
    return resp.error(b"ERR 'CLUSTER %s' is not available through Puerta" % verb[:64])


def info(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """Puerta's own sections, in INFO's format."""
    wanted = {argument.lower() for argument in arguments[1:]}
    everything = not wanted or bool(wanted & {b"all", b"default", b"everything"})
    parts = []
    for name, fields in info_sections(session).items():
        if everything or name.lower().encode() in wanted:
            lines = "".join(f"{key}:{value}\r\n" for key, value in fields.items())
            parts.append(f"# {name}\r\n{lines}")
    return resp.bulk("\r\n".join(parts).encode())


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
            "cluster_slots_covered": sum(node is not None for node in session.cluster.slots),
            "upstream_connections": len(session.cluster.connections),
            "commands_in_this_worker": route.commands_taken(),
            "redirects_moved": route.redis_count("redirects_moved"),
            "redirects_ask": route.redis_count("redirects_ask"),
            "retries": route.redis_count("retries"),
            "timeouts": route.redis_count("timeouts"),
        },
    }


def config(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """CONFIG GET of what benchmark and monitoring tools ask for."""
    known = {b"save": b"", b"appendonly": b"no", b"maxmemory": b"0", b"databases": b"1", b"timeout": b"0"}
    wanted = [argument.lower() for argument in arguments[2:]]
    pairs = [(name, resp.bulk(value)) for name, value in known.items() if name in wanted or b"*" in wanted]
    return mapping(session, pairs)


def role(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return resp.array([resp.bulk(b"master"), resp.integer(0), b"*0\r\n"])


def fine(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """READONLY, READWRITE, ASKING: cluster clients say so; it changes nothing here."""
    return OK


def slowlog(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """Puerta's own slow log: commands of this route that took longer than limits.slowlog, as this worker saw them."""
    calls = session.route.slow_calls
    verb = arguments[1].upper()
    if verb == b"LEN":
        return resp.integer(len(calls))
    if verb == b"RESET":
        calls.clear()
        return OK
    if verb != b"GET":
        return resp.error(b"ERR 'SLOWLOG %s' is not available through Puerta" % verb[:64])
    text = arguments[2] if len(arguments) > 2 else b"10"
    if not text.lstrip(b"-").isdigit() or int(text) < -1:
        return b"-ERR count should be greater than or equal to -1\r\n"
    most = len(calls) if int(text) < 0 else int(text)
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


HANDLERS: dict[bytes, Answer] = {
    b"PING": ping,
    b"ECHO": echo,
    b"TIME": clock,
    b"SELECT": select,
    b"QUIT": leave,
    b"RESET": reset,
    b"AUTH": auth,
    b"HELLO": hello,
    b"CLIENT": client,
    b"CLUSTER": cluster,
    b"INFO": info,
    b"CONFIG": config,
    b"ROLE": role,
    b"READONLY": fine,
    b"READWRITE": fine,
    b"ASKING": fine,
    b"SLOWLOG": slowlog,
}
