"""Calls of one session on one slot that are sent again, one after the other, and what may get ahead of them.

A node that was not ready for a call may be ready for the next one, which was on its way already: the later call is executed,
and the earlier one, sent again, would be after it. So a call that was put off rests until it is known what became of those
behind it. If one of them may have been executed, it is too late for all that the lane holds, and their clients are told what
the node said to them. Calls that only read may change places; with writes too where replicas answer them, who are not in step
with their master anyway.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from puerta.proxy.redis_forward import NOT_EXECUTED

Send = Callable[[], object]


class Lane:
    """`head` is under way again, or `resting` before it is; `waiting` are those behind it.

    `reply` is what the node said of the last that was put off. `doubts` counts the calls behind it that have no answer yet; it
    is `covered` when all of them are counted.
    """

    __slots__ = ("covered", "doubts", "head", "key", "reply", "resting", "waiting")

    def __init__(self, key: tuple[Any, int], head: Any) -> None:
        self.key = key
        self.head = head
        self.resting = False
        self.waiting: deque[tuple[Any, Send]] = deque()
        self.reply = b""
        self.doubts = 0
        self.covered = False

    def doubt(self, call: Any, sent: list[Any], reply: bytes, again: Any) -> None:
        """The call was put off: ask those behind it of what was `sent` for the slot what becomes of them.

        Once a call, and once a lane when the call writes: nothing comes behind it any more, its session is fenced.
        """
        self.reply = reply
        if self.covered:
            return
        self.covered = not call.readonly
        loose = again.cluster.reads_replicas
        own = getattr(call.gather, "last", None) or call
        for leg in sent[sent.index(own) + 1 :] if own in sent else ():
            reads = (leg.readonly or call.readonly) if loose else (leg.readonly and call.readonly)
            if not reads and in_flight(leg) and not self.asked(leg):
                leg.gather = Witness(self, leg, again)
                self.doubts += 1

    def asked(self, leg: Any) -> bool:
        return isinstance(leg.gather, Witness) and leg.gather.lane is self


def in_flight(leg: Any) -> bool:
    """Sent once and not answered. What was refused waits in its lane, and goes nowhere before those ahead of it."""
    return not leg.done and not leg.attempts


class Sent:
    """What a session has under way, by slot, in its order: commands, their parts, and the EXECs of transactions.

    True as long as the session's `last` call is the same, as it is while it is fenced.
    """

    __slots__ = ("last", "slots")

    def __init__(self, session: Any) -> None:
        self.last = session.last
        self.slots: dict[int, list[Any]] = {}
        call = session.first
        while call is not None:
            last = getattr(call.gather, "last", None)
            if last is not None:
                self.slots.setdefault(call.gather.slot, []).append(last)
            for leg in getattr(call.gather, "legs", (call,)) if last is None else ():
                self.slots.setdefault(leg.slot, []).append(leg)
            call = call.next


class Witness:
    """Stands where the `gather` of a call stood that may have got ahead of its lane, and passes on to it what comes."""

    __slots__ = ("again", "gather", "lane", "session")

    def __init__(self, lane: Lane, call: Any, again: Any) -> None:
        self.lane = lane
        self.gather = call.gather
        self.session = call.caller
        self.again = again

    def dismiss(self) -> Any:
        """The call was not executed, or nobody wants to know any more. Returns what it stood in for."""
        self.lane.doubts -= 1
        return self.gather

    def leg_answered(self, call: Any, reply: bytes) -> None:
        gather = self.dismiss()
        if not reply.startswith((b"-EXECABORT", *NOT_EXECUTED)):
            self.again.overtaken(self.lane)
        if gather is not None:
            call.gather = gather
            self.again.deliver(call, reply)
        elif self.session is not None:
            self.again.cluster.measure(call)
            self.session.answer(call, reply)

    def caller_left(self) -> None:
        self.session = None
        if self.gather is not None:
            self.gather.caller_left()
