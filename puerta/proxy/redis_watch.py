"""WATCH, on a connection of the session's own: at the node that has the keys' slot now, wherever that is."""

from typing import Any

from puerta.protocol import resp
from puerta.proxy.redis_caller import RAW, Call
from puerta.proxy.redis_forward import ASKING, CROSSSLOT, NOT_EXECUTED, asked_node, slot_for, unavailable, wait_turn
from puerta.proxy.redis_transaction import OK, Transaction, leave

RETRY_SECONDS = 0.05


def watch(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    state = session.state
    transaction = state.transaction
    slot, problem = slot_for(spec, arguments)
    if problem:
        session.reply(problem)
        return True
    if not wait_turn(session):
        return False
    if transaction is None:
        transaction = Transaction(session)
    elif not transaction.on_watched_node(slot):
        session.reply(CROSSSLOT)
        return True
    state.transaction = transaction
    state.refresh()
    Watch(session, spec, transaction, slot, resp.command(*arguments)).begin()
    return True


class Watch:
    """One WATCH on a connection of the session's own, at the node that has the slot now."""

    __slots__ = ("attempts", "main", "request", "session", "slot", "transaction")

    def __init__(self, session: Any, spec: Any, transaction: Transaction, slot: int, request: bytes) -> None:
        self.session = session
        self.transaction = transaction
        self.slot = slot
        self.request = request
        self.attempts = 0
        self.main: Any = Call(session, spec, RAW, False, session.loop.now)
        self.main.gather = self
        session.enqueue_call(self.main)
        session.fence()

    def begin(self) -> None:
        cluster, transaction = self.session.cluster, self.transaction
        if transaction.watching is None:
            node = cluster.owner(self.slot)
            transaction.watching = cluster.borrow(node, self.session.protocol) if node is not None else None
        self.send()

    def send(self) -> None:
        watching = self.transaction.watching
        if watching is None or watching.closed:
            self.finish(unavailable(self.session, self.slot, None))
            return
        leg = Call(None, None, RAW, False, self.session.loop.now)
        leg.gather = self
        watching.send(leg, self.request)

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        if self.main is None or self.main.caller is None:
            return
        if not reply.startswith(NOT_EXECUTED):
            self.finish(reply)
        elif self.transaction.watched:
            self.finish(OK)  # the keys watched before moved as well, or stayed behind: EXEC will find out
        elif not self.again(reply):
            self.finish(reply)

    def again(self, reply: bytes) -> bool:
        """Somewhere else, or a little later."""
        cluster, transaction = self.session.cluster, self.transaction
        self.attempts += 1
        if self.attempts > cluster.config.max_redirects:
            return False
        watching, transaction.watching = transaction.watching, None
        asked = asked_node(cluster, watching, reply)
        known = cluster.learn(reply, watching.node.host)
        cluster.schedule(0, lambda: cluster.give_back(watching, True))
        if asked is not None:
            transaction.asking = True
            transaction.watching = cluster.borrow(asked, self.session.protocol)
            if transaction.watching is not None:
                transaction.watching.send(Call(None, None, RAW, False, self.session.loop.now), ASKING)
            self.send()
        else:
            cluster.schedule(0 if known else RETRY_SECONDS * self.attempts, self.resume)
        return True

    def resume(self) -> None:
        if self.main is not None and self.main.caller is not None:
            self.begin()

    def finish(self, reply: bytes) -> None:
        main, self.main = self.main, None
        if reply == OK:
            self.transaction.watched.add(self.slot)
        elif not self.transaction.watched:
            leave(self.session, self.transaction)
        self.session.answer(main, reply)

    def caller_left(self) -> None:
        """The connection goes with the session's transaction."""
        self.main = None
