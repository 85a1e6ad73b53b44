"""Seats and their adoption.

A seat is a place that one child fills. Workers' seats are numbered from 0 and own listeners; the supervisor and the
embedded store have one seat each, numbered -1. A seat outlives its children, and even its being wanted: its sockets
go on taking their share of the connections, so **a seat that nobody serves is a black hole** until a worker that holds
its sockets adopts it. The master names the adopter on the board; every worker reads that.
"""

from collections.abc import Collection, Sequence

from puerta.board import Board
from puerta.log import logger
from puerta.process.child import BACKOFF, BROKEN, HUNG, UP, Child, Generation
from puerta.process.listener import Listeners
from puerta.process.respawn import Respawn

ALONE = -1
"""The number of a seat that is the only one of its role."""


class Seat:
    """One place: who fills it, who is to fill it next, and how it fared so far."""

    def __init__(self, role: str, number: int, generation: Generation) -> None:
        self.role, self.number = role, number
        self.generation = generation
        """What its next child is born with."""
        self.child: Child | None = None
        """Who fills it. One that died stays here, with its row, until the next one is started."""
        self.successor: Child | None = None
        """A child of a new generation that is not ready yet."""
        self.wanted = True
        self.restarts = 0
        self.respawn = Respawn()
        self.unserved_since: float | None = None
        self.adopter: Child | None = None

    def __str__(self) -> str:
        return self.role if self.number == ALONE else f"{self.role} {self.number}"

    @property
    def served(self) -> bool:
        return self.child is not None and self.child.state == UP

    @property
    def empty(self) -> bool:
        """Nobody alive fills it."""
        return self.child is None or self.child.pid == 0

    @property
    def broken(self) -> bool:
        return self.respawn.broken

    def lost(self, now: float, chance: float, *, never_boots: bool) -> str:
        """Its child died unasked: count it, and return what happens next, in words."""
        child = self.child
        assert child is not None
        if never_boots:
            self.respawn.broken = True
            child.become(BROKEN, now)
            return "it says that it will never boot, so it is not started again (a reload tries again)"
        wait = self.respawn.died(now, child.up_for(now), chance)
        child.become(BACKOFF, now)
        return f"started again in {wait:.1f} s" if wait else "started again"


class Adoptions:
    """Who serves the seats that nobody serves."""

    def __init__(self, board: Board, listeners: Listeners, adopt_after: float) -> None:
        self._board, self._listeners, self._adopt_after = board, listeners, adopt_after

    def settle(self, seats: Sequence[Seat], now: float) -> None:
        """Name adopters where they are needed, and take back what is needed no more.

        To be called after reaping and before forking: whoever gets a dead adopter's row must not inherit its adoptions.
        """
        able = [seat.child for seat in seats if seat.wanted and seat.child is not None and seat.child.state == UP]
        for seat in seats[: self._listeners.live]:
            adopter = self._choose(seat, able, seats) if self._is_due(seat, now) else None
            self._name(seat, adopter)

    def _is_due(self, seat: Seat, now: float) -> bool:
        if seat.wanted and seat.served:
            seat.unserved_since = None
            return False
        if seat.unserved_since is None:
            seat.unserved_since = now
        if not seat.wanted or (seat.child is not None and seat.child.state == HUNG):
            return True
        return now - seat.unserved_since >= self._adopt_after

    def _choose(self, seat: Seat, able: Collection[Child], seats: Sequence[Seat]) -> Child | None:
        """A living worker that was forked after the seat's sockets were bound; else the one that holds most of them.

        Equals are told apart by how much they do already. One that serves the seat keeps it: to move it gains nothing.
        """
        keys = self._listeners.keys_of(seat.number)
        held = {child: len(keys & child.holds) for child in able}
        best = max(held.values(), default=0)
        if not best:
            return None
        if seat.adopter is not None and held.get(seat.adopter) == best:
            return seat.adopter
        load = {child: sum(other.adopter is child for other in seats) for child in able}
        connections = self._board.workers
        return min(
            (child for child in able if held[child] == best),
            key=lambda child: (load[child], connections.get(child.row, "connections"), child.seat),
        )

    def _name(self, seat: Seat, adopter: Child | None) -> None:
        if adopter is not seat.adopter:
            if adopter is not None:
                logger.info("seat %d has no worker: worker %d adopts it", seat.number, adopter.seat)
            elif seat.served:
                logger.info("seat %d is served by its own worker again", seat.number)
        seat.adopter = adopter
        self._board.adoptions.set(seat.number, "row_plus_one", 0 if adopter is None else adopter.row + 1)
        self._board.adoptions.set(seat.number, "restarts", seat.restarts)
