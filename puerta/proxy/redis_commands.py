"""What becomes of a command that does not go the usual way: where it is decided, for one session, in plain Python.

`take` is the one entrance. It answers, refuses, forwards, takes apart or pins, each in a module of its own, and returns
False when the command must wait until everything the session has under way is answered; then it is asked again.
"""

import itertools
from typing import Any

from puerta.protocol import commands, resp
from puerta.protocol.commands import LOCAL, PINNED, REFUSED, SPLIT, Table
from puerta.proxy import redis_local, redis_pinned, redis_split
from puerta.proxy.redis_blocking import Blocking
from puerta.proxy.redis_forward import forward, wait_turn
from puerta.proxy.redis_pubsub import Subscriptions
from puerta.proxy.redis_transaction import Transaction

BEFORE_AUTH = frozenset({b"auth", b"hello", b"quit", b"reset"})
WHILE_SUBSCRIBED = frozenset({b"subscribe", b"unsubscribe", b"ping", b"quit", b"reset"})
CHANGES_PROTOCOL = frozenset({b"hello", b"reset"})
"""Each protocol has connections of its own: what was sent on one must be answered before anything goes out on the other."""

NOT_WITHIN_MULTI = frozenset({b"multi", b"watch"})

DEFAULT_USER = b"default"

ROWS = 1 << 10
"""Workers have rows of their own on the board, so that no two clients of a route have the same id."""

_ids = itertools.count(1)


class State:
    """What a client set up by its commands, and loses with RESET.

    `trusted`: it may do more than authenticate. `muted` and `skip_next` are CLIENT REPLY's.
    """

    __slots__ = (
        "id", "library", "library_version", "muted", "name", "pubsub", "session", "skip_next", "transaction",
        "trusted", "user", "waiting",
    )  # fmt: skip

    def __init__(self, session: Any) -> None:
        self.session = session
        self.id = next(_ids) * ROWS + session.route.row
        self.library = self.library_version = b""
        self.transaction: Transaction | None = None
        self.pubsub: Subscriptions | None = None
        self.waiting: Blocking | None = None
        self.forget()

    def forget(self) -> None:
        """As a new connection begins."""
        self.name = b""
        self.user = DEFAULT_USER
        self.trusted = self.session.route.config.client_auth.password is None
        self.muted = self.skip_next = False
        self.session.protocol = 2
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
        self.forget()

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


def take(session: Any, arguments: list[bytes]) -> bool:
    """Do what the command asks for; False = not yet."""
    state = session.state
    skips, state.skip_next = state.skip_next, False
    session.silent = state.muted or skips
    taken = decide(session, state, arguments)
    session.silent = False
    if skips:
        state.skip_next = state.skip_next or not taken
        state.refresh()
    return taken


def decide(session: Any, state: State, arguments: list[bytes]) -> bool:
    """In the order in which a server looks at a command (server.c, processCommand)."""
    spec, problem = examine(session.route.commands, arguments)
    if not state.trusted and (spec is None or spec.handler not in BEFORE_AUTH):
        problem = b"NOAUTH Authentication required."
    if not problem:
        problem = forbidden(session, state, spec)
    if problem:
        if state.transaction is not None:
            state.transaction.reject(spec)
        if spec is not None and spec.name == b"EXEC" and not problem.startswith(b"EXECABORT "):
            problem = b"EXECABORT Transaction discarded because of: " + problem.removeprefix(b"ERR ")
        session.reply(resp.error(problem))
        return True
    if state.transaction is not None and state.transaction.queues(spec):
        session.reply(state.transaction.queue(spec, arguments))
        return True
    return carry_out(session, spec, arguments)


def examine(table: Table, arguments: list[bytes]) -> tuple[Any, bytes]:
    """The command's row of the route's table, and what is wrong with it."""
    spec = table.resolve(arguments)
    if spec is None:
        known = table.get(arguments[0]) is not None
        return None, (commands.unknown_subcommand if known else commands.unknown_command)(arguments)
    if not commands.check_arity(spec, len(arguments)):
        return spec, commands.wrong_arity(spec)
    return spec, b""


def forbidden(session: Any, state: State, spec: Any) -> bytes:
    """Why this client must not use this command now."""
    if spec.handler in NOT_WITHIN_MULTI and state.transaction is not None and state.transaction.open:
        return b"ERR Command '%s' not allowed inside a transaction" % spec.name.lower()
    if state.pubsub is not None and session.protocol == 2 and spec.handler not in WHILE_SUBSCRIBED:
        return (
            b"ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
            % spec.name.lower()
        )
    return spec.reason if spec.kind == REFUSED else b""


def carry_out(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    if spec.kind == LOCAL:
        if spec.handler in CHANGES_PROTOCOL and not wait_turn(session):
            return False
        reply = redis_local.answer(session, spec, arguments)
        if reply is not None:
            session.reply(reply)
    elif spec.kind == SPLIT:
        return redis_split.take(session, spec, arguments)
    elif spec.kind == PINNED:
        return redis_pinned.take(session, spec, arguments)
    else:
        forward(session, spec, arguments)
    return True
