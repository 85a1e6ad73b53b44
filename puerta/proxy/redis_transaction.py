"""The transaction of a session: what MULTI, DISCARD and UNWATCH do; see redis_watch and redis_exec for the others.

A transaction is gathered here and goes out in one piece, MULTI to EXEC, on the shared connection of its slot's node: nothing can
come between, and it costs no connection. Only WATCH ties a session to one of its own, until EXEC, DISCARD or UNWATCH.
"""

from typing import Any

from puerta.protocol import commands, resp
from puerta.proxy.redis_caller import RAW, Call
from puerta.proxy.redis_forward import CROSSSLOT, slot_for

OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
TOO_LARGE = b"-ERR the transaction is larger than Puerta may hold (limits.buffer)\r\n"
MOST_COMMANDS = 16384
"""Of one transaction: EXEC puts all of them on a connection that others share."""

TOO_MANY = b"-ERR the transaction has more commands than Puerta takes (%d)\r\n" % MOST_COMMANDS
OVERHEAD = 64
"""Bytes that a queued command counts for besides its own."""

NEVER_QUEUED = frozenset({b"exec", b"discard", b"multi", b"watch", b"quit", b"reset"})
LOCAL_IN_MULTI = frozenset({b"ping", b"echo", b"time"})
"""Commands that Puerta would answer, but the server can as well."""


class Transaction:
    """MULTI and WATCH of one session. `open` is true after MULTI.

    `watching` is the connection that holds the watched keys, `watched` their slots; `asking`: their slot is being imported there.
    """

    __slots__ = ("asking", "commands", "open", "session", "size", "slot", "spoiled", "watched", "watching")

    def __init__(self, session: Any) -> None:
        self.session = session
        self.watching: Any = None
        self.watched: set[int] = set()
        self.asking = False
        self.begin(False)

    def begin(self, opened: bool) -> None:
        self.open = opened
        self.commands: list[bytes] = []
        self.size = 0
        self.slot = -1
        self.spoiled = False

    def queues(self, spec: Any) -> bool:
        return self.open and spec.handler not in NEVER_QUEUED

    def spoil(self) -> None:
        """An error while queueing: EXEC will refuse, as the server does."""
        if self.open:
            self.spoiled = True
            self.commands.clear()

    def reject(self, spec: Any) -> None:
        """A command was refused. An EXEC that is ends the transaction at once (multi.c, execCommandAbort)."""
        if spec is not None and spec.handler == b"exec":
            leave(self.session, self)
        else:
            self.spoil()

    def queue(self, spec: Any, arguments: list[bytes]) -> bytes:
        """Keep the command for EXEC; the reply to it now."""
        slot, problem = self.place(spec, arguments)
        if not problem:
            self.size += sum(map(len, arguments)) + OVERHEAD
            if self.size > self.session.most:
                problem = TOO_LARGE
            elif len(self.commands) >= MOST_COMMANDS:
                problem = TOO_MANY
        if problem:
            self.spoil()
            return problem
        if slot >= 0:
            self.slot = slot
        if not self.spoiled:
            self.commands.append(resp.command(*arguments))
        return QUEUED

    def place(self, spec: Any, arguments: list[bytes]) -> tuple[int, bytes]:
        """The command's slot, or -1 and why it can't be part of this transaction."""
        if spec.kind == commands.LOCAL:
            return -1, b"" if spec.handler in LOCAL_IN_MULTI else refused(spec)
        if spec.handler in (b"subscribe", b"unsubscribe"):
            return -1, refused(spec)
        slot, problem = slot_for(spec, arguments)
        if spec.kind == commands.SPLIT and slot < 0 and not problem:
            return -1, refused(spec)
        if slot >= 0 and (self.slot not in (-1, slot) or not self.on_watched_node(slot)):
            problem = CROSSSLOT
        return slot, problem

    def on_watched_node(self, slot: int) -> bool:
        if self.watching is None or slot in self.watched:
            return True
        return self.session.cluster.slots.owner(slot) is self.watching.node

    def unwatch(self) -> None:
        """Give the connection back, with nothing watched on it."""
        watching, self.watching = self.watching, None
        if watching is None:
            return
        if watching.closed:
            self.session.cluster.give_back(watching, False)
            return
        call = Call(None, None, RAW, False, self.session.loop.now)
        call.gather = GiveBack(self.session.cluster, watching)
        watching.send(call, resp.command(b"UNWATCH"))

    def close(self) -> None:
        watching, self.watching = self.watching, None
        if watching is not None:
            self.session.cluster.give_back(watching, False)


def refused(spec: Any) -> bytes:
    shown = spec.name.lower().replace(b"|", b" ")
    return resp.error(b"ERR '%s' can't be used in a transaction through Puerta" % shown)


class GiveBack:
    """Returns a connection once its last reply has come."""

    __slots__ = ("cluster", "upstream")

    def __init__(self, cluster: Any, upstream: Any) -> None:
        self.cluster = cluster
        self.upstream = upstream

    def leg_answered(self, call: Any, reply: bytes) -> None:
        self.cluster.schedule(0, lambda: self.cluster.give_back(self.upstream, reply == OK))


def multi(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    state = session.state
    if state.transaction is None:
        state.transaction = Transaction(session)
    state.transaction.begin(True)
    state.refresh()
    session.reply(OK)
    return True


def discard(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    transaction = session.state.transaction
    if transaction is None or not transaction.open:
        session.reply(b"-ERR DISCARD without MULTI\r\n")
        return True
    leave(session, transaction)
    session.reply(OK)
    return True


def leave(session: Any, transaction: Transaction) -> None:
    transaction.unwatch()
    session.state.transaction = None
    session.state.refresh()


def unwatch(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    if session.state.transaction is not None:
        leave(session, session.state.transaction)
    session.reply(OK)
    return True
