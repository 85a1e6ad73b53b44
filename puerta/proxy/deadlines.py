"""Deadlines of one length: waiting sessions in the order they began, so that only the oldest need a look."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """`expire(item)` is called for each item that `start`ed `seconds` ago and did not `stop`."""

    __slots__ = ("expire", "seconds", "waiting")

    def __init__(self, seconds: float, expire: Callable[[T], object]) -> None:
        self.seconds = seconds
        self.expire = expire
        self.waiting: dict[T, float] = {}

    def start(self, item: T, now: float) -> None:
        self.waiting[item] = now + self.seconds

    def stop(self, item: T) -> None:
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
