"""Is a backend fit for new clients? Pure rise/fall arithmetic: it is fed check results and the time, and owns neither.

A verdict begins as `starting`, and there the first result decides at once in either direction, so that a server is
ready (or says what is missing) one check after its start. From then on it takes `fall` bad results in a row to lose
`up` and `rise` good ones to win it back: a flapping backend changes state no faster than that. A backend that says it
is shutting down is believed at once (`drain`): it still serves the clients it has.
"""

from dataclasses import dataclass

STARTING, UP, DOWN, DRAIN = "starting", "up", "down", "drain"

SUSPECT_INTERVAL = 0.25
"""Seconds between checks of a backend in doubt: one that failed, was accused by a worker, or is coming back."""

DOWN_INTERVAL = 1.0
"""Seconds between the first checks of a backend that is down; grows by DOWN_GROWTH each time, up to `every`."""

DOWN_GROWTH = 1.25
JITTER = 0.1
"""Intervals vary by this share either way, so that many supervisors don't ask one backend in step."""

SLOW_START_FLOOR = 0.1
"""The share of its weight with which a backend comes back when its route has a slow start."""


@dataclass(slots=True)
class Verdict:
    """One backend's state. Times are seconds of any one monotonic clock; `good` and `bad` count results in a row."""

    rise: int
    fall: int
    every: float
    slow_start: float = 0.0
    state: str = STARTING
    since: float = 0.0
    downs: int = 0
    good: int = 0
    bad: int = 0
    suspected: bool = False

    def take(self, ok: bool, drain: bool, now: float) -> bool:
        """Count one check's result; True if the state changed. `drain`: the backend said that it is shutting down."""
        if drain and self.state != DOWN:
            self.good = self.bad = 0
            return self._become(DRAIN, now)
        if ok and not drain:
            self.good, self.bad, self.suspected = self.good + 1, 0, False
            return self.good >= self._needed(self.rise) and self._become(UP, now)
        self.good, self.bad = 0, self.bad + 1
        return self.bad >= self._needed(self.fall) and self._become(DOWN, now)

    def accuse(self) -> None:
        """A worker could not connect. That counts as a bad result, but the last word before `down` is a check's own:
        a worker may fail for reasons of its own, like a lack of ports."""
        if self.state == UP:
            self.suspected = True
            self.good, self.bad = 0, max(self.bad, min(self.bad + 1, self.fall - 1))

    def suspect(self) -> None:
        """Somebody else doubts this backend: worth a closer look, but no evidence."""
        self.suspected = self.suspected or self.state == UP

    def interval(self, random: float) -> float:
        """Seconds until the next check; `random` in [0, 1) sets the jitter."""
        return self._base() * (1 - JITTER + 2 * JITTER * random)

    def share(self, now: float) -> float:
        """The part of its weight the backend gets now, 0.1 to 1. Only one that came *back* ramps up: at boot all
        backends start together, and a ramp would slow them all for nothing."""
        if self.state != UP or not self.downs or not self.slow_start:
            return 1.0
        part = max(0.0, now - self.since) / self.slow_start
        return min(1.0, SLOW_START_FLOOR + (1 - SLOW_START_FLOOR) * part)

    def weight_milli(self, weight: int, now: float) -> int:
        """`weight` in thousandths after slow start; a weight that is not 0 never becomes 0."""
        return round(weight * 1000 * self.share(now))

    def _needed(self, in_a_row: int) -> int:
        return 1 if self.state == STARTING else in_a_row

    def _base(self) -> float:
        doubtful = self.bad > 0 or self.suspected
        if self.state == UP:
            return min(self.every, SUSPECT_INTERVAL) if doubtful else self.every
        if self.state == STARTING or self.good:
            return min(self.every, SUSPECT_INTERVAL)
        return min(self.every, DOWN_INTERVAL * DOWN_GROWTH ** min(self.bad, 64))

    def _become(self, state: str, now: float) -> bool:
        if state == self.state:
            return False
        self.state, self.since = state, now
        self.good = self.bad = 0
        self.suspected = False
        if state in (DOWN, DRAIN):
            self.downs += 1
        return True
