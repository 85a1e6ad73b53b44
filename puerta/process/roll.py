"""The hand-over of seats to another generation, one at a time: start a successor, wait until it is ready, let the old
child drain, go on. The first successor that does not become ready ends it, so a configuration that no child can boot
with costs nobody a connection.
"""

import signal
from collections import deque
from collections.abc import Iterable

from puerta.errors import PuertaError
from puerta.log import logger
from puerta.process.child import UP, Generation
from puerta.process.children import Children
from puerta.process.seats import Seat
from puerta.role import WORKER


class Roll:
    """`back`: whether this returns seats to the generation they came from, after another roll failed."""

    def __init__(self, target: Generation, seats: Iterable[Seat], children: Children, *, back: bool = False) -> None:
        self.target, self.back = target, back
        self.failure = ""
        self._waiting = deque(seats)
        self._seat: Seat | None = None
        self._children = children

    def step(self, now: float) -> bool:
        """Go as far as it goes without waiting. True when it is over: done, or `failure` says why not."""
        while not self.failure:
            seat = self._seat
            if seat is None:
                if not self._waiting:
                    return True
                self._begin(self._waiting.popleft(), now)
            elif seat.successor is not None and seat.successor.state == UP:
                self._hand_over(seat, now)
            else:
                return False
        return True

    def lost(self, seat: Seat, status: str) -> None:
        """The successor of `seat` died before it was ready."""
        self.failure = f"{seat} of generation {self.target.number} ended before it was ready ({status})"

    def _begin(self, seat: Seat, now: float) -> None:
        self._seat = seat
        try:
            if seat.role == WORKER:
                self._children.house.listeners.go_live(seat.number + 1)
            seat.successor = self._children.start(seat, self.target, now)
        except Exception as error:  # a fault of ours costs this generation, not the master
            if not isinstance(error, (OSError, PuertaError)):
                logger.exception("starting %s", seat)
            self.failure = f"{seat} of generation {self.target.number} can't be started: {error}"

    def _hand_over(self, seat: Seat, now: float) -> None:
        old, seat.child, seat.successor = seat.child, seat.successor, None
        seat.generation, seat.wanted = self.target, True
        seat.respawn.clear()
        if old is not None:
            self._children.retire(old, signal.SIGTERM, now)
        self._seat = None
