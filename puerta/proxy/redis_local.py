"""Commands that Puerta answers itself: who the client is, and what was agreed on this connection.

What the server seems to be is in `redis_server`. Error texts are the servers' own.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from puerta.protocol import resp
from puerta.proxy import redis_server
from puerta.proxy.redis_server import OK, mapping, null, verbatim
from puerta.reactor import native

Answer = Callable[[Any, Any, list[bytes]], bytes | None]

SYNTAX = b"-ERR syntax error\r\n"
WRONGPASS = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
BAD_NAME = b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n"
NO_PASSWORD = (
    b"-ERR Client sent AUTH, but no password is set: clients need none here, and Puerta does not pass AUTH on "
    b"to the cluster (see auth and client_auth in its configuration)\r\n"
)
HELLO_FIRST = (
    b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
    b"<pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
)
LIBRARY = 256
"""Bytes kept of what a client says of its library, or of its own name."""


def answer(session: Any, spec: Any, arguments: list[bytes]) -> bytes | None:
    """The reply, or None when there is none or the handler has replied by itself."""
    return HANDLERS[spec.handler](session, spec, arguments)


# -- small talk


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
    number = resp.whole(arguments[1])
    if number is None:
        return b"-ERR value is not an integer or out of range\r\n"
    return OK if number == 0 else b"-ERR SELECT is not allowed in cluster mode\r\n"


def leave(session: Any, spec: Any, arguments: list[bytes]) -> None:
    """QUIT: earlier replies, +OK, and the end."""
    session.reply(OK)
    session.leaving = True


def reset(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    state = session.state
    skipped = session.silent and not state.muted
    state.reset()
    session.silent = skipped  # what CLIENT REPLY SKIP skips is this very reply
    return b"+RESET\r\n"


# -- who it is


def accepted(session: Any, user: bytes, password: bytes) -> bool:
    wanted = session.route.config.client_auth.password
    return user == b"default" and same(password, wanted.encode())


def same(given: bytes, wanted: bytes) -> bool:
    """Compare without telling by the time it takes."""
    return hashlib.sha256(given).digest() == hashlib.sha256(wanted).digest()


def auth(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    if len(arguments) > 3:
        return SYNTAX
    if session.route.config.client_auth.password is None:
        return NO_PASSWORD
    user = arguments[1] if len(arguments) == 3 else b"default"
    if not accepted(session, user, arguments[-1]):
        return WRONGPASS
    session.state.trusted = True
    session.state.refresh()
    return OK


def whoami(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return resp.bulk(session.state.user)


def hello(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """HELLO [version [AUTH user password] [SETNAME name]]: nothing changes unless all of it is right."""
    state = session.state
    version = resp.whole(arguments[1]) if len(arguments) > 1 else session.protocol
    if version is None:
        return b"-ERR Protocol version is not an integer or out of range\r\n"
    if version not in (2, 3):
        return b"-NOPROTO unsupported protocol version\r\n"
    if version != session.protocol and state.transaction is not None and state.transaction.watching is not None:
        return b"-ERR HELLO can't change the protocol while keys are watched through Puerta\r\n"
    trusted, name, problem = hello_options(session, arguments[2:])
    if problem:
        return problem
    if not trusted:
        return HELLO_FIRST
    state.trusted = trusted
    if name is not None:
        state.name = name
    session.protocol = version
    state.refresh()
    return mapping(session, redis_server.greeting(state.id, version))


def hello_options(session: Any, options: list[bytes]) -> tuple[bool, bytes | None, bytes]:
    """Whether the client is to be trusted, its name if it gives one, and what is wrong with the options."""
    trusted, name = session.state.trusted, None
    at = 0
    while at < len(options):
        option, left = options[at].upper(), len(options) - at - 1
        if option == b"AUTH" and left >= 2:
            if session.route.config.client_auth.password is None:
                return False, None, NO_PASSWORD
            if not accepted(session, options[at + 1], options[at + 2]):
                return False, None, WRONGPASS
            trusted = True
            at += 3
        elif option == b"SETNAME" and left >= 1:
            name = options[at + 1]
            if not printable(name):
                return False, None, BAD_NAME
            at += 2
        else:
            return False, None, resp.error(b"ERR Syntax error in HELLO option '%s'" % options[at][:64])
    return trusted, name, b""


def printable(name: bytes) -> bool:
    return len(name) <= LIBRARY and all(33 <= byte <= 126 for byte in name)


# -- CLIENT


def client(session: Any, spec: Any, arguments: list[bytes]) -> bytes | None:
    return CLIENT_VERBS[spec.name.partition(b"|")[2]](session, spec, arguments)


def client_id(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return resp.integer(session.state.id)


def client_line(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    """Of CLIENT LIST as well: what this client may know of is itself."""
    state = session.state
    host, port = native.local_address(session.fd)
    text = (
        b"id=%d addr=%s laddr=%s fd=%d name=%s age=%d idle=0 flags=%s db=0 cmd=%s user=%s resp=%d lib-name=%s lib-ver=%s\n"
        % (
            state.id,
            f"{session.host}:{session.port}".encode(),
            f"{host}:{port}".encode(),
            session.fd,
            state.name,
            int(session.loop.now - session.opened),
            b"P" if state.pubsub is not None else b"N",
            spec.name.lower(),
            state.user,
            session.protocol,
            state.library,
            state.library_version,
        )
    )
    return verbatim(session, text)


def client_getname(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return resp.bulk(session.state.name) if session.state.name else null(session)


def client_setname(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    if not printable(arguments[2]):
        return BAD_NAME
    session.state.name = arguments[2]
    return OK


def client_setinfo(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    option, value = arguments[2], arguments[3]
    known = option.lower() in (b"lib-name", b"lib-ver")
    if known and not printable(value):
        return b"-ERR %s cannot contain spaces, newlines or special characters.\r\n" % option.lower()
    if not known:
        return resp.error(b"ERR Unrecognized option '%s'" % option[:64])
    if option.lower() == b"lib-name":
        session.state.library = value
    else:
        session.state.library_version = value
    return OK


def client_no_evict(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return OK if arguments[2].upper() in (b"ON", b"OFF") else SYNTAX


def client_reply(session: Any, spec: Any, arguments: list[bytes]) -> bytes | None:
    """Suppressed here, for a shared connection must always answer."""
    state, mode = session.state, arguments[2].upper()
    if mode not in (b"ON", b"OFF", b"SKIP"):
        return SYNTAX
    if mode == b"SKIP":
        state.skip_next = not state.muted
    else:
        state.muted = mode == b"OFF"
    if mode == b"ON":
        session.silent = False
    state.refresh()
    return OK if mode == b"ON" else None


def client_redirect(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    return resp.integer(-1)


def client_tracking(session: Any, spec: Any, arguments: list[bytes]) -> bytes:
    off = resp.array([resp.bulk(b"off")])
    flags = b"~" + off[1:] if session.protocol == 3 else off
    return mapping(session, [(b"flags", flags), (b"redirect", resp.integer(-1)), (b"prefixes", b"*0\r\n")])


CLIENT_VERBS: dict[bytes, Answer] = {
    b"CAPA": redis_server.fine,
    b"GETNAME": client_getname,
    b"GETREDIR": client_redirect,
    b"ID": client_id,
    b"INFO": client_line,
    b"LIST": client_line,
    b"NO-EVICT": client_no_evict,
    b"REPLY": client_reply,
    b"SETINFO": client_setinfo,
    b"SETNAME": client_setname,
    b"TRACKINGINFO": client_tracking,
}

HANDLERS: dict[bytes, Answer] = {
    b"acl": whoami,
    b"auth": auth,
    b"client": client,
    b"echo": echo,
    b"hello": hello,
    b"ping": ping,
    b"quit": leave,
    b"reset": reset,
    b"select": select,
    b"time": clock,
    **redis_server.HANDLERS,
}
"""By the table's `handler`."""
