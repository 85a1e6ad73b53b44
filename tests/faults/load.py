"""Clients that never stop coming, and what happened to each of them."""

import contextlib
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tests.e2e.peers import Raw


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection: when it began, how long its first answer took (seconds), and what went wrong."""

    began: float
    took: float
    error: str


class Load:
    """Threads that connect, say hello, wait for the answer and leave, always as a new client, while the block lasts."""

    def __init__(self, ports: Sequence[int], threads: int = 4, pause: float = 0.005, name: str = "load") -> None:
        self.ports, self.pause, self.name = ports, pause, name
        self.visits: list[Visit] = []
        self.over = False
        self.numbers = itertools.count()
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        for thread in self.threads:
            thread.join()

    def failed(self, since: float = 0.0) -> list[Visit]:
        """The visits that began after `since` and were not answered."""
        return [visit for visit in self.visits if visit.error and visit.began > since]

    def slow(self, seconds: float, since: float = 0.0) -> list[Visit]:
        return [visit for visit in self.visits if visit.took > seconds and visit.began > since]

    def slowest(self, since: float = 0.0) -> float:
        return max((visit.took for visit in self.visits if visit.began > since), default=0.0)

    def _work(self) -> None:
        while not self.over:
            number = next(self.numbers)
            began, error = time.monotonic(), ""
            try:
                with Raw(self.ports[number % len(self.ports)], f"app@{self.name}{number}"):
                    pass
            except Exception as caught:
                error = f"{type(caught).__name__}: {caught}"
            self.visits.append(Visit(began, time.monotonic() - began, error))
            time.sleep(self.pause)


class Known:
    """A client with connections that it keeps."""

    def __init__(self, ports: Sequence[int], application: str, count: int) -> None:
        self.ports, self.application = ports, application
        self.held = [Raw(ports[turn % len(ports)], application) for turn in range(count)]

    @property
    def backends(self) -> set[str]:
        return {raw.backend for raw in self.held}

    def is_well(self) -> bool:
        """Every connection answers from where it always was, and so does a new one over every port."""
        with contextlib.suppress(OSError):
            new = set()
            for port in self.ports:
                with Raw(port, self.application) as raw:
                    new.add(raw.backend)
            return {raw.again() for raw in self.held} | new == self.backends and len(new) == 1
        return False

    def close(self) -> None:
        for raw in self.held:
            raw.close()
