"""Calls of one session on one slot that are sent again, one after the other, and what may get ahead of them.

A node that was not ready for a call may be ready for the next one, which was on its way already: the later call is executed,
and the earlier one, sent again, would be after it. So a call that was put off rests until it is known what became of those
behind it. If one of them may have been executed, it is too late for all that the lane holds, and their clients are told what
the node said to them. Calls that only read may change places.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from puerta.proxy.redis_forward import NOT_EXECUTED

Send = Callable[[], object]


class Lane:
    """`head` is under way again, or `resting` before it is; `waiting` are those behind it. `reply` is what the node said of the
    last that was put off; `doubts` counts the calls behind it that have no answer yet."""

    __slots__ = ("doubts", "head", "key", "reply", "resting", "waiting")

    def __init__(self, key: tuple[Any, int], head: Any) -> None:
        self.key = key
        self.head = head
        self.resting = False
        self.waiting: deque[tuple[Any, Send]] = deque()
        self.reply = b""
        self.doubts = 0

    def doubt(self, upstream: Any, call: Any, reply: bytes, again: Any) -> None:
        """The call was put off: ask those behind it, on the connection it was refused on, what becomes of them."""
        self.reply = reply
        session, slot = self.key
        behind = upstream.first
        while behind is not None:
            if (
                behind.caller is session
                and slot in (behind.slot, slot_of_exec(behind.gather))
                and not (behind.readonly and call.readonly)
                and not (isinstance(behind.gather, Witness) and behind.gather.lane is self)
            ):
                behind.gather = Witness(self, behind, again)
                self.doubts += 1
            behind = behind.after


def slot_of_exec(gather: Any) -> int:
    """Of the EXEC of a transaction; -1 for anything else."""
    return int(gather.owner.slot) if getattr(gather, "last", False) else -1


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
