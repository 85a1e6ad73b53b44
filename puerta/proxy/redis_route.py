"""A Redis route as one worker runs it: the cluster, its commands, the sessions, the counters on the board, the slow log."""

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from puerta import log
from puerta.board import ROUTE, Board
from puerta.config.schema import RedisRoute
from puerta.protocol import commands
from puerta.protocol.entry import unpack
from puerta.protocol.request import Request
from puerta.protocol.span import NameIndex
from puerta.proxy import redis_layout, redis_upkeep
from puerta.proxy.access_log import AccessLog
from puerta.proxy.deadlines import Deadlines
from puerta.proxy.redis_cluster import Cluster
from puerta.proxy.redis_latencies import Latencies
from puerta.proxy.redis_opening import HEADER_SECONDS
from puerta.proxy.redis_tally import NodeCells
from puerta.reactor.loop import Loop
from puerta.reactor.relay import Meter

SLOW_CALLS = 128
"""Entries of the slow log."""


class RedisRouteRunner:
    """What the sessions of one Redis route share. Times are the loop's monotonic seconds."""

    def __init__(
        self,
        config: RedisRoute,
        board: Board,
        row: int,
        loop: Loop,
        access: AccessLog,
        schedule: Callable[[float, Callable[[], object]], object],
        resolve: Callable[[str], str | None],
    ) -> None:
        self.config, self.loop, self.access = config, loop, access
        self.name = config.name
        self.limits = config.limits
        self.backends: list[Any] = []
        self.sessions: set[Any] = set()
        self.openings: Deadlines = Deadlines(HEADER_SECONDS, lambda one: one.end("handshake_timeout"))
        self.bytes_in, self.bytes_out, self.taken = Meter(), Meter(), Meter()
        self.cells = board.cells
        self.table = board.route(config.name)
        self.at = {column: self.table.index(row, column) for column in ROUTE}
        self.redis = board.redis(config.name)
        self.row = row
        self.topology = board.topology(config.name)
        self.version = 0
        self.seeds = {str(address) for address in config.cluster}
        self.laid_out = False
        self.others = 0
        self.swept = 0.0
        self.slow_calls: deque[tuple[int, float, float, bytes, str]] = deque(maxlen=SLOW_CALLS)
        self.slow_seen = 0
        self.request = Request(min(config.limits.buffer, 512 << 20))
        self.learned = board.commands(config.name)
        self.learned_version = 0
        self.index = NameIndex()
        self.use_commands(commands.TABLE)
        histograms = board.latency(config.name)
        latencies = Latencies(
            board.cells,
            histograms.index(row, 0),
            histograms.sum_index(row, 0),
            histograms.buckets,
            histograms.commands,
            config.limits.slowlog or float("inf"),
            self.slow_call,
        )
        self.nodes = NodeCells(board, config.name, row)
        self.cluster = Cluster(self, config, loop, latencies, schedule, resolve)
        self.taken_before = self.cells[self.at["commands_total"]]  # by workers that had this row and died

    # -- counters

    def count(self, column: str, amount: int = 1) -> None:
        self.cells[self.at[column]] += amount

    def count_redis(self, column: str, amount: int) -> None:
        self.redis.add(self.row, column, amount)

    def redis_count(self, column: str) -> int:
        """Over all workers."""
        return self.redis.sum(column)

    def commands_taken(self) -> int:
        """By this worker alone."""
        return int(self.cells[self.at["commands_total"]] - self.taken_before) + self.taken.total

    @property
    def connections(self) -> int:
        """Client connections of this route over all workers, exact for our own."""
        return self.others + len(self.sessions)

    def full(self) -> bool:
        return self.connections + len(self.openings.waiting) >= self.limits.connections

    def slow_call(self, call: Any, seconds: float) -> None:
        self.slow_seen += 1
        session = call.caller
        client = f"{session.host}:{session.port}" if session is not None else ""
        self.slow_calls.append((self.slow_seen, time.time(), seconds, call.spec.name, client))
        self.count_redis("slow_calls", 1)

    # -- sessions

    def opened(self, session: Any) -> None:
        self.sessions.add(session)
        self.cells[self.at["connections"]] = len(self.sessions)
        self.cells[self.at["connections_total"]] += 1

    def closed(self, session: Any, reason: str) -> None:
        self.sessions.discard(session)
        self.cells[self.at["connections"]] = len(self.sessions)
        self.cells[self.at["closed_" + reason]] += 1
        self.access.session(session, reason)

    # -- upkeep

    def ready(self) -> bool:
        """A layout of the cluster is known, and where its masters' names lead."""
        return self.laid_out and redis_layout.names_known(self.cluster)

    def tick(self, now: float) -> None:
        """Ten times a second: the commands, the layout, the calls that take too long, the meters."""
        self.take_commands()
        self.take_layout()
        redis_upkeep.tick(self.cluster, now)
        self.openings.sweep(now)
        self.others = self.table.sum("connections") - len(self.sessions)
        meters = (self.bytes_in, "bytes_in"), (self.bytes_out, "bytes_out"), (self.taken, "commands_total")
        for meter, column in meters:
            total, meter.total = meter.total, 0
            self.cells[self.at[column]] += total
        self.cluster.latencies.flush()
        redis_upkeep.look_over(self.cluster)
        self.nodes.write(self.cluster.nodes.values())
        self.redis.set(self.row, "upstream_connections", len(self.cluster.connections))
        self.redis.set(self.row, "shared_resp2", self.cluster.shared_resp2)
        self.redis.set(self.row, "shared_resp3", self.cluster.shared_resp3)
        if self.limits.idle_timeout is not None and now - self.swept > min(1.0, self.limits.idle_timeout / 4):
            self.swept = now
            self.close_idle(now, self.limits.idle_timeout, "idle_timeout", len(self.sessions))

    def take_layout(self) -> None:
        published = self.topology.read(self.version)
        if published is None:
            return
        self.version, data = published
        if not data:
            return
        try:
            layout = json.loads(data)
            if self.is_ours(layout):
                self.cluster.apply(layout)
                self.laid_out = True
        except (ValueError, KeyError, TypeError):
            log.logger.exception("route %s: the published layout of the cluster can't be used", self.name)

    def is_ours(self, layout: dict[str, Any]) -> bool:
        """Not if a supervisor of another generation, whose seeds are others, published it of another cluster."""
        listed = [
            *layout["masters"],
            *layout["spares"],
            *(each for one in layout["masters"] for each in one["replicas"]),
        ]
        places = {(one["host"], one["port"]) for one in listed}
        return not self.seeds.isdisjoint(layout["seeds"]) or not places.isdisjoint(self.cluster.nodes)

    def take_commands(self) -> None:
        """What the supervisor learned of the cluster's commands."""
        published = self.learned.read(self.learned_version)
        if published is None:
            return
        self.learned_version, data = published
        try:
            self.use_commands(commands.extended(unpack(data)))
        except (ValueError, KeyError, TypeError):
            log.logger.exception("route %s: the published commands can't be used", self.name)

    def use_commands(self, table: commands.Table) -> None:
        """The index stays, for the sessions have it; calls under way keep their rows."""
        self.commands = table
        for spec in table.specs:
            if b"|" not in spec.name:
                self.index.add(spec.name, table.usual(spec))
        self.request.forget()

    def close_idle(self, now: float, seconds: float, reason: str, most: int) -> int:
        """End up to `most` sessions that have nothing under way and did nothing for `seconds`; returns how many.

        A command that arrives byte by byte does not keep its client from being idle, but is waited for by who drains.
        """
        quiet = [
            session
            for session in self.sessions
            if session.first is None
            and now - session.active >= seconds
            and not session.state.waits_alone()
            and (session.input is None or reason == "idle_timeout")
        ]
        for session in quiet[:most]:
            session.end(reason)
        return min(len(quiet), most)
