"""Moments of the monotonic clock, as people want them told."""


def age(then_ns: int, now_ns: int) -> float | None:
    """Seconds since a moment; None if it never came (the cell is 0)."""
    return round(max(0, now_ns - then_ns) / 1e9, 3) if then_ns else None
