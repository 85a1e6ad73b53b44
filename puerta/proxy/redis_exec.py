"""EXEC: the whole transaction in one piece, and once more where the slot is now if no part of it was executed."""

from typing import Any

from puerta.protocol import resp
from puerta.proxy.redis_caller import RAW, Call
from puerta.proxy.redis_forward import ASKING, NOT_EXECUTED, asked_node, unavailable, wait_turn
from puerta.proxy.redis_transaction import Transaction, leave

ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
RETRY_SECONDS = 0.05


def nothing(session: Any) -> bytes:
    """EXEC's answer when a watched key changed, or is no longer where it was watched: nothing was executed."""
    return b"_\r\n" if session.protocol == 3 else b"*-1\r\n"


def execute(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    transaction = session.state.transaction
    if transaction is None or not transaction.open:
        session.reply(b"-ERR EXEC without MULTI\r\n")
        return True
    if transaction.spoiled:
        leave(session, transaction)
        session.reply(ABORTED)
        return True
    if transaction.watching is None:
        if not transaction.commands:
            leave(session, transaction)
            session.reply(b"*0\r\n")
            return True
    elif not wait_turn(session):  # it is on a connection of its own and must not overtake what was sent on shared ones
        return False
    session.state.transaction = None
    session.state.refresh()
    Exec(session, spec, transaction).begin()
    return True


class Exec:
    """MULTI, the commands, EXEC: sent in one piece, answered by EXEC's reply alone; `last` is the call of EXEC itself."""

    __slots__ = ("asking", "attempts", "commands", "last", "main", "refusal", "session", "slot", "watching")

    def __init__(self, session: Any, spec: Any, transaction: Transaction) -> None:
        self.session = session
        self.commands = [resp.command(b"MULTI"), *transaction.commands, resp.command(b"EXEC")]
        self.slot = transaction.slot
        self.watching, transaction.watching = transaction.watching, None
        self.asking = transaction.asking
        self.refusal = b""
        self.attempts = 0
        self.last: Any = None
        self.main: Any = Call(session, spec, RAW, False, session.loop.now)
        self.main.gather = self
        session.enqueue_call(self.main)
        if self.watching is not None:
            session.fence()

    def begin(self) -> None:
        session, cluster = self.session, self.session.cluster
        if self.watching is not None:
            if self.watching.closed:
                self.finish(nothing(session))
            else:
                self.send(self.watching, self.asking)
        elif self.slot >= 0:
            self.send(cluster.shared_for(self.slot, session.protocol, False), False)
        else:
            self.send(cluster.shared_of(cluster.any_node(), session.protocol), False)

    def send(self, upstream: Any, asking: bool) -> None:
        session = self.session
        self.refusal = b""
        if upstream is None or upstream.closed or upstream.full():
            full = upstream if upstream is not None and not upstream.closed else None
            self.finish(unavailable(session, self.slot, full))
            return
        if asking:
            upstream.send(Call(None, None, RAW, False, session.loop.now), ASKING)
        last = len(self.commands) - 1
        for position, request in enumerate(self.commands):
            leg = Call(session, None, RAW, False, session.loop.now)
            leg.gather = Part(self, upstream, position == last)
            upstream.send(leg, request)
            self.last = leg

    def answered(self, upstream: Any, last: bool, reply: bytes) -> None:
        if reply.startswith(NOT_EXECUTED) and not self.refusal:
            self.refusal = reply
        if not last or self.main is None:
            return
        if not self.refusal or not reply.startswith((b"-EXECABORT", *NOT_EXECUTED)):
            self.finish(reply)
        elif self.watching is not None:
            self.session.cluster.learn(self.refusal, upstream.node.host)
            self.finish(nothing(self.session))
        elif not self.again(upstream):
            self.finish(reply)

    def again(self, upstream: Any) -> bool:
        """No part was executed: the whole goes where the refusal says, or the same way a little later."""
        cluster = self.session.cluster
        self.attempts += 1
        if self.attempts > cluster.config.max_redirects or self.main.caller is None:
            return False
        asked = asked_node(cluster, upstream, self.refusal)
        known = cluster.learn(self.refusal, upstream.node.host) or asked is not None
        cluster.again.queue(
            self.main,
            self.session,
            self.slot,
            lambda: self.resume(asked),
            0.0 if known else RETRY_SECONDS * self.attempts,
        )
        if not known and self.attempts == 1:
            cluster.again.doubt(self.main, self.session, self.slot, self.refusal)
        return True

    def resume(self, asked: Any) -> None:
        if self.main is None or self.main.caller is None:
            return
        if asked is not None:
            self.send(self.session.cluster.shared_of(asked, self.session.protocol), True)
        else:
            self.begin()

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        """What was to be sent again before it came to nothing, and so does this."""
        self.finish(reply)

    def finish(self, reply: bytes) -> None:
        main, self.main = self.main, None
        self.let_go(True)
        if main is not None and main.caller is not None:
            self.session.cluster.measure(main)
            self.session.answer(main, reply)
        self.session.cluster.again.settled(main)

    def caller_left(self) -> None:
        main, self.main = self.main, None
        self.let_go(False)
        self.session.cluster.again.settled(main)

    def let_go(self, clean: bool) -> None:
        """EXEC ends every watch, whatever it answers."""
        watching, self.watching = self.watching, None
        if watching is not None:
            cluster = self.session.cluster
            cluster.schedule(0, lambda: cluster.give_back(watching, clean and not watching.closed))


class Part:
    """One command of the transaction on its way."""

    __slots__ = ("last", "owner", "upstream")

    def __init__(self, owner: Exec, upstream: Any, last: bool) -> None:
        self.owner = owner
        self.upstream = upstream
        self.last = last

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        leg.done = True
        self.owner.answered(self.upstream, self.last, reply)
