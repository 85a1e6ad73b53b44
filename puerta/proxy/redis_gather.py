"""One command in several legs on shared connections, and their replies put together."""

import random
from collections.abc import Callable
from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.resp import head
    from puerta.proxy.redis_caller import Call
    from puerta.proxy.redis_caller import Call as new_call
    from puerta.reactor.native import Buffer

from puerta import log
from puerta.protocol import commands, resp
from puerta.protocol.resp import elements
from puerta.proxy.redis_caller import RAW, TOO_LARGE

Combine = Callable[[list[bytes]], bytes]

MINUS = cython.declare(cython.Py_ssize_t, ord("-"))
ONE = cython.declare(cython.Py_ssize_t, ord("1"))
RETURN = cython.declare(cython.Py_ssize_t, ord("\r"))
UNREACHABLE = b"-CLUSTERDOWN a node for this command can't be reached\r\n"


class Gather:
    """Stands in the session's queue for the whole command; its legs stand in the queues of the shared connections.

    `combine` makes the reply of the legs' replies, in the order the legs were added. An error of one leg is the reply to the
    whole (a lower sum or a shorter list would be a silent lie), unless it is `tolerant`: then `combine` sees errors as well.
    """

    if not cython.compiled:
        __slots__ = ("combine", "failures", "held", "latencies", "legs", "main", "outstanding", "session", "tolerant")

    def __init__(self, session: Any, spec: Any, combine: Combine, tolerant: bool = False) -> None:
        self.begin(session, spec, combine, tolerant)

    def begin(self, session: Any, spec: Any, combine: Combine, tolerant: bool) -> int:
        """Take the command's place in the session's queue."""
        self.session = session
        self.latencies = session.cluster.latencies
        self.combine = combine
        self.tolerant = tolerant
        self.held = 0
        self.failures = 0
        self.legs: list[Any] = []
        # Legs without an answer, and one for whoever adds legs: all that there are may fail at once.
        self.outstanding = 1
        main = new_call(session, spec, RAW, False, session.loop.now)
        main.gather = self
        main.muted = session.silent
        self.main: Any = main
        session.enqueue(main)
        return 0

    def expect(self, leg: Call) -> None:
        """One more leg, which its sender puts on its way."""
        leg.gather = self
        self.legs.append(leg)
        self.outstanding += 1

    def add(self, spec: Any, slot: int, upstream: Any, request: bytes) -> None:
        """One more leg; `slot` RAW pins it to its node, so that it is never sent elsewhere."""
        leg = Call(self.session, spec, slot, spec.readonly, self.session.loop.now)
        self.expect(leg)
        if upstream is None or upstream.full():
            self.leg_answered(leg, UNREACHABLE)
        else:
            upstream.send(leg, request)

    def seal(self) -> None:
        """All legs have been added. Each counts as one of the calls that the session may have in flight."""
        self.session.pending += len(self.legs)
        self.outstanding -= 1
        if not self.outstanding:
            self.settle()

    def leg_answered(self, leg: Call, reply: bytes) -> None:
        if leg.done:
            return
        leg.done = True
        if self.main is not None:
            session = self.session
            leg.reply = reply
            if reply[0] == MINUS:
                self.failures += 1
            self.held += len(reply)
            session.held += len(reply)
            if session.held > session.most:
                self.give_up()
        self.outstanding -= 1
        if not self.outstanding:
            self.settle()

    def give_up(self) -> None:
        """What has come is more than may be held for this client; what is still to come is not wanted any more."""
        main, self.main = self.main, None
        for leg in self.legs:
            leg.reply = leg.caller = None
        self.session.held -= self.held
        self.session.answer(main, TOO_LARGE)

    def settle(self) -> None:
        """There are no more legs, and no more answers to come."""
        self.session.pending -= len(self.legs)
        self.finish()

    def finish(self) -> None:
        main, self.main = self.main, None
        legs, self.legs = self.legs, []  # they name us: a circle that only the collector would find
        if main is None or main.caller is None:
            return
        session = self.session
        session.held -= self.held
        self.latencies.measure(main, session.loop.now)
        if self.failures and not self.tolerant:
            for leg in legs:
                if leg.reply[0] == MINUS:
                    session.answer(main, leg.reply)
                    return
        session.answer(main, self.combine([leg.reply for leg in legs]))

    def caller_left(self) -> None:
        self.main = None
        for leg in self.legs:
            leg.caller = None


def new_gather(session: Any, spec: Any, combine: Combine) -> Gather:
    """A Gather, made without the price of a constructor that takes Python objects."""
    if not cython.compiled:
        return Gather(session, spec, combine)
    gather: Any = Gather.__new__(Gather)
    gather.begin(session, spec, combine, False)
    return gather  # type: ignore[no-any-return]


def collect(call: Call, reply: bytes) -> None:
    """A leg's reply. What can't be made of it must not cost the connection: others share it."""
    gather = call.gather
    call.gather = None  # a leg and its gather know each other: broken here, their circle needs no collector
    try:
        if isinstance(gather, Gather):
            whole = gather
            whole.leg_answered(call, reply)
        else:
            gather.leg_answered(call, reply)
    except Exception:
        log.logger.exception("a command failed and its session was closed")
        session = getattr(getattr(gather, "owner", gather), "session", None)
        if session is not None:
            session.end("internal_error")


# -- putting replies together


def number(reply: bytes) -> int:
    return int(reply[1:])  # int() takes the line end for white space


def in_order(positions: list[int], replies: list[bytes]) -> bytes:
    """MGET: each leg's elements back to where their keys stood."""
    ordered = [b""] * len(positions)
    place = iter(positions)
    for reply in replies:
        for value in [reply[4:]] if reply.startswith(b"*1\r\n") else elements(reply):
            ordered[next(place) - 1] = value
    return resp.array(ordered)


def one_each(replies: list[bytes]) -> bytes:
    """MGET, with every key in a leg of its own: arrays of one element, in the order of the keys."""
    whole = Buffer()
    whole.reserve(sum([len(reply) for reply in replies]))
    whole.append(head(len(replies)))
    for reply in replies:
        if reply[1] != ONE or reply[2] != RETURN:
            raise ValueError("a reply to MGET of one key that is no array of one")
        whole.extend(reply, 4, len(reply) - 4)
    return whole.take()


def total(replies: list[bytes]) -> bytes:
    return resp.integer(sum(map(number, replies)))


def smallest(replies: list[bytes]) -> bytes:
    return resp.integer(min(map(number, replies)))


def first(replies: list[bytes]) -> bytes:
    return replies[0]


def first_fine(replies: list[bytes]) -> bytes:
    return next((reply for reply in replies if reply[:1] != b"-"), replies[0])


def listed(replies: list[bytes], values: list[bytes]) -> bytes:
    """A list of the kind that the replies are: sets (RESP3) stay sets."""
    return b"%b%d\r\n%b" % (replies[0][:1], len(values), b"".join(values))


def concatenated(replies: list[bytes]) -> bytes:
    return listed(replies, [value for reply in replies for value in elements(reply)])


def united(replies: list[bytes]) -> bytes:
    return listed(replies, list(dict.fromkeys(value for reply in replies for value in elements(reply))))


def all_of_each(replies: list[bytes]) -> bytes:
    """SCRIPT EXISTS: present only where every master has it."""
    columns = zip(*(elements(reply) for reply in replies), strict=True)
    return resp.array([min(column) for column in columns])


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
    commands.ARRAY_BY_POSITION: one_each,
    commands.ALL_OK: first,
    commands.AND_ARRAY: all_of_each,
    commands.ANY_OK: first_fine,
    commands.CONCAT: concatenated,
    commands.FIRST_SAME: first,
    commands.MIN: smallest,
    commands.ONE: first,
    commands.ONE_RANDOM: any_value,
    commands.SUM: total,
    commands.SUM_PAIRS: sums_by_name,
    commands.UNION: united,
}
"""By the table's `aggregate`, where no leg has several keys whose values have a place."""


def combiner(spec: Any, positions: list[int]) -> Combine:
    """How the replies to legs of several keys become one. `positions` are those of the keys in the order of the legs."""
    if spec.aggregate != commands.ARRAY_BY_POSITION:
        return COMBINE[spec.aggregate]
    return lambda replies: in_order(positions, replies)
