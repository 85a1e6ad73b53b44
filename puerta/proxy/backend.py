"""A backend as one worker sees it: where it is, whether it may be used, and how many connections everybody has to it."""

import random
from collections.abc import Callable
from typing import Any

import cython

from puerta.board import BACKEND_STATES, Board

if not cython.compiled:
    from puerta.reactor.native import Endpoint

STARTING, UP, DOWN, DRAIN, MAINT = range(len(BACKEND_STATES))

SUSPECT_SECONDS = 1.0
"""After a failed connect this worker avoids a backend so long; by then the supervisor's verdict is on the board."""


class Backend:
    """One server of a route. The verdict comes from the board; the worker adds only its own fresh suspicion."""

    if not cython.compiled:
        __slots__ = (
            "cells", "connect_us", "connections", "dialling", "downs", "endpoint", "failures", "id", "made", "making",
            "others", "resolved", "sessions", "share", "state", "suspect_until", "table", "total", "turn", "verdict",
            "weight",
        )  # fmt: skip

    def __init__(self, route: str, id: str, weight: int, board: Board, row: int) -> None:
        self.id = id
        self.weight = weight
        self.endpoint: Any = None
        self.resolved = ""
        self.cells = board.cells
        self.table = board.backend(route, id)
        self.verdict = board.verdict(route, id)
        self.connections = self.table.index(row, "connections")
        self.total = self.table.index(row, "connections_total")
        self.failures = self.table.index(row, "connect_failures")
        self.connect_us = self.table.index(row, "connect_us")
        self.sessions: set[Any] = set()
        self.made = 0
        self.making = 0.0
        self.dialling = 0
        self.suspect_until = 0.0
        self.turn = random.random() * weight  # else workers that began together would all serve the same one first
        self.others = 0
        self.state = STARTING
        self.downs = self.verdict.get(0, "downs")
        self.share = float(weight)
        self.refresh()

    def locate(self, address: Any, resolve: Callable[[str], str | None]) -> None:
        """Make the endpoint, or make it anew when its name resolves to another address now."""
        host = resolve(address.host) if not address.path else ""
        if host is None or (self.endpoint is not None and self.resolved == host):
            return
        self.endpoint = Endpoint(host, address.port, address.path)
        self.resolved = host

    @property
    def load(self) -> int:
        """Connections of all workers, and ours that are being made: when many clients come at once, each sees the others."""
        return self.others + len(self.sessions) + self.dialling

    def refresh(self) -> bool:
        """Read the board; true when the backend went down (or into drain) since the last look, however briefly."""
        verdict = self.verdict.row(0)
        self.state = verdict["state"]
        self.share = verdict["weight_milli"] / 1000 if self.state == UP else float(self.weight)
        self.write()
        self.others = self.table.sum("connections") - len(self.sessions)
        fell = verdict["downs"] != self.downs
        self.downs = verdict["downs"]
        return fell

    def reached(self, seconds: float) -> None:
        """A connection was made, in that time."""
        self.made += 1
        self.making += seconds

    def write(self) -> None:
        """Bring the board's cells up to date: ten times a second, not with each connection."""
        cells = self.cells
        cells[self.connections] = len(self.sessions)
        made, self.made = self.made, 0
        making, self.making = self.making, 0.0
        cells[self.total] += made
        cells[self.connect_us] += int(making * 1e6)

    def usable(self, now: float) -> bool:
        """May carry a client it already has."""
        return self.state <= UP and self.endpoint is not None and now >= self.suspect_until

    def open_to_new(self, now: float) -> bool:
        """May be proposed to a client that has no backend yet; weight 0 keeps only the clients it has."""
        return self.share > 0 and self.usable(now)

    def failed(self, now: float) -> None:
        """A connect failed: tell the supervisor by the counter, and avoid the backend until it has looked."""
        self.cells[self.failures] += 1
        self.suspect_until = now + SUSPECT_SECONDS


def candidates(backends: list[Backend], now: float, tried: tuple[Backend, ...] = ()) -> list[Backend]:
    """The backends a new client may get, best knowledge first: the suspects of this moment only if nothing else is left."""
    left = [backend for backend in backends if backend not in tried] if tried else backends
    return [backend for backend in left if backend.open_to_new(now)] or [
        backend for backend in left if backend.state <= UP and backend.share > 0 and backend.endpoint is not None
    ]
