"""Whether a worker pushes other processes off their cores when it wakes: the option `scheduling` (sched(7)).

Under SCHED_BATCH it does not. Where it shares its cores with clients and backends, which sleep often, more has come in by
the time it runs, and one pass of its loop does more. Beside a process that computes without pause it would wait for the end
of that one's slice, milliseconds each time. The kernel counts how long we wait for a core, so `auto` finds out where we are.
"""

import os

from puerta.log import logger

BUSY = 0.2
"""The share of a core from which on there is something to win. Below it, wake-ups may well be for one client that waits."""

QUIET = 2.0
"""Seconds without that, after which a worker is normal again: who asks now and then finds it so, whatever runs beside it."""

LONG_WAIT = 0.0004
"""Seconds between waking and running, on average: half of it is usual among clients and backends, 3 ms beside a busy loop."""

WAITING = 0.2
"""The share of the time that was spent waiting, from which on it matters. A tick alone may wait long and harms nobody."""

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 64.0
"""Seconds until the next try after one that made us wait; each failure doubles them, a try of LONGEST_PAUSE ends that."""


class Preemption:
    """The calling thread's policy. `batch` tells whether it is SCHED_BATCH now; `look` is for every tick."""

    def __init__(self, scheduling: str) -> None:
        self.batch = False
        self.accounts: int | None = None
        self.ran = self.waited = self.slices = 0
        self.looked = self.since = self.busy_at = self.next_try = 0.0
        self.pause = SHORTEST_PAUSE
        if scheduling == "batch":
            self.take(os.SCHED_BATCH)
        elif scheduling == "auto" and os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has decided already
            try:
                self.accounts = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                logger.info("scheduling: auto is not to be had here, going on with normal: %s", error.strerror)

    def take(self, policy: int) -> None:
        """It is an optimisation: a sandbox that forbids it costs one line of the log."""
        try:
            os.sched_setscheduler(0, policy, os.sched_param(0))
            self.batch = policy == os.SCHED_BATCH
        except OSError as error:
            logger.warning("scheduling: batch is not to be had here, going on without it: %s", error.strerror)
            self.close()

    def look(self, now: float) -> None:
        """What has the kernel let us run and made us wait since the last look (proc-schedstat)? Change the policy if need be."""
        if self.accounts is None:
            return
        ran, waited, slices = map(int, os.pread(self.accounts, 80, 0).split())
        passed, run, wait = now - self.looked, (ran - self.ran) / 1e9, (waited - self.waited) / 1e9
        long = wait > WAITING * passed and wait > LONG_WAIT * (slices - self.slices)
        self.ran, self.waited, self.slices, self.looked = ran, waited, slices, now
        if run > BUSY * passed:
            self.busy_at = now
        if not self.batch:
            if self.busy_at == now >= self.next_try:
                self.since = now
                self.take(os.SCHED_BATCH)
        elif long:
            if now - self.since > LONGEST_PAUSE:
                self.pause = SHORTEST_PAUSE
            self.next_try = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
            self.take(os.SCHED_OTHER)
        elif now - self.busy_at > QUIET:
            self.take(os.SCHED_OTHER)

    def close(self) -> None:
        if self.accounts is not None:
            os.close(self.accounts)
            self.accounts = None
