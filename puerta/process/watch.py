"""Watching children live: the moment they are ready, and whether they still beat.

A worker's beat is written by the hub that serves clients, so it stops when that does. Ages count from when the master
itself last came back from being stopped: after that it would blame everybody else for its own sleep.
"""

from collections.abc import Iterable

from puerta.board import CHILD_STATES, Table
from puerta.log import logger
from puerta.process.child import DRAINING, HUNG, STARTING, UP, Child
from puerta.process.store import Store
from puerta.process.timing import Timing
from puerta.role import STORE

OVERSLEPT = 1.0
"""Seconds beyond a tick between two looks that show that the master was suspended."""


class Watch:
    def __init__(self, workers: Table, store: Store | None, timing: Timing) -> None:
        self._workers, self._store, self._timing = workers, store, timing
        self._looked: float | None = None
        self._resumed = 0.0

    def look(self, children: Iterable[Child], now: float) -> None:
        """Move every child between starting, up and hung as the board says, and abort those beyond their limit."""
        if self._looked is not None and now - self._looked > self._timing.tick + OVERSLEPT:
            logger.info("the master was suspended for %.1f s: beats are counted anew", now - self._looked)
            self._resumed = now
        self._looked = now
        for child in children:
            if child.state == STARTING:
                self._await_ready(child, now)
            elif child.role != STORE:
                self._check_beat(child, now)
                self._check_drain(child, now)

    def _await_ready(self, child: Child, now: float) -> None:
        if self._is_ready(child):
            child.become(UP, now)
            logger.info("%s is up, generation %d", child, child.generation.number)
        elif now - max(child.started, self._resumed) > self._timing.boot_limit:
            self._abort(child, f"was not ready within {self._timing.boot_limit:g} s", now)

    def _is_ready(self, child: Child) -> bool:
        if child.role == STORE:
            return self._store is not None and self._store.answers()
        return self._workers.get(child.row, "ready") == child.generation.number + 1

    def _check_beat(self, child: Child, now: float) -> None:
        beat = self._workers.get(child.row, "beat_ns") / 1e9
        age = now - max(beat, child.up_at or child.started, self._resumed)
        if age > self._timing.hang_limit:
            self._abort(child, f"has not beaten for {age:.1f} s", now)
        if child.state == UP and age > self._timing.adopt_after:
            child.become(HUNG, now)
            logger.warning("%s hangs: no beat for %.1f s", child, age)
        elif child.state == HUNG and age <= self._timing.adopt_after:
            child.become(UP, now)
            logger.info("%s beats again", child)

    def _check_drain(self, child: Child, now: float) -> None:
        """A worker that got its TERM from somebody else accepts no more, so its seat needs another."""
        if child.state == UP and self._workers.get(child.row, "state") == CHILD_STATES.index(DRAINING):
            logger.warning("%s drains, though we did not ask it to", child)
            child.drains(self._timing.stop_grace + child.drain_limit, now)

    def _abort(self, child: Child, what: str, now: float) -> None:
        if not child.aborted:
            logger.error("%s %s: aborted, its stacks follow", child, what)
            child.abort(self._timing.abort_grace, now)


def is_busy(children: Iterable[Child]) -> bool:
    """Whether something is under way that no signal will tell of: a child getting ready, or one about to be killed."""
    return any(child.state == STARTING or child.aborted for child in children)
