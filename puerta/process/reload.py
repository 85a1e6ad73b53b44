"""Reload: check a new configuration before anything changes, hand the seats over, turn back if that fails.

Several HUPs that arrive while seats are being handed over are one more reload afterwards.
"""

import contextlib
import os
import time
from pathlib import Path

import puerta
from puerta.board import CHILD_STATES
from puerta.config.render import differences
from puerta.config.schema import Config
from puerta.errors import ConfigError, PuertaError
from puerta.log import logger
from puerta.process import needs
from puerta.process.child import DRAINING, Generation
from puerta.process.household import set_up_log
from puerta.process.roll import Roll
from puerta.process.roster import Roster


class Refused(PuertaError):
    """A reload that can't be done while the server runs."""


class Reload:
    """What was asked for, and the roll under way if there is one."""

    def __init__(self, roster: Roster) -> None:
        self.asked = False
        self.roll: Roll | None = None
        self._roster, self._house = roster, roster.house
        self._newest = roster.current.number
        self._code = newest_code()
        self._note(True)

    def settle(self, now: float) -> None:
        """Move the roll on, then begin another one if it was asked for. In between, let go of what nobody serves any more."""
        self.prune()
        if self.roll is not None and self.roll.step(now):
            roll, self.roll = self.roll, None
            self._end(roll)
        if self.roll is None and self.asked:
            self.asked = False
            self._begin()

    def prune(self) -> None:
        """Let go of addresses that left the configuration, once nobody has them: a worker that drains has closed its own when
        it says so."""
        configs = [self._roster.current.config] + ([self.roll.target.config] if self.roll is not None else [])
        workers = self._house.board.workers
        said = CHILD_STATES.index(DRAINING)
        held = {
            key for child in self._roster.children if workers.get(child.row, "state") != said for key in child.holds
        }
        self._house.listeners.prune(needs.addresses(*configs), held)

    def _begin(self) -> None:
        """Check all that can be checked, then begin the hand-over; on any finding the server stays as it is."""
        try:
            new = self._take_in()
        except Exception as error:
            for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
                logger.error("%s", problem, exc_info=not isinstance(error, (PuertaError, OSError)))
            logger.error("reload refused: generation %d keeps running", self._roster.current.number)
            self._note(False)
            self.prune()
            return
        if newest_code() != self._code:
            logger.warning("Puerta's files changed since it was started: new children run the new code, better restart")
        self._newest += 1
        target = Generation(self._newest, new)
        seats = self._roster.seats_for(needs.worker_count(new))
        self.roll = Roll(target, seats, self._roster.children)
        logger.info("reloading: generation %d begins, workers: %d", target.number, len(seats) - 1)

    def _take_in(self) -> Config:
        """The new configuration, checked, its sockets bound. Raises PuertaError or OSError."""
        old, new = self._roster.current.config, self._house.options.load()
        fixed = [difference.path for difference in differences(old, new) if not difference.reloadable]
        if fixed:
            raise Refused(f"{', '.join(fixed)} can't change while the server runs (put the old value back, or restart)")
        count, free = needs.worker_count(new), self._roster.children.free_rows()
        if free <= count:
            raise Refused(f"too many old workers still drain: {free} rows are free, {count + 1} are needed (try later)")
        needs.lay_out(self._house.board, new)
        self._house.listeners.open(needs.addresses(new), max(count, self._house.listeners.live))
        if new.log != old.log:
            set_up_log(new, self._house.options, self._house.identity)
        return new

    def _end(self, roll: Roll) -> None:
        if not roll.failure and not roll.back:
            self._roster.current = roll.target
            self._roster.want(needs.worker_count(roll.target.config))
            self._note(True)
            logger.info("reloaded: generation %d is up", roll.target.number)
        elif roll.failure and roll.back:
            logger.error("can't return to generation %d: %s", roll.target.number, roll.failure)
        elif roll.failure:
            self._turn_back(roll)
        self.prune()

    def _turn_back(self, roll: Roll) -> None:
        """The new generation is no good: return the seats it already has, by the same careful way."""
        current = self._roster.current
        self._note(False)
        if roll.target.config.log != current.config.log:
            with contextlib.suppress(PuertaError):
                set_up_log(current.config, self._house.options, self._house.identity)
        logger.error("reload failed: %s; generation %d keeps running", roll.failure, current.number)
        self._roster.want(self._roster.count)
        strays = [seat for seat in self._roster.seats_for(self._roster.count) if seat.generation is not current]
        if strays:
            self.roll = Roll(current, strays, self._roster.children, back=True)

    def _note(self, good: bool) -> None:
        self._house.board.master.set(0, "reload_ok", int(good))
        if good:
            self._house.board.master.set(0, "reloaded_s", int(time.time()))


def newest_code() -> float:
    """When a file of this package last changed: children import after the fork, so they run what is on disk then."""
    newest = 0.0
    for directory, _, files in os.walk(Path(puerta.__file__).parent):  # which passes over a directory that has vanished
        for name in files:
            if name.endswith((".py", ".so")):
                with contextlib.suppress(OSError):  # an installer is at work, and it is gone again
                    newest = max(newest, os.stat(os.path.join(directory, name)).st_mtime)
    return newest
