"""Commands taken apart: by slot (MGET, MSET, DEL …) or to every master (DBSIZE, KEYS …), and their replies put together.

A `Gather` stands in the session's queue for the whole command; its legs stand in the queues of the shared connections.
An error of one leg is the reply to the whole: a lower sum or a shorter list would be a silent lie.
"""

import random
from collections.abc import Callable
from typing import Any

from puerta.protocol import commands, resp, slots
from puerta.protocol.resp import elements
from puerta.proxy.redis_upstream import RAW, Call

NODE_BITS = 10
"""Low bits of a SCAN cursor that say which master it belongs to."""

WAIT_POLL_SECONDS = 0.01

Combine = Callable[[list[bytes]], bytes]


class Gather:
    """One command in several legs. `combine` makes the reply of the legs' replies, in the order the legs were added."""

    __slots__ = ("combine", "legs", "main", "outstanding", "session")

    def __init__(self, session: Any, spec: Any, combine: Combine) -> None:
        self.session = session
        self.combine = combine
        self.legs: list[Any] = []
        self.outstanding = 0
        main = Call(session, spec, -1, False, session.loop.now)
        main.gather = self
        self.main: Call | None = main
        session.enqueue_call(main)

    def add(self, spec: Any, slot: int, upstream: Any, request: bytes) -> None:
        """One more leg; `slot` RAW pins it to its node, so that it is never sent elsewhere."""
        leg = Call(self.session, spec, slot, spec.readonly, self.session.loop.now)
        leg.gather = self
        self.legs.append(leg)
        self.outstanding += 1
        if upstream is None or upstream.log.size() > self.session.most:
            self.leg_answered(leg, b"-CLUSTERDOWN a node for this command can't be reached\r\n")
        else:
            upstream.send(leg, request)

    def seal(self) -> None:
        """Finish when no leg is outstanding. Whoever adds legs counts as one itself meanwhile: they may all fail at once."""
        if not self.outstanding:
            self.finish()

    def leg_answered(self, leg: Any, reply: bytes) -> None:
        if leg.done:
            return
        leg.done = True
        leg.reply = reply
        self.outstanding -= 1
        self.seal()

    def finish(self) -> None:
        main, self.main = self.main, None
        if main is None or main.caller is None:
            return
        replies = [leg.reply for leg in self.legs]
        failed = next((reply for reply in replies if reply[:1] == b"-"), None)
        self.session.cluster.measure(main)
        self.session.answer(main, failed if failed is not None else self.combine(replies))

    def caller_left(self) -> None:
        self.main = None
        for leg in self.legs:
            leg.caller = None


def take(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    handler = HANDLERS.get(spec.handler)
    if handler is not None:
        return handler(session, spec, arguments)
    return to_all_masters(session, spec, arguments)


# -- by slot


def by_slot(arguments: list[bytes], step: int) -> dict[int, list[int]]:
    """Positions of the keys, grouped by their slot in the order of first appearance."""
    groups: dict[int, list[int]] = {}
    for position in range(1, len(arguments), step):
        groups.setdefault(slots.slot_of(arguments[position]), []).append(position)
    return groups


def split_by_slot(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    step = 2 if spec.handler == b"mset" else 1
    if step == 2 and len(arguments) % 2 == 0:
        session.reply(resp.error(commands.wrong_arity(spec)))
        return True
    groups = by_slot(arguments, step)
    if spec.aggregate == commands.ARRAY_BY_POSITION:
        positions = [position for group in groups.values() for position in group]
        combine: Combine = lambda replies: in_order(positions, replies)  # noqa: E731
    else:
        combine = COMBINE[spec.aggregate]
    gather = Gather(session, spec, combine)
    for slot, group in groups.items():
        parts = [arguments[0]]
        for position in group:
            parts.extend(arguments[position : position + step])
        upstream = session.cluster.shared_for(slot, session.protocol, spec.readonly)
        gather.outstanding += 1
        gather.add(spec, slot, upstream, resp.command(*parts))
        gather.outstanding -= 1
    gather.seal()
    return True


def in_order(positions: list[int], replies: list[bytes]) -> bytes:
    """MGET: each leg's elements back to where their keys stood."""
    values = [value for reply in replies for value in elements(reply)]
    ordered = [value for _, value in sorted(zip(positions, values, strict=True), key=lambda pair: pair[0])]
    return resp.array(ordered)


# -- to every master


def to_all_masters(session: Any, spec: Any, arguments: list[bytes], combine: Combine | None = None) -> bool:
    nodes = session.cluster.masters()
    if not nodes:
        session.reply(b"-CLUSTERDOWN The cluster is down\r\n")
        return True
    if spec.aggregate == commands.ONE:
        nodes = nodes[:1]
    gather = Gather(session, spec, combine or COMBINE[spec.aggregate])
    request = resp.command(*arguments)
    gather.outstanding += 1
    for node in nodes:
        gather.add(spec, RAW, session.cluster.shared_of(node, session.protocol), request)
    gather.outstanding -= 1
    gather.seal()
    return True


def number(reply: bytes) -> int:
    return int(reply[1:-2])


def total(replies: list[bytes]) -> bytes:
    return resp.integer(sum(map(number, replies)))


def smallest(replies: list[bytes]) -> bytes:
    return resp.integer(min(map(number, replies)))


def first(replies: list[bytes]) -> bytes:
    return replies[0]


def concatenated(replies: list[bytes]) -> bytes:
    """One list of all lists; sets (RESP3) stay sets."""
    values = [value for reply in replies for value in elements(reply)]
    kind = replies[0][:1]
    return b"%c%d\r\n%s" % (kind, len(values), b"".join(values))


def all_of_each(replies: list[bytes]) -> bytes:
    """SCRIPT EXISTS: present only where every master has it."""
    columns = zip(*(elements(reply) for reply in replies), strict=True)
    return resp.array([b":1\r\n" if all(value == b":1\r\n" for value in column) else b":0\r\n" for column in columns])


def any_value(replies: list[bytes]) -> bytes:
    """RANDOMKEY: of a master that has one."""
    found = [reply for reply in replies if reply not in (b"$-1\r\n", b"_\r\n")]
    return random.choice(found) if found else replies[0]


def sums_by_name(replies: list[bytes]) -> bytes:
    """PUBSUB NUMSUB: name, count, name, count … or a RESP3 map."""
    lists = [elements(reply) for reply in replies]
    merged = list(lists[0])
    for index in range(1, len(merged), 2):
        merged[index] = resp.integer(sum(number(values[index]) for values in lists))
    return replies[0].partition(b"\r\n")[0] + b"\r\n" + b"".join(merged)


COMBINE: dict[int, Combine] = {
    commands.SUM: total,
    commands.ALL_OK: first,
    commands.CONCAT: concatenated,
    commands.FIRST_SAME: first,
    commands.AND_ARRAY: all_of_each,
    commands.MIN: smallest,
    commands.ONE_RANDOM: any_value,
    commands.SUM_PAIRS: sums_by_name,
    commands.ONE: first,
}


# -- SCAN: one master after the other


def scan(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """A cursor is the node's own, shifted, with the master's number in its low bits; 0 begins and ends."""
    text = arguments[1]
    if not text.isdigit() or len(text) > 20 or int(text) >= 1 << 64:
        session.reply(b"-ERR invalid cursor\r\n")
        return True
    cursor = int(text)
    nodes = session.cluster.masters()
    place = cursor & ((1 << NODE_BITS) - 1)
    if place >= len(nodes):
        session.reply(resp.array([resp.bulk(b"0"), resp.array([])]))
        return True
    request = resp.command(arguments[0], b"%d" % (cursor >> NODE_BITS), *arguments[2:])
    gather = Gather(session, spec, lambda replies: next_cursor(replies[0], place, len(nodes)))
    gather.outstanding += 1
    gather.add(spec, RAW, session.cluster.shared_of(nodes[place], session.protocol), request)
    gather.outstanding -= 1
    gather.seal()
    return True


def next_cursor(reply: bytes, place: int, count: int) -> bytes:
    cursor, keys = elements(reply)
    own = int(cursor.split(b"\r\n")[1])
    if own >= 1 << (64 - NODE_BITS):
        return b"-ERR the node's cursor is too large to be passed on\r\n"
    after = place + 1 if place + 1 < count else 0
    following = own << NODE_BITS | place if own else after
    return resp.array([resp.bulk(b"%d" % following), keys])


# -- WAIT: asked again and again, for it must not block a shared connection


def wait(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """WAIT and WAITAOF on shared connections: their offset is at least the session's own, so the answer is never too good."""
    try:
        patience = int(arguments[-1])
        wanted = [int(value) for value in arguments[1:-1]]
    except ValueError:
        session.reply(b"-ERR value is not an integer or out of range\r\n")
        return True
    if patience < 0:
        session.reply(b"-ERR timeout is negative\r\n")
        return True
    Wait(session, spec, arguments, wanted, patience)
    return True


class Wait(Gather):
    """Asks every master without waiting there (1 ms) until enough replicas have answered or the time is over."""

    __slots__ = ("arguments", "deadline", "wanted")

    def __init__(self, session: Any, spec: Any, arguments: list[bytes], wanted: list[int], patience: int) -> None:
        super().__init__(session, spec, self.least)
        self.arguments = [*arguments[:-1], b"1"]
        self.wanted = wanted
        self.deadline = session.loop.now + patience / 1000 if patience else float("inf")
        self.ask()

    def ask(self) -> None:
        assert self.main is not None
        spec = self.main.spec
        self.legs.clear()
        self.outstanding += 1
        for node in self.session.cluster.masters():
            upstream = self.session.cluster.shared_of(node, self.session.protocol)
            self.add(spec, RAW, upstream, resp.command(*self.arguments))
        self.outstanding -= 1
        self.seal()

    def finish(self) -> None:
        main = self.main
        if main is None or main.caller is None:
            return
        replies = [leg.reply for leg in self.legs]
        failed = any(reply[:1] == b"-" for reply in replies)
        if failed or self.session.loop.now >= self.deadline or self.enough(replies):
            super().finish()
        else:
            self.session.cluster.schedule(WAIT_POLL_SECONDS, self.again)

    def again(self) -> None:
        if self.main is not None and self.main.caller is not None:
            self.ask()

    def counts(self, reply: bytes) -> list[int]:
        return [number(reply)] if reply[:1] == b":" else [number(value) for value in elements(reply)]

    def enough(self, replies: list[bytes]) -> bool:
        return all(
            count >= want for reply in replies for count, want in zip(self.counts(reply), self.wanted, strict=True)
        )

    def least(self, replies: list[bytes]) -> bytes:
        columns = [min(column) for column in zip(*map(self.counts, replies), strict=True)]
        if replies[0][:1] == b":":
            return resp.integer(columns[0])
        return resp.array([resp.integer(value) for value in columns])


HANDLERS: dict[bytes, Callable[[Any, Any, list[bytes]], bool]] = {
    b"mget": split_by_slot,
    b"mset": split_by_slot,
    b"del": split_by_slot,
    b"unlink": split_by_slot,
    b"exists": split_by_slot,
    b"touch": split_by_slot,
    b"scan": scan,
    b"wait": wait,
    b"waitaof": wait,
}
