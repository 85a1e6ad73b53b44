"""What becomes of a command that does not go the usual way: where it is decided, for one session, in plain Python.

`take` is the one entrance. It answers, refuses, forwards, takes apart or pins, each in a module of its own, and returns
False when the command must wait until everything the session has under way is answered; then it is asked again.
"""

import itertools
from typing import Any

from puerta.protocol import commands, resp
from puerta.protocol.commands import KEYED, LOCAL, PINNED, REFUSED, SPLIT, TABLE
from puerta.proxy import redis_local, redis_pinned, redis_split
from puerta.proxy.redis_forward import forward

NOAUTH = b"-NOAUTH Authentication required.\r\n"
BEFORE_AUTH = frozenset({b"auth", b"hello", b"quit", b"reset"})
WHILE_SUBSCRIBED = frozenset({b"subscribe", b"unsubscribe", b"ping", b"quit", b"reset"})

_ids = itertools.count(1)


class State:
    """What a client set up by its commands, and loses with RESET. `trusted`: it may do more than authenticate."""

    __slots__ = (
        "id", "library", "library_version", "muted", "name", "no_evict", "pubsub", "session", "skip_next", "transaction",
        "trusted", "user", "waiting",
    )  # fmt: skip

    def __init__(self, session: Any) -> None:
        self.session = session
        self.id = next(_ids)
        self.name = self.library = self.library_version = b""
        self.user = b"default"
        self.trusted = session.route.config.client_auth.password is None
        self.transaction: redis_pinned.Transaction | None = None
        self.pubsub: redis_pinned.Subscriptions | None = None
        self.waiting: redis_pinned.Blocking | None = None
        self.muted = self.skip_next = False
        self.refresh()

    def refresh(self) -> None:
        """Does every command of this session need a look?"""
        limited = self.pubsub is not None and self.session.protocol == 2
        self.session.special = (
            not self.trusted or self.transaction is not None or limited or self.muted or self.skip_next
        )

    def waits_alone(self) -> bool:
        """Nothing but the client itself would end what it waits for: a client that closes ends it."""
        return self.waiting is not None or self.pubsub is not None

    def reset(self) -> None:
        self.close()
        self.name = b""
        self.trusted = self.session.route.config.client_auth.password is None
        self.muted = self.skip_next = False
        self.session.protocol = 2
        self.refresh()

    def close(self) -> None:
        """Let go of connections of the session's own."""
        transaction, self.transaction = self.transaction, None
        pubsub, self.pubsub = self.pubsub, None
        waiting, self.waiting = self.waiting, None
        if transaction is not None:
            transaction.close()
        if pubsub is not None:
            pubsub.close()
        if waiting is not None:
            waiting.close()


def find(session: Any, name: bytes) -> Any:
    return TABLE.get(name)


def take(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """Do what the command asks for; False = not yet."""
    state = session.state
    spec, problem = examine(arguments)
    if not state.trusted and (spec is None or spec.handler not in BEFORE_AUTH):
        session.reply(NOAUTH)
        return True
    if problem:
        if state.transaction is not None:
            state.transaction.spoil()
        session.reply(resp.error(problem))
        return True
    if state.pubsub is not None and session.protocol == 2 and spec.handler not in WHILE_SUBSCRIBED:
        session.reply(subscribed_error(arguments[0]))
        return True
    if state.transaction is not None and state.transaction.queues(spec):
        session.reply(state.transaction.queue(spec, arguments))
        return True
    if state.muted or state.skip_next:
        return take_muted(session, state, spec, arguments)
    return carry_out(session, spec, arguments)


def examine(arguments: list[bytes]) -> tuple[Any, bytes]:
    """The command's row of the table, and what is wrong with it."""
    spec = TABLE.resolve(arguments)
    if spec is None:
        container = TABLE.get(arguments[0])
        if container is None:
            return None, commands.unknown_command(arguments)
        return container, commands.unknown_subcommand(arguments)
    if not commands.check_arity(spec, len(arguments)):
        return spec, commands.wrong_arity(spec)
    if spec.kind == REFUSED:
        return spec, spec.reason
    return spec, b""


def subscribed_error(name: bytes) -> bytes:
    shown = name[:128].lower().decode("ascii", "replace").encode()
    return resp.error(
        b"ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        % shown
    )


def carry_out(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    if spec.kind == LOCAL:
        reply = redis_local.answer(session, spec, arguments)
        if reply is not None:
            session.reply(reply)
        return True
    if spec.kind == SPLIT:
        return redis_split.take(session, spec, arguments)
    if spec.kind == PINNED:
        return redis_pinned.take(session, spec, arguments)
    forward(session, spec, arguments)
    return True


def take_muted(session: Any, state: State, spec: Any, arguments: list[bytes]) -> bool:
    """CLIENT REPLY OFF or SKIP: the command is carried out, its reply goes nowhere."""
    if spec.handler == b"client" or spec.kind != KEYED:
        if session.first is not None:
            session.fence()
            return False
        before = session.out.size() if session.out is not None else 0
        speaks = spec.handler in (b"quit", b"reset") or (spec.name == b"CLIENT|REPLY" and arguments[2].upper() == b"ON")
        state.skip_next = False
        carried = carry_out(session, spec, arguments)
        if carried and not speaks and session.out is not None and session.out.size() > before and session.first is None:
            session.out = None
        state.refresh()
        return carried
    state.skip_next = False
    state.refresh()
    forward(session, spec, arguments, muted=True)
    return True
