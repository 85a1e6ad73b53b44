"""A role over a board filled by hand: what the admin interface must tell the truth about."""

import os
import time

import pytest

from puerta.board import BACKEND_STATES, CHILD_STATES, MASTER_STATES, ROLES, Board
from puerta.config.schema import (
    Address,
    Affinity,
    Backend,
    Config,
    Health,
    Limits,
    MongodbRoute,
    ProxyProtocol,
    Store,
    TcpRoute,
)
from puerta.health.dial import Result
from puerta.role import Role

FIRST, SECOND = "10.0.0.1:27017", "[::1]:27018"
STORE = "redis://user:s3cret@10.0.0.9:6379/0?password=s3cret"


class World:
    """A running Puerta as its board shows it: two workers and one that drains, a route with two backends, one down."""

    def __init__(self) -> None:
        tail = ("rendezvous", Affinity(), Health(), 0.0, Limits(), ProxyProtocol())
        listen = (Address("127.0.0.1", 27017), Address("", 0, "/tmp/mongo.sock"))
        backends = (Backend(Address("10.0.0.1", 27017), 2), Backend(Address("::1", 27018)))
        self.routes: tuple[TcpRoute, ...] = (
            MongodbRoute("mongo", "mongodb", listen, backends, *tail),
            TcpRoute("other", "tcp", (Address("127.0.0.1", 9000),), (Backend(Address("10.0.0.3", 1)),), *tail),
        )
        config = Config(routes=self.routes, name="test", store=Store(url=STORE))
        self.board = Board(1 << 20)
        self.board.lay_out([(route.name, [backend.id for backend in route.backends]) for route in self.routes])
        self.role = Role("supervisor", -1, 200, 3, config, "", self.board, STORE, -1)
        self.results: dict[tuple[str, str], Result] = {}
        self.now = time.monotonic_ns()
        self.fill()

    def result(self, route: str, backend: str) -> Result | None:
        return self.results.get((route, backend))

    def fill(self) -> None:
        master = self.board.master
        for name, value in (
            ("pid", os.getpid()), ("generation", 3), ("state", MASTER_STATES.index("running")),
            ("started_ns", self.now - 90_000_000_000), ("reload_ok", 1), ("reloaded_s", 1_700_000_000),
        ):  # fmt: skip
            master.set(0, name, value)
        self.worker(0, 0, "up", connections=3)
        self.worker(1, 1, "up", connections=2)
        self.worker(2, 0, "draining", connections=1, generation=2)
        self.child(3, "supervisor", -1, "up")
        self.verdict("mongo", FIRST, "up", ok=1, latency_us=800, weight_milli=1500)
        self.verdict("mongo", SECOND, "down", ok=0, latency_us=0, weight_milli=1000, downs=2)
        self.verdict("other", "10.0.0.3:1", "up", ok=1, latency_us=100, weight_milli=1000)
        self.results["mongo", SECOND] = Result(False, error="connection refused")
        self.results["mongo", FIRST] = Result(True, latency=0.0008, warnings=("<b>odd</b>",))
        route = self.board.route("mongo")
        for row, amount in ((0, 10), (2, 5), (99, 1)):  # row 99: a worker that is gone, its counters stay
            route.set(row, "connections_total", amount)
            route.set(row, "bytes_in", amount * 100)
            route.set(row, "bytes_out", amount * 1000)
            route.set(row, "closed_client_closed", amount)
            route.set(row, "found_hit", amount * 2)
        route.set(0, "connections", 6)
        first = self.board.backend("mongo", FIRST)
        first.set(0, "connections", 4)
        first.set(0, "connections_total", 16)
        first.set(2, "connect_failures", 7)
        first.set(2, "connect_us", 32_000)
        self.board.adoptions.set(1, "restarts", 5)

    def child(self, row: int, role: str, seat: int, state: str, generation: int = 3, restarts: int = 0) -> None:
        for name, value in (
            ("pid", os.getpid()), ("role", ROLES.index(role)), ("seat", seat), ("row", row),
            ("generation", generation), ("state", CHILD_STATES.index(state)), ("restarts", restarts),
        ):  # fmt: skip
            self.board.children.set(row, name, value)

    def worker(self, row: int, seat: int, state: str, connections: int, generation: int = 3) -> None:
        self.child(row, "worker", seat, state, generation, restarts=seat)
        for name, value in (
            ("beat_ns", self.now), ("connections", connections), ("store_up", 1),
            ("store_latency_us", 200 + row), ("loop_lag_us", 1500), ("health_age_ms", 250), ("batch", 1),
        ):  # fmt: skip
            self.board.workers.set(row, name, value)

    def verdict(self, route: str, backend: str, state: str, **cells: int) -> None:
        table = self.board.verdict(route, backend)
        table.set(0, "state", BACKEND_STATES.index(state))
        table.set(0, "checked_ns", self.now)
        table.set(0, "since_ns", self.now - 5_000_000_000)
        for name, value in cells.items():
            table.set(0, name, value)

    def master(self, state: str) -> None:
        self.board.master.set(0, "state", MASTER_STATES.index(state))

    def no_workers(self) -> None:
        for row in range(3):
            self.board.children.set(row, "state", CHILD_STATES.index("backoff"))


@pytest.fixture
def world() -> World:
    return World()
