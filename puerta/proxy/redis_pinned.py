"""What needs more than one reply's worth of a connection: transactions, blocking commands, subscriptions.

A transaction is gathered here and goes out in one piece, MULTI to EXEC, on the shared connection of its slot's node: nothing can
come between. Only WATCH ties a session to a connection of its own, as do blocking commands and subscriptions.
"""

from collections.abc import Callable
from typing import Any

from puerta.protocol import commands, resp, slots
from puerta.protocol.resp import elements
from puerta.proxy.redis_forward import CROSSSLOT, forward, slot_for, unavailable
from puerta.proxy.redis_upstream import RAW, Call

OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
NOT_EXECUTED = (b"-MOVED ", b"-ASK ", b"-TRYAGAIN ", b"-CLUSTERDOWN ", b"-LOADING ", b"-MASTERDOWN ", b"-READONLY ")
RETRY_SECONDS = 0.05
NEVER_QUEUED = frozenset({b"exec", b"discard", b"multi", b"watch", b"quit", b"reset"})
LOCAL_IN_MULTI = frozenset({b"ping", b"echo", b"time"})


def take(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    handler = HANDLERS.get(spec.handler, block)
    return handler(session, spec, arguments)


def wait_turn(session: Any) -> bool:
    """True when the session has nothing under way; else it is fenced until then."""
    if session.first is None:
        return True
    session.fence()
    return False


# -- transactions


class Transaction:
    """MULTI and WATCH of one session. `watching` is the connection that holds the watched keys; `open` is true after MULTI."""

    __slots__ = ("commands", "open", "session", "slot", "spoiled", "watching")

    def __init__(self, session: Any) -> None:
        self.session = session
        self.watching: Any = None
        self.begin(False)

    def begin(self, opened: bool) -> None:
        self.open = opened
        self.commands: list[bytes] = []
        self.slot = -1
        self.spoiled = False

    def queues(self, spec: Any) -> bool:
        return self.open and spec.handler not in NEVER_QUEUED

    def spoil(self) -> None:
        """An error while queueing: EXEC will refuse, as the server does."""
        if self.open:
            self.spoiled = True

    def queue(self, spec: Any, arguments: list[bytes]) -> bytes:
        """Keep the command for EXEC; the reply to it now."""
        allowed = spec.kind in (commands.KEYED, commands.PINNED) or spec.handler in LOCAL_IN_MULTI
        slot, problem = slot_for(spec, arguments) if spec.kind != commands.LOCAL else (-1, b"")
        if spec.kind == commands.SPLIT:
            allowed = slot >= 0 or bool(problem)
        if not allowed or spec.handler in (b"subscribe", b"psubscribe", b"ssubscribe"):
            problem = resp.error(b"ERR '%s' can't be used in a transaction through Puerta" % spec.name.lower())
        elif slot >= 0 and self.is_elsewhere(slot):
            problem = CROSSSLOT
        if problem:
            self.spoil()
            return problem
        if slot >= 0:
            self.slot = slot
        self.commands.append(resp.command(*arguments))
        return QUEUED

    def is_elsewhere(self, slot: int) -> bool:
        """Whether `slot` can't be part of this transaction: that has a slot already, or watches keys on another node."""
        if self.slot >= 0 and slot != self.slot:
            return True
        return self.watching is not None and self.session.cluster.slots[slot] is not self.watching.node

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
    elif state.transaction.open:
        session.reply(b"-ERR MULTI calls can not be nested\r\n")
        return True
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


def watch(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    state = session.state
    transaction = state.transaction
    if transaction is not None and transaction.open:
        session.reply(b"-ERR WATCH inside MULTI is not allowed\r\n")
        return True
    slot, problem = slot_for(spec, arguments)
    if problem:
        session.reply(problem)
        return True
    if not wait_turn(session):
        return False
    node = session.cluster.slots[slot]
    if transaction is None:
        transaction = Transaction(session)
    if transaction.watching is None:
        transaction.watching = session.cluster.borrow(node, session.protocol) if node is not None else None
        if transaction.watching is None:
            session.reply(unavailable(session, slot, None))
            return True
    elif transaction.watching.node is not node:
        session.reply(CROSSSLOT)
        return True
    state.transaction = transaction
    state.refresh()
    call = Call(session, spec, RAW, False, session.loop.now)
    session.enqueue_call(call)
    transaction.watching.send(call, resp.command(*arguments))
    session.fence()
    return True


def unwatch(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    if session.state.transaction is not None:
        leave(session, session.state.transaction)
    session.reply(OK)
    return True


def execute(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    transaction = session.state.transaction
    if transaction is None or not transaction.open:
        session.reply(b"-ERR EXEC without MULTI\r\n")
        return True
    if transaction.spoiled:
        leave(session, transaction)
        session.reply(ABORTED)
        return True
    if not transaction.commands and transaction.watching is None:
        leave(session, transaction)
        session.reply(b"*0\r\n")
        return True
    Exec(session, spec, transaction).send()
    session.state.transaction = None
    session.state.refresh()
    return True


class Exec:
    """MULTI, the commands, EXEC: sent in one piece, answered by EXEC's reply alone."""

    __slots__ = ("attempts", "commands", "main", "refusal", "session", "slot", "watching")

    def __init__(self, session: Any, spec: Any, transaction: Transaction) -> None:
        self.session = session
        self.commands = [resp.command(b"MULTI"), *transaction.commands, resp.command(b"EXEC")]
        self.slot = transaction.slot
        self.watching, transaction.watching = transaction.watching, None
        self.refusal = b""
        self.attempts = 0
        main = Call(session, spec, RAW, False, session.loop.now)
        main.gather = self
        self.main: Call | None = main
        session.enqueue_call(main)

    def send(self) -> None:
        session, cluster = self.session, self.session.cluster
        self.refusal = b""
        upstream = self.watching
        if upstream is None:
            upstream = (
                cluster.shared_for(self.slot, session.protocol, False)
                if self.slot >= 0
                else cluster.shared_of(cluster.any_node(), session.protocol)
            )
        if upstream is None or upstream.closed:
            self.finish(unavailable(session, self.slot, None))
            return
        for position, request in enumerate(self.commands):
            leg = Call(session, None, RAW, False, session.loop.now)
            leg.gather = self
            leg.attempts = position == len(self.commands) - 1  # marks EXEC's own
            upstream.send(leg, request)

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        if reply.startswith(NOT_EXECUTED):
            self.refusal = reply
        if not leg.attempts or self.main is None:
            return
        executed = not self.refusal or not reply.startswith((b"-EXECABORT", *NOT_EXECUTED))
        if executed or self.watching is not None or not self.again():
            self.finish(reply)

    def again(self) -> bool:
        """No part was executed: the whole goes where the refusal says, or the same way a little later."""
        cluster = self.session.cluster
        self.attempts += 1
        if self.attempts > cluster.config.max_redirects:
            return False
        cluster.learn(self.refusal)
        self.session.fence()
        cluster.schedule(0 if self.refusal.startswith(b"-MOVED") else RETRY_SECONDS * self.attempts, self.resend)
        return True

    def resend(self) -> None:
        if self.main is not None and self.main.caller is not None:
            self.send()

    def finish(self, reply: bytes) -> None:
        main, self.main = self.main, None
        if self.watching is not None:
            watching, self.watching = self.watching, None
            clean = reply[:1] != b"-" or reply == ABORTED
            self.session.cluster.schedule(0, lambda: self.session.cluster.give_back(watching, clean))
        if main is not None and main.caller is not None:
            self.session.cluster.measure(main)
            self.session.answer(main, reply)

    def caller_left(self) -> None:
        self.main = None
        if self.watching is not None:
            watching, self.watching = self.watching, None
            self.session.cluster.give_back(watching, False)


# -- blocking commands


class Blocking:
    """A command that waits in the server, on a connection of the session's own."""

    __slots__ = ("attempts", "call", "request", "session", "slot", "upstream")

    def __init__(self, session: Any, spec: Any, slot: int, request: bytes) -> None:
        self.session = session
        self.slot = slot
        self.request = request
        self.attempts = 0
        self.upstream: Any = None
        call = Call(session, spec, RAW, False, session.loop.now)
        call.gather = self
        self.call: Call | None = call
        session.enqueue_call(call)
        session.state.waiting = self
        session.fence()
        self.send()

    def send(self) -> None:
        cluster = self.session.cluster
        node = cluster.slots[self.slot] if self.slot >= 0 else cluster.any_node()
        self.upstream = cluster.borrow(node, self.session.protocol) if node is not None else None
        if self.upstream is None:
            self.finish(unavailable(self.session, self.slot, None))
            return
        leg = Call(self.session, None, RAW, False, self.session.loop.now)
        leg.gather = self
        self.upstream.send(leg, self.request)

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        cluster = self.session.cluster
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            cluster.schedule(0, lambda: cluster.give_back(upstream, True))
        if reply.startswith(NOT_EXECUTED) and self.call is not None and self.attempts < cluster.config.max_redirects:
            self.attempts += 1
            cluster.learn(reply)
            cluster.schedule(0 if reply.startswith(b"-MOVED") else RETRY_SECONDS * self.attempts, self.resend)
        else:
            self.finish(reply)

    def resend(self) -> None:
        if self.call is not None:
            self.send()

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


def block(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    if spec.handler in (b"xread", b"xreadgroup") and not blocks(arguments):
        forward(session, spec, arguments)
        return True
    slot, problem = slot_for(spec, arguments)
    if problem:
        session.reply(problem)
        return True
    if not wait_turn(session):
        return False
    Blocking(session, spec, slot, resp.command(*arguments))
    return True


def blocks(arguments: list[bytes]) -> bool:
    """XREAD and XREADGROUP wait only when BLOCK stands among their options."""
    for argument in arguments[1:]:
        option = argument.upper()
        if option == b"STREAMS":
            return False
        if option == b"BLOCK":
            return True
    return False


# -- subscriptions


class Subscriptions:
    """The connections that bring a session its messages: one for channels and patterns, one a node for shard channels."""

    __slots__ = ("counts", "held", "session", "upstreams", "wanted")

    def __init__(self, session: Any) -> None:
        self.session = session
        self.upstreams: dict[Any, Any] = {}
        self.counts: dict[Any, int] = {}
        self.wanted: dict[Any, bytes] = {}
        self.held: list[bytes] = []

    def upstream(self, node: Any, place: Any) -> Any:
        """The connection for `place` (a node for its shard channels, "any" for the others), opened if need be."""
        known = self.upstreams.get(place)
        if known is None and node is not None:
            known = self.session.cluster.borrow(node, self.session.protocol)
            if known is not None:
                self.upstreams[place] = known
                known.pushes = lambda data: self.received(place, data)
        return known

    def send(self, place: Any, node: Any, request: bytes) -> bool:
        upstream = self.upstream(node, place)
        if upstream is None:
            return False
        upstream.log.append(request)
        self.wanted[place] = request
        self.session.loop.later(upstream)
        return True

    def received(self, place: Any, data: bytes) -> None:
        """A message or a confirmation. No data: the connection is lost, and messages with it, so the client must know."""
        session = self.session
        if session.over:
            return
        if not data:
            session.end("backend_reset")
            return
        if data.startswith(b"-MOVED ") and place != "any":
            self.follow(place, data)
            return
        upstream = self.upstreams.get(place)
        if upstream is not None:
            upstream.log.skip(upstream.log.size() - upstream.log.unsent())
        self.count(place, data)
        self.pass_on(data)
        if not any(self.counts.values()):
            self.leave()

    def pass_on(self, data: bytes) -> None:
        """To the client, but never into the middle of a reply that is being streamed."""
        if self.session.streaming or self.held:
            if not self.held:
                self.session.cluster.schedule(RETRY_SECONDS, self.release)
            self.held.append(data)
        else:
            self.session.push(data)

    def release(self) -> None:
        if self.session.over:
            return
        if self.session.streaming:
            self.session.cluster.schedule(RETRY_SECONDS, self.release)
            return
        held, self.held = self.held, []
        for data in held:
            self.session.push(data)

    def count(self, place: Any, data: bytes) -> None:
        """Confirmations carry the number of subscriptions left."""
        parts = elements(data)
        kind = parts[0].split(b"\r\n")[1] if parts else b""
        if kind.endswith(b"subscribe") and len(parts) == 3:
            self.counts[place] = int(parts[2][1:-2])

    def follow(self, place: Any, data: bytes) -> None:
        """The slot of a shard channel has moved: subscribe at its new node."""
        self.session.cluster.learn(data)
        found = slots.parse_redirect(data)
        request = self.wanted.get(place)
        if found is not None and request is not None:
            node = self.session.cluster.slots[found[1]]
            self.send(node, node, request)

    def leave(self) -> None:
        self.close_with(True)
        if self.session.state.pubsub is self:
            self.session.state.pubsub = None
            self.session.state.refresh()

    def close(self) -> None:
        self.close_with(False)

    def close_with(self, clean: bool) -> None:
        upstreams, self.upstreams = self.upstreams, {}
        cluster = self.session.cluster
        for upstream in upstreams.values():
            upstream.pushes = None
            cluster.schedule(0, lambda upstream=upstream: cluster.give_back(upstream, clean))


def subscribe(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """SUBSCRIBE, PSUBSCRIBE and SSUBSCRIBE: after everything before them is answered."""
    sharded = spec.name == b"SSUBSCRIBE"
    slot = -1
    if sharded:
        found = {slots.slot_of(channel) for channel in arguments[1:]}
        if len(found) > 1:
            session.reply(CROSSSLOT)
            return True
        slot = found.pop()
    if not wait_turn(session):
        return False
    state = session.state
    if state.pubsub is None:
        state.pubsub = Subscriptions(session)
    node = session.cluster.slots[slot] if sharded else session.cluster.any_node()
    if not state.pubsub.send(node if sharded else "any", node, resp.command(*arguments)):
        if not state.pubsub.upstreams:
            state.pubsub = None
        session.reply(unavailable(session, slot, None))
    state.refresh()
    return True


def unsubscribe(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    pubsub = session.state.pubsub
    request = resp.command(*arguments)
    if not wait_turn(session):
        return False
    sharded = spec.name == b"SUNSUBSCRIBE"
    if pubsub is not None and not sharded and "any" in pubsub.upstreams:
        pubsub.send("any", None, request)
        return True
    places = [place for place in (pubsub.upstreams if pubsub is not None else ()) if place != "any"]
    if sharded and places:
        for place in places if len(arguments) == 1 else [session.cluster.slots[slots.slot_of(arguments[1])]]:
            if place in places:
                pubsub.send(place, None, request)
                return True
    channels: list[bytes | None] = [*arguments[1:]] or [None]
    for channel in channels:
        name = resp.bulk(channel) if channel is not None else (b"_\r\n" if session.protocol == 3 else b"$-1\r\n")
        values = [resp.bulk(spec.name.lower()), name, b":0\r\n"]
        reply = resp.array(values)
        session.reply(b">" + reply[1:] if session.protocol == 3 else reply)
    return True


HANDLERS: dict[bytes, Callable[[Any, Any, list[bytes]], bool]] = {
    b"multi": multi,
    b"exec": execute,
    b"discard": discard,
    b"watch": watch,
    b"unwatch": unwatch,
    b"subscribe": subscribe,
    b"psubscribe": subscribe,
    b"ssubscribe": subscribe,
    b"unsubscribe": unsubscribe,
    b"punsubscribe": unsubscribe,
    b"sunsubscribe": unsubscribe,
}
