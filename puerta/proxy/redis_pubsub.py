"""Subscriptions of a session: channels and patterns on one node, shard channels on the node of their slot.

Each (un)subscribing command stands in the session's queue until all its confirmations have come, so that later commands
are answered behind them, as by a server. To know when that is, a PING goes behind the command on the same connection.
A subscriber misses nothing silently: when a shard channel's slot moves it is subscribed again at the new owner, and when
a connection is lost the client's ends too.
"""

from collections import deque
from typing import Any

from puerta.protocol import resp, slots
from puerta.protocol.resp import elements
from puerta.proxy.redis_caller import RAW, Call
from puerta.proxy.redis_forward import CROSSSLOT, unavailable, wait_turn
from puerta.proxy.redis_moving import Moving

PROBE = resp.command(b"PING", b"puerta")
PROBED = (b"$6\r\npuerta\r\n", b"*2\r\n$4\r\npong\r\n$6\r\npuerta\r\n")
"""Its answer outside and inside the subscribed state of RESP2. No message looks like either."""

RETRY_SECONDS = 0.05
ANY = "any"
"""The place of channels and patterns; shard channels have their node's."""


class Subscriptions:
    """The connections that bring a session its messages, each by its place: its node, or ANY.

    `counts` are the subscriptions on each, `asked` what is under way on it: commands of the client, and channels that moved.
    """

    __slots__ = ("asked", "counts", "held", "held_size", "moving", "session", "upstreams")

    def __init__(self, session: Any) -> None:
        self.session = session
        self.upstreams: dict[Any, Any] = {}
        self.counts: dict[Any, int] = {}
        self.asked: dict[Any, deque[Change | bytes]] = {}
        self.moving = Moving(self)
        self.held: list[bytes] = []
        self.held_size = 0

    def send(self, place: Any, node: Any, request: bytes) -> bool:
        """On the connection of `place`, opened if need be; False when there is none to be had."""
        upstream = self.upstreams.get(place)
        if upstream is None and node is not None:
            upstream = self.session.cluster.borrow(node, self.session.protocol)
            if upstream is not None:
                self.upstreams[place] = upstream
                self.counts[place] = 0
                self.asked[place] = deque()
                upstream.pushes = lambda data: self.received(place, data)
        if upstream is None:
            return False
        upstream.log.append(request)
        self.session.loop.later(upstream)
        return True

    def ask(self, what: "Change | bytes", place: Any, node: Any) -> bool:
        request = resp.command(b"SSUBSCRIBE", what) if isinstance(what, bytes) else what.request + PROBE
        if not self.send(place, node, request):
            return False
        self.asked[place].append(what)
        return True

    # -- what comes back

    def received(self, place: Any, data: bytes) -> None:
        """A message, a confirmation, an error or the probe's answer. No data: the connection is lost, and messages with it."""
        session, upstream = self.session, self.upstreams.get(place)
        if session.over or upstream is None:
            return
        if not data:
            self.lost(place)
            return
        upstream.log.skip(upstream.log.size() - upstream.log.unsent())
        first = self.asked[place][0] if self.asked[place] else None
        if data in PROBED and isinstance(first, Change):
            self.asked[place].popleft()
            first.confirmed(place)
        elif data[:1] == b"-":
            self.refused(place, first, data)
        else:
            self.pass_on(self.counted(place, first, data))

    def lost(self, place: Any) -> None:
        """A first subscription that is not confirmed yet fails; else the client must know that it may have missed messages."""
        asked, self.asked[place] = self.asked[place], deque()
        if self.counts[place] or len(asked) != 1 or isinstance(asked[0], bytes):
            self.session.end("backend_reset")
        else:
            self.let_go(place, False)
            asked[0].finish(unavailable(self.session, asked[0].slot, None))

    def refused(self, place: Any, first: "Change | bytes | None", data: bytes) -> None:
        if isinstance(first, bytes):
            self.asked[place].popleft()
            self.moving.refused(first, data, place.host)
        elif first is not None:
            first.refusal = data

    def counted(self, place: Any, first: "Change | bytes | None", data: bytes) -> bytes:
        """What the client is to see of a message: confirmations carry the number of subscriptions it has left."""
        if b"subscribe\r\n" not in data[:32]:
            return data
        parts = elements(data)
        kind = parts[0].partition(b"\r\n")[2][:-2]
        if not kind.endswith(b"subscribe") or len(parts) != 3:
            return data
        self.counts[place] = int(parts[2][1:-2])
        if place is ANY:
            return data
        channel = parts[1].partition(b"\r\n")[2][:-2]
        if kind == b"sunsubscribe" and not (isinstance(first, Change) and first.removes):
            self.moving.add(channel)
            return b""
        if kind == b"ssubscribe" and isinstance(first, bytes):
            self.asked[place].popleft()
            self.moving.confirmed(channel)
            return b""
        return data[: len(data) - len(parts[2])] + resp.integer(self.shard_channels())

    def shard_channels(self) -> int:
        return sum(count for place, count in self.counts.items() if place is not ANY) + len(self.moving.channels)

    # -- to the client, never into the middle of a reply that is being streamed

    def pass_on(self, data: bytes) -> None:
        if not data:
            return
        if self.session.protocol == 2 and data[:1] == b">":  # it said HELLO 2 since it subscribed
            data = resp.array([b"$-1\r\n" if part == b"_\r\n" else part for part in elements(data)])
        if not self.session.streaming:
            self.let_out()
            self.session.push(data)
            return
        if not self.held:
            self.session.cluster.schedule(RETRY_SECONDS, self.release)
        self.held.append(data)
        self.held_size += len(data)
        if self.held_size > self.session.most:
            self.session.overflow()

    def release(self) -> None:
        if self.session.over or not self.held:
            return
        if self.session.streaming:
            self.session.cluster.schedule(RETRY_SECONDS, self.release)
        else:
            self.let_out()

    def let_out(self) -> None:
        held, self.held, self.held_size = self.held, [], 0
        for data in held:
            self.session.push(data)

    # -- the end

    def trim(self) -> None:
        """Give back the connections without subscriptions; without any, the session is no subscriber any more."""
        if self.moving.channels or self.session.over:
            return
        for place in [place for place, count in self.counts.items() if not count and not self.asked[place]]:
            self.let_go(place, True)
        if not self.upstreams and self.session.state.pubsub is self:
            self.session.state.pubsub = None
            self.session.state.refresh()

    def close(self) -> None:
        for place in list(self.upstreams):
            self.let_go(place, False)

    def let_go(self, place: Any, clean: bool) -> None:
        upstream = self.upstreams.pop(place)
        del self.counts[place], self.asked[place]
        upstream.pushes = lambda data: None  # a last message may be on its way
        cluster = self.session.cluster
        cluster.schedule(0, lambda: cluster.give_back(upstream, clean))


class Change:
    """One (un)subscribing command under way. `refusal` is the error it got instead of confirmations."""

    __slots__ = ("attempts", "left", "main", "pubsub", "refusal", "removes", "request", "slot")

    def __init__(self, pubsub: Subscriptions, spec: Any, slot: int, request: bytes) -> None:
        session = pubsub.session
        self.pubsub = pubsub
        self.slot = slot
        self.request = request
        self.removes = spec.handler == b"unsubscribe"
        self.refusal = b""
        self.attempts = 0
        self.left = 0
        self.main: Any = Call(session, spec, RAW, False, session.loop.now)
        self.main.gather = self
        session.enqueue_call(self.main)
        session.fence()

    def begin(self, places: list[Any]) -> None:
        cluster = self.pubsub.session.cluster
        self.refusal = b""
        self.left = len(places)
        for place in places:
            if not self.pubsub.ask(self, place, cluster.any_node() if place is ANY else place):
                self.finish(unavailable(self.pubsub.session, self.slot, None))
                return

    def confirmed(self, place: Any) -> None:
        """All that the command brings from this place has come."""
        self.left -= 1
        if self.left or self.main is None:
            return
        if not self.refusal:
            self.finish(b"")
            return
        cluster = self.pubsub.session.cluster
        self.attempts += 1
        if place is ANY or self.attempts > cluster.config.max_redirects or not self.refusal.startswith(b"-MOVED "):
            self.finish(self.refusal)
            return
        cluster.learn(self.refusal, place.host)
        self.begin([cluster.owner(self.slot)])

    def finish(self, reply: bytes) -> None:
        main, self.main = self.main, None
        self.pubsub.trim()
        if main is not None and main.caller is not None:
            self.pubsub.session.answer(main, reply)

    def caller_left(self) -> None:
        """The connections go with the session's subscriptions."""
        self.main = None


def one_slot(channels: list[bytes]) -> int:
    """The slot of all these shard channels, or -1."""
    found = {slots.slot_of(channel) for channel in channels}
    return found.pop() if len(found) == 1 else -1


def subscribe(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """SUBSCRIBE, PSUBSCRIBE and SSUBSCRIBE."""
    sharded = spec.name == b"SSUBSCRIBE"
    slot = one_slot(arguments[1:]) if sharded else -1
    if sharded and slot < 0:
        session.reply(CROSSSLOT)
        return True
    if not wait_turn(session):
        return False
    place = session.cluster.owner(slot) if sharded else ANY
    if place is None:
        session.reply(unavailable(session, slot, None))
        return True
    if session.state.pubsub is None:
        session.state.pubsub = Subscriptions(session)
        session.state.refresh()
    Change(session.state.pubsub, spec, slot, resp.command(*arguments)).begin([place])
    return True


def unsubscribe(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """UNSUBSCRIBE, PUNSUBSCRIBE and SUNSUBSCRIBE."""
    sharded = spec.name == b"SUNSUBSCRIBE"
    slot = one_slot(arguments[1:]) if sharded else -1
    if sharded and slot < 0 and len(arguments) > 1:
        session.reply(CROSSSLOT)
        return True
    if not wait_turn(session):
        return False
    pubsub = session.state.pubsub
    names, places = arguments[1:], []
    if pubsub is not None:
        gone = pubsub.moving.forget(names) if sharded else []
        names = names or gone
        sharding = {session.cluster.slots.owner(slot)} if slot >= 0 else set(pubsub.upstreams) - {ANY}
        places = [place for place in pubsub.upstreams if place in (sharding if sharded else {ANY})]
    if places:
        Change(pubsub, spec, slot, resp.command(*arguments)).begin(places)
        return True
    said = nothing_to_end(session, spec, names)
    if pubsub is None:
        session.push(said)  # not a reply: CLIENT REPLY does not hold it back
    else:
        pubsub.pass_on(said)
        pubsub.trim()
    return True


def nothing_to_end(session: Any, spec: Any, channels: list[bytes]) -> bytes:
    """The confirmations of who is not subscribed: one a channel, or one of none."""
    null = b"_\r\n" if session.protocol == 3 else b"$-1\r\n"
    pubsub = session.state.pubsub
    left = 0
    if pubsub is not None:
        left = pubsub.shard_channels() if spec.name == b"SUNSUBSCRIBE" else pubsub.counts.get(ANY, 0)
    names = [resp.bulk(channel) for channel in channels] or [null]
    replies = [resp.array([resp.bulk(spec.name.lower()), name, resp.integer(left)]) for name in names]
    return b"".join(b">" + reply[1:] if session.protocol == 3 else reply for reply in replies)
