"""Quantiles from buckets are within the bucket, and exact where the bucket is all there is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puerta.admin.histogram import cumulative, merge, percentile
from puerta.board import BUCKETS


def counts(**buckets: int) -> list[int]:
    return [buckets.get(f"b{index}", 0) for index in range(BUCKETS)]


@pytest.mark.parametrize(
    ("found", "q", "microseconds"),
    [
        (counts(), 0.5, 0.0),
        (counts(b0=1), 1.0, 2.0),
        (counts(b3=4), 0.5, 12.0),
        (counts(b3=4), 0.25, 10.0),
        (counts(b3=4), 0.0, 8.0),
        (counts(b3=50, b10=50), 0.5, 16.0),
        (counts(b3=50, b10=50), 0.51, 1024 * 1.02),
        (counts(b3=99, b10=1), 0.99, 16.0),
        (counts(b3=99, b10=1), 0.995, 1536.0),
        (counts(b27=1), 1.0, 2.0**28),
    ],
)
def test_percentile(found: list[int], q: float, microseconds: float) -> None:
    assert percentile(found, q) == pytest.approx(microseconds / 1e6)


@given(st.lists(st.integers(1, 2**BUCKETS - 1), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_within_a_factor_of_two_of_the_truth(times: list[int], q: float) -> None:
    found = [0] * BUCKETS
    for microseconds in times:
        found[microseconds.bit_length() - 1] += 1
    exact = sorted(times)[max(0, math.ceil(round(q * len(times), 9)) - 1)]
    estimate = percentile(found, q) * 1e6
    assert exact / 2 <= estimate <= exact * 2 + 1e-6


def test_merge() -> None:
    assert merge([[1, 2], [10, 0]]) == [11, 2]
    assert merge([]) == []


def test_cumulative_buckets() -> None:
    found = cumulative(counts(b0=1, b4=2, b27=3))
    assert found[0] == ("2e-06", 1)
    assert found[4] == ("3.2e-05", 3)
    assert found[26] == ("134.217728", 3)
    assert found[27] == ("+Inf", 6)
    assert [float(bound) for bound, _ in found] == sorted(float(bound) for bound, _ in found)
