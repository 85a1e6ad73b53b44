"""How long commands take: a histogram for each of them, and what is slow."""

from typing import Any

import cython

if not cython.compiled:
    from math import log2


class Latencies:
    """This worker's row of the histograms: powers of two of a microsecond, for each command. What has a number beyond the
    last, as a cluster with many modules' commands may give, counts for the last.

    `on_slow(call, seconds)` is told of a call that took `slow` seconds or more.
    """

    if not cython.compiled:
        __slots__ = (
            "base", "buckets", "cell", "cells", "commands", "count", "ended", "microseconds", "on_slow", "seconds", "slow",
            "spec", "started", "sum", "sums",
        )  # fmt: skip

    def __init__(
        self, cells: Any, base: int, sums: int, buckets: int, commands: int, slow: float, on_slow: Any
    ) -> None:
        self.cells = cells
        self.base = base
        self.sums = sums
        self.buckets = buckets
        self.commands = commands
        self.slow = slow
        self.on_slow = on_slow
        self.spec: Any = None
        self.started = self.ended = self.seconds = 0.0
        self.microseconds = self.sum = self.cell = self.count = 0

    def measure(self, call: Any, now: float) -> int:
        """A reply came: its latency, from the turn that read the command to the turn that read the reply."""
        spec = call.spec
        if spec is None:
            return 0
        if spec is not self.spec or call.started != self.started or now != self.ended:
            self.flush()
            self.find(spec, call.started, now)
        self.count += 1
        if self.seconds >= self.slow:
            self.on_slow(call, self.seconds)
        return 0

    def find(self, spec: Any, started: float, ended: float) -> int:
        """Where to count a latency. The commands of a pipeline often share one: `count` of them are written together."""
        self.spec = spec
        self.started = started
        self.ended = ended
        self.seconds = ended - started
        self.microseconds = int(self.seconds * 1e6)
        bucket = int(log2(self.microseconds)) if self.microseconds > 1 else 0
        if bucket >= self.buckets:
            bucket = self.buckets - 1
        command = spec.index
        if command >= self.commands:
            command = self.commands - 1
        self.sum = self.sums + command
        self.cell = self.base + command * self.buckets + bucket
        return 0

    def flush(self) -> int:
        """Write what was counted: when another latency follows, and with each tick."""
        if self.count:
            self.cells[self.sum] += self.microseconds * self.count
            self.cells[self.cell] += self.count
            self.count = 0
        return 0
