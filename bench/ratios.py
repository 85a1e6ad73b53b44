"""The arithmetic of a comparison: pairs of samples in, medians of their ratios out. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEASURES = {"cpu": "cpu_us", "throughput": "throughput", "p99": "p99_ms", "rss": "rss_bytes"}
"""What a result line calls a ratio → the measure it is of."""

Measures = Mapping[str, float]
"""One sample: measure → figure. A measure that makes no sense there (the CPU time of no proxy) is left out."""


@dataclass(frozen=True)
class Ratio:
    """Subject / peer: the median over the pairs, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float


def ratios(pairs: Sequence[tuple[Measures, Measures]]) -> dict[str, Ratio]:
    """Each ratio that can be taken in every pair; `pairs` are (subject, peer), measured one right after the other."""
    found = {}
    for label, measure in MEASURES.items():
        if not pairs or any(side.get(measure, 0.0) <= 0.0 for pair in pairs for side in pair):
            continue
        each = [subject[measure] / peer[measure] for subject, peer in pairs]
        found[label] = Ratio(statistics.median(each), min(each), max(each))
    return found


def medians(samples: Sequence[Measures]) -> dict[str, float]:
    """The median of each measure that all the samples have."""
    shared = set.intersection(*(set(sample) for sample in samples)) if samples else set()
    return {measure: statistics.median(sample[measure] for sample in samples) for measure in sorted(shared)}


def line(scenario: str, peer: str, found: Mapping[str, Ratio]) -> str:
    """`ratio tcp-small haproxy cpu=0.93 throughput=1.08 p99=0.91`"""
    return " ".join(["ratio", scenario, peer, *(f"{label}={ratio.median:.2f}" for label, ratio in found.items())])
