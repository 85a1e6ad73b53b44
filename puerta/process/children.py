"""The table of children: every process the master forked and has not yet reaped, whatever its role.

It hands out the rows of the board. A child that died unasked keeps its row until its seat is filled again, so that an
operator sees `backoff` or `broken` there.
"""

import functools
import os
import signal
from collections.abc import Callable, Iterator

from puerta.board import CHILD_STATES, ROLES, ROWS
from puerta.errors import BoardFull
from puerta.log import logger
from puerta.process.child import Birth, Child, Generation, run_entry, spawn
from puerta.process.household import Household
from puerta.process.seats import Seat
from puerta.role import STORE, SUPERVISOR, WORKER, Listener, Role


class Children:
    """Starts, reaps and lists them."""

    def __init__(self, household: Household) -> None:
        self.house = household
        self.living: dict[int, Child] = {}
        self._rows: dict[int, Child] = {}

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self.living.values()))

    def of(self, *roles: str) -> list[Child]:
        return [child for child in self if child.role in roles]

    def free_rows(self) -> int:
        return ROWS - len(self._rows)

    def start(self, seat: Seat, generation: Generation, now: float, row: int | None = None) -> Child:
        """Fork a child for `seat`, on `row` if its predecessor left one. The caller makes it the child or successor.

        Raises OSError when the kernel refuses, BoardFull without a free row.
        """
        if row is None:
            row = next((row for row in range(ROWS) if row not in self._rows), None)
            if row is None:
                raise BoardFull("too many old children still drain")
        role = self._role(seat, row, generation)
        holds = frozenset((listener.address, listener.seat) for listener in role.listeners)
        house = self.house
        pid = spawn(Birth(role, self._entry(seat.role), os.getpid(), house.listeners, house.private(), house.identity))
        child = Child(seat.role, seat.number, row, generation, pid, now, holds, seat.restarts, since=now)
        self.living[pid] = self._rows[row] = child
        return child

    def retire(self, child: Child, number: int, now: float) -> None:
        """Ask a child to go: by SIGQUIT at once, else it may drain first. One that is dead gives its row back."""
        grace = self.house.options.timing.stop_grace
        if child.pid:
            child.retire(number, grace + (0.0 if number == signal.SIGQUIT else child.drain_limit), now)
        else:
            self.release(child)

    def reap(self) -> Iterator[tuple[Child, int]]:
        """Every child that ended, with its wait status. A stranger that PID 1 inherited is reaped and forgotten."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.living.pop(pid, None)
            if child is None:
                logger.debug("reaped process %d, no child of ours", pid)
                continue
            self.house.board.release(child.row)
            yield child, status

    def release(self, child: Child) -> None:
        """A dead child's row is free again."""
        if self._rows.get(child.row) is child:
            del self._rows[child.row]
            table = self.house.board.children
            table.clear(child.row, table.columns)

    def publish(self) -> None:
        """Write the table to the board, for those who show it."""
        table = self.house.board.children
        for row, child in self._rows.items():
            table.set(row, "pid", child.pid)
            table.set(row, "role", ROLES.index(child.role))
            table.set(row, "seat", child.seat)
            table.set(row, "row", row)
            table.set(row, "generation", child.generation.number)
            table.set(row, "state", CHILD_STATES.index(child.state))
            table.set(row, "restarts", child.restarts)
            table.set(row, "since_ns", int(child.since * 1e9))

    def _entry(self, role: str) -> Callable[[Role], int]:
        if role == STORE:
            assert self.house.store is not None
            return self.house.store.become
        return functools.partial(run_entry, self.house.options.entries[role])

    def _role(self, seat: Seat, row: int, generation: Generation) -> Role:
        house = self.house
        listeners: list[Listener] = []
        if seat.role == WORKER:
            listeners = house.listeners.of(generation.config.routes)
        elif seat.role == SUPERVISOR:
            listeners = list(house.listeners.admin)
        return Role(
            name=seat.role,
            seat=seat.number,
            row=row,
            generation=generation.number,
            config=generation.config,
            config_path=house.options.config_path,
            board=house.board,
            store_url=house.store_url,
            lifeline=house.lifeline,
            listeners=listeners,
        )
