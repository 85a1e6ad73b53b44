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
        __slots__ = ("base", "buckets", "cells", "commands", "on_slow", "slow", "sums")

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

    def measure(self, call: Any, now: float) -> int:
        """A reply came: its latency, from the turn that read the command to the turn that read the reply."""
        spec = call.spec
        if spec is None:
            return 0
        seconds = now - call.started
        self.add(spec.index, seconds)
        if seconds >= self.slow:
            self.on_slow(call, seconds)
        return 0

    def add(self, command: int, seconds: float) -> int:
        if command >= self.commands:
            command = self.commands - 1
        microseconds = int(seconds * 1e6)
        self.cells[self.sums + command] += microseconds
        bucket = int(log2(microseconds)) if microseconds > 1 else 0
        if bucket >= self.buckets:
            bucket = self.buckets - 1
        self.cells[self.base + command * self.buckets + bucket] += 1
        return 0
