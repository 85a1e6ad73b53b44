"""When a seat whose child died is filled again: pure arithmetic, the caller brings the clock and the dice.

The first death costs nothing, a child that keeps dying is started less and less often: 0 s, then 0.5 s doubled each
time up to 30 s, with jitter so that seats that died together don't come back together. A minute up clears the count.
"""

from dataclasses import dataclass

FIRST = 0.5
LONGEST = 30.0
CLEARED_AFTER = 60.0
JITTER = 0.2
"""Share of the delay by which it may be shorter or longer."""


def delay(failures: int, chance: float) -> float:
    """Seconds to wait after the `failures`-th death in a row; `chance` is a random number in [0, 1)."""
    if failures <= 1:
        return 0.0
    doublings = min(failures - 2, 16)
    spread = 1 - JITTER + 2 * JITTER * chance
    return min(LONGEST, FIRST * 2.0**doublings * spread)


@dataclass(slots=True)
class Respawn:
    """One seat's memory of its deaths."""

    failures: int = 0
    due: float = 0.0
    """The time from which a new child may be started."""
    broken: bool = False
    """The last child said that it will never boot: only a reload tries again."""

    def died(self, now: float, up_for: float, chance: float) -> float:
        """A child died after `up_for` seconds of being up. Returns the seconds until the next start."""
        if up_for >= CLEARED_AFTER:
            self.failures = 0
        self.failures += 1
        wait = delay(self.failures, chance)
        self.due = now + wait
        return wait

    def may_start(self, now: float) -> bool:
        return not self.broken and now >= self.due

    def clear(self) -> None:
        """A new generation starts with a clean record."""
        self.failures, self.due, self.broken = 0, 0.0, False
