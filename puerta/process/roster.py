"""The roster: all seats, how many of them are wanted, and how they are filled, emptied and refilled."""

import random
import signal
from collections.abc import Iterator

from puerta.errors import BootError, PuertaError
from puerta.log import logger
from puerta.process import unix
from puerta.process.child import DRAINING, Child, Generation
from puerta.process.children import Children
from puerta.process.household import Household
from puerta.process.listener import MOST_SEATS
from puerta.process.seats import ALONE, Seat
from puerta.role import EXIT_NEVER_BOOTS, STORE, SUPERVISOR, WORKER


class Roster:
    """Iterates over every seat, in the order in which they are filled: store, supervisor, workers."""

    def __init__(self, house: Household, current: Generation, count: int, now: float) -> None:
        self.house = house
        self.children = Children(house)
        self.current = current
        """The generation that is known to be good; a seat's next child is born with its seat's."""
        self.count = 0
        self.workers: list[Seat] = []
        self.supervisor = Seat(SUPERVISOR, ALONE, current)
        self.store = Seat(STORE, ALONE, current) if house.store is not None else None
        self._store_awaited_until = now + house.options.timing.store_wait if house.store is not None else None
        self.want(count)

    def __iter__(self) -> Iterator[Seat]:
        if self.store is not None:
            yield self.store
        yield self.supervisor
        yield from self.workers

    def seats_for(self, count: int) -> list[Seat]:
        """The seats that a generation of `count` workers fills. A new one is wanted by nobody yet."""
        for number in range(len(self.workers), count):
            seat = Seat(WORKER, number, self.current)
            seat.wanted = False
            self.workers.append(seat)
        return [self.supervisor, *self.workers[:count]]

    # -- how many ----------------------------------------------------------------------------------------------------

    def want(self, count: int) -> None:
        self.seats_for(count)
        self.count = count
        for seat in self.workers:
            wanted = seat.number < count
            if wanted and not seat.wanted:
                seat.generation = self.current
                seat.respawn.clear()
            seat.wanted = wanted

    def change(self, steps: int) -> None:
        """So many workers more (or less, one at least)."""
        most = min(MOST_SEATS, self.house.listeners.bound)
        count = max(min(self.count, 1), min(self.count + steps, most))
        if count != self.count + steps:
            hint = " (raise `workers` and reload to have more)" if count == most < MOST_SEATS else ""
            logger.warning("workers: %d is as far as it goes%s", count, hint)
        try:
            self.house.listeners.go_live(count)
        except BootError as error:
            logger.error("no worker more: %s", error)
            return
        self.want(count)
        logger.info("workers: %d are wanted", count)

    def retire_unwanted(self, now: float) -> None:
        for seat in self.workers:
            if seat.wanted or seat.child is None:
                continue
            child, seat.child = seat.child, None
            self.children.retire(child, signal.SIGTERM, now)

    def replace_draining(self, now: float) -> None:
        """A worker that somebody else asked to go leaves its seat at once, not when it has drained."""
        for seat in self.workers:
            if seat.wanted and seat.child is not None and seat.child.state == DRAINING:
                seat.respawn.died(now, seat.child.up_for(now), random.random())
                seat.restarts += 1
                seat.child = None

    # -- filling and refilling ---------------------------------------------------------------------------------------

    def fill(self, now: float) -> None:
        for seat in self:
            held_up = seat is not self.store and self._awaits_store(now)
            if seat.wanted and seat.empty and not held_up and seat.respawn.may_start(now):
                self._start(seat, now)

    def bury(self, child: Child, status: int, now: float, *, refill: bool) -> Seat | None:
        """A child ended. Returns the seat whose successor it was, if it was one: then it died before it was ready."""
        name, how = str(child), unix.describe_status(status)
        child.pid = 0
        if refill:
            for seat in self:
                if seat.child is child:
                    never = child.role != STORE and status == EXIT_NEVER_BOOTS << 8
                    then = seat.lost(now, random.random(), never_boots=never)
                    logger.error("%s died: %s; %s", name, how, then)
                    return None
        self.children.release(child)
        logger.info("%s is gone: %s", name, how)
        for seat in self:
            if seat.successor is child:
                seat.successor = None
                return seat
        return None

    def _start(self, seat: Seat, now: float) -> None:
        seat.restarts += seat.child is not None
        try:
            seat.child = self.children.start(seat, seat.generation, now, seat.child.row if seat.child else None)
        except Exception as error:  # a fault of ours costs a seat, not the master
            wait = seat.respawn.died(now, 0.0, random.random())
            ours = not isinstance(error, (OSError, PuertaError))
            logger.error("can't start %s: %s; tried again in %.1f s", seat, error, wait, exc_info=ours)

    def _awaits_store(self, now: float) -> bool:
        """At the first start everybody else waits for the store, but not for long: it is not needed to serve."""
        if self._store_awaited_until is None or self.store is None:
            return False
        late = now >= self._store_awaited_until
        if late and not self.store.served:
            logger.warning("the embedded store is not ready: starting without it")
        if late or self.store.served:
            self._store_awaited_until = None
        return self._store_awaited_until is not None
