"""Deadlines of one length: waiting sessions in the order they began, so that only the oldest need a look."""

from collections.abc import Callable
from typing import Any

import cython


class Deadlines:
    """`expire(item)` is called for each item that `start`ed `seconds` ago and did not `stop`."""

    if not cython.compiled:
        __slots__ = ("expire", "seconds", "waiting")

    def __init__(self, seconds: float, expire: Callable[[Any], object]) -> None:
        self.seconds = seconds
        self.expire = expire
        self.waiting: dict[Any, float] = {}

    def start(self, item: Any, now: float) -> None:
        self.waiting[item] = now + self.seconds

    def stop(self, item: Any) -> None:
        self.waiting.pop(item, None)

    def sweep(self, now: float) -> None:
        late = []
        for item, deadline in self.waiting.items():
            if deadline > now:
                break
            late.append(item)
        for item in late:
            self.waiting.pop(item, None)
            self.expire(item)
