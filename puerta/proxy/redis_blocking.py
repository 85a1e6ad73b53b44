"""Commands that wait in the server: each on a connection of the session's own, so that nobody else waits behind it."""

from typing import Any

from puerta.protocol import commands, resp
from puerta.proxy.redis_caller import RAW, Call
from puerta.proxy.redis_forward import ASKING, NOT_EXECUTED, asked_node, forward, slot_for, unavailable, wait_turn

RETRY_SECONDS = 0.05


def block(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """BLPOP and its kin, XREAD with BLOCK: nothing of the session goes on before it has been answered."""
    slot, problem = slot_for(spec, arguments)
    if problem:
        session.reply(problem)
        return True
    if not wait_turn(session):
        return False
    Blocking(session, spec, slot, resp.command(*arguments)).begin()
    return True


def read_streams(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """XREAD and XREADGROUP wait only when they say so."""
    if commands.blocks(arguments):
        return block(session, spec, arguments)
    forward(session, spec, arguments)
    return True


class Blocking:
    """One such command. A node that did not execute it, because the slot moved, is left for the one that will; so is one whose
    connection is lost, when the command only reads."""

    __slots__ = ("attempts", "call", "readonly", "request", "session", "slot", "upstream")

    def __init__(self, session: Any, spec: Any, slot: int, request: bytes) -> None:
        self.session = session
        self.slot = slot
        self.readonly = spec.readonly
        self.request = request
        self.attempts = 0
        self.upstream: Any = None
        self.call: Any = Call(session, spec, RAW, False, session.loop.now)
        self.call.gather = self
        session.enqueue_call(self.call)
        session.state.waiting = self
        session.fence()

    def begin(self) -> None:
        cluster = self.session.cluster
        self.send(cluster.owner(self.slot) if self.slot >= 0 else cluster.any_node(), False)

    def send(self, node: Any, asking: bool) -> None:
        session = self.session
        self.upstream = session.cluster.borrow(node, session.protocol) if node is not None else None
        if self.upstream is None:
            self.finish(unavailable(session, self.slot, None))
            return
        if asking:
            self.upstream.send(Call(None, None, RAW, False, session.loop.now), ASKING)
        leg = Call(None, None, RAW, False, session.loop.now)
        leg.gather = self
        self.upstream.send(leg, self.request)

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        cluster = self.session.cluster
        upstream, self.upstream = self.upstream, None
        if upstream is None:
            return
        cluster.schedule(0, lambda: cluster.give_back(upstream, True))
        again = reply.startswith(NOT_EXECUTED) or (upstream.closed and self.readonly)
        if not again or self.attempts >= cluster.config.max_redirects:
            self.finish(reply)
            return
        self.attempts += 1
        asked = asked_node(cluster, upstream, reply)
        known = cluster.learn(reply, upstream.node.host)
        if asked is not None:
            self.send(asked, True)
        else:
            cluster.schedule(0 if known else RETRY_SECONDS * self.attempts, self.resume)

    def resume(self) -> None:
        if self.call is not None:
            self.begin()

    def finish(self, reply: bytes) -> None:
        call, self.call = self.call, None
        if call is not None and call.caller is not None:
            self.session.state.waiting = None
            self.session.answer(call, reply)

    def caller_left(self) -> None:
        """The client is gone: the connection must go too, or the server would pop an element for nobody."""
        self.close()

    def close(self) -> None:
        self.call = None
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            self.session.cluster.give_back(upstream, False)
