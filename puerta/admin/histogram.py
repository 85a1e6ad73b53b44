"""Arithmetic on latency histograms: bucket i counts what took from 2**i to 2**(i+1) microseconds."""

from collections.abc import Iterable, Sequence

MICROSECOND = 1e-6


def percentile(counts: Sequence[int], q: float) -> float:
    """The time in seconds that the share `q` (0 to 1) of all calls did not exceed; 0 if there were none.

    Within its bucket it is interpolated, as if the calls there were spread evenly.
    """
    wanted, passed = q * sum(counts), 0
    for index, count in enumerate(counts):
        if count and passed + count >= wanted:
            share = max(0.0, wanted - passed) / count
            return float(2**index) * (1 + share) * MICROSECOND
        passed += count
    return 0.0


def merge(histograms: Iterable[Sequence[int]]) -> list[int]:
    """One histogram of all calls."""
    return [sum(counts) for counts in zip(*histograms, strict=True)]


def cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: for each upper bound in seconds, how many calls took no longer; the last
    bucket has no upper bound."""
    found, total = [], 0
    for index, count in enumerate(counts):
        total += count
        bound = "+Inf" if index == len(counts) - 1 else repr(round(2 ** (index + 1) * MICROSECOND, 6))
        found.append((bound, float(total)))
    return found
