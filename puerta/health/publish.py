"""Tells the world what the supervisor found: the board, for this machine's workers, and the store, for other machines'.

The board is the truth that workers act on; it needs nobody. The store is courtesy: other supervisors hear of a lost
backend at once and look for themselves (they never take our word for it), and tools can read every machine's view.
So all that a lost store costs is a log line now and then.

In the store: hash `{ns}:health:{route}`, field `{backend}@{node}`, value JSON; channel `{ns}:events`, JSON lines.
"""

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from puerta.board import BACKEND_STATES, Table
from puerta.health.dial import Result, words
from puerta.health.verdict import DOWN, DRAIN, Verdict
from puerta.log import logger

QUEUE = 1024
"""Events waiting for the store; beyond it the oldest are dropped (the hash still gets the latest state)."""

TICK = 0.1
RETRY = 1.0
TIMEOUT = 1.0
QUIET = 30.0
"""Seconds between two log lines about a store that fails."""

FORGET = 60.0
"""Seconds, and intervals of TTL_INTERVALS, after which another node's silent verdict is removed from the hash."""

TTL_INTERVALS = 3
MAX_EVENT = 4096

Offer = Callable[["Report", bool], None]
"""Takes a report, and whether it is a change of verdict, from any thread."""

Heard = Callable[[str, str], None]
"""Called with route and backend when another node lost that backend."""


def write(table: Table, verdict: Verdict, result: Result | None, checked: float) -> None:
    """Put a verdict on its board row. `checked` is when `result` came, on the monotonic clock; None = nothing new."""
    if result is not None:
        table.set(0, "ok", int(result.ok))
        table.set(0, "latency_us", round(result.latency * 1e6))
        table.set(0, "checked_ns", round(checked * 1e9))
    table.set(0, "since_ns", round(verdict.since * 1e9))
    table.set(0, "state", BACKEND_STATES.index(verdict.state))
    table.set(0, "downs", verdict.downs)  # last: who sees it grow must find the state that made it grow


def read(table: Table, verdict: Verdict) -> Result | None:
    """Fill `verdict` from the row an earlier supervisor left; its last result, or None if there was none."""
    cells = table.row(0)
    if not cells["checked_ns"] or not 0 <= cells["state"] < len(BACKEND_STATES):
        return None
    verdict.state = BACKEND_STATES[cells["state"]]
    verdict.since, verdict.downs = cells["since_ns"] / 1e9, cells["downs"]
    return Result(bool(cells["ok"]), latency=cells["latency_us"] / 1e6)


def node_name(name: str) -> str:
    """This machine's name in the store: the same after every restart."""
    return f"{socket.gethostname()}/{name}"


@dataclass(frozen=True, slots=True)
class Report:
    """One backend's verdict as the store gets it. `at` is seconds since 1970."""

    route: str
    backend: str
    state: str
    ok: bool
    latency: float
    error: str
    at: float

    def as_verdict(self, node: str) -> str:
        return json.dumps(
            {
                "state": self.state, "ok": self.ok, "latency_ms": round(self.latency * 1000, 3),
                "error": self.error or None, "node": node, "at": round(self.at, 3),
            }
        )  # fmt: skip

    def as_event(self, node: str) -> str:
        return json.dumps(
            {
                "event": "verdict", "route": self.route, "backend": self.backend, "state": self.state,
                "node": node, "at": round(self.at, 3),
            }
        )  # fmt: skip


class StorePublisher:
    """One thread with the connection to the store: writes reports, publishes changes, hears other nodes' events."""

    def __init__(self, url: str, namespace: str, node: str, every: dict[str, float], heard: Heard) -> None:
        """`every` is each route's check interval in seconds: the rhythm of refreshing its hash."""
        self.url, self.namespace, self.node, self.every, self.heard = url, namespace, node, every, heard
        self.latest: dict[str, dict[str, Report]] = {route: {} for route in every}
        self.changes: deque[Report] = deque(maxlen=QUEUE)
        self.refreshed: dict[str, float] = {}
        self.up = False
        self.complained = float("-inf")
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name="puerta-publish", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self, timeout: float) -> None:
        self.stopped.set()
        if self.thread.ident is not None:
            self.thread.join(timeout)

    def offer(self, report: Report, changed: bool) -> None:
        """Take a report from any thread; never waits."""
        self.latest[report.route][report.backend] = report
        if changed:
            self.changes.append(report)

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._serve()
            except Exception as error:  # a courtesy: nothing that the store does or sends may end it
                self._complain(error)
            self.stopped.wait(RETRY)

    def _serve(self) -> None:
        """One life of the connection. Returns when stopped; raises when the store fails."""
        client = redis.Redis.from_url(
            self.url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="puerta-supervisor",
        )
        ears = client.pubsub()  # type: ignore[no-untyped-call]
        try:
            ears.subscribe(f"{self.namespace}:events")
            self.refreshed.clear()
            while not self.stopped.is_set():
                self._publish(client)
                self._refresh(client, time.monotonic())
                self._recovered()
                self._hear(ears)
        finally:
            self.up = False
            ears.close()
            client.close()

    def _publish(self, client: Any) -> None:
        while self.changes:
            report = self.changes[0]
            pipeline = client.pipeline(transaction=False)
            self._store(pipeline, report.route, [report])
            pipeline.publish(f"{self.namespace}:events", report.as_event(self.node))
            pipeline.execute()
            if self.changes and self.changes[0] is report:  # a full queue may have dropped it meanwhile
                self.changes.popleft()

    def _refresh(self, client: Any, now: float) -> None:
        for route, every in self.every.items():
            last = self.refreshed.get(route)
            reports = list(self.latest[route].values())
            if not reports or (last is not None and now - last < every):
                continue
            pipeline = client.pipeline(transaction=False)
            self._store(pipeline, route, reports)
            pipeline.execute()
            if last is None or now // FORGET != last // FORGET:
                self._forget(client, route)
            self.refreshed[route] = now

    def _store(self, pipeline: Any, route: str, reports: Iterable[Report]) -> None:
        fields = {self._field(report.backend): report.as_verdict(self.node) for report in reports}
        pipeline.hset(self._key(route), mapping=fields)
        pipeline.pexpire(self._key(route), self._ttl_ms(route))

    def _forget(self, client: Any, route: str) -> None:
        """Remove what lost nodes left and backends we no longer have: refreshing keeps the hash alive."""
        horizon = time.time() - max(FORGET, self._ttl_ms(route) / 1000)
        for backend, report in list(self.latest[route].items()):
            if report.at < horizon:  # nobody checks it any more: a node that left its cluster
                del self.latest[route][backend]
        known = {self._field(backend) for backend in list(self.latest[route])}
        stale = []
        for raw, value in client.hgetall(self._key(route)).items():
            field = raw.decode("utf-8", "replace")
            ours = field.endswith("@" + self.node)
            if field not in known and (ours or stamp(value) < horizon):
                stale.append(raw)
        if stale:
            client.hdel(self._key(route), *stale)

    def _hear(self, ears: Any) -> None:
        """Wait a moment for other nodes' events. An echo of ours asks for what we already know, and does no harm."""
        message = ears.get_message(ignore_subscribe_messages=True, timeout=TICK)
        if message is not None and message.get("type") == "message":
            lost = parse_event(message["data"])
            if lost is not None:
                self.heard(*lost)

    def _recovered(self) -> None:
        if not self.up:
            self.up = True
            if self.complained > float("-inf"):
                self.complained = float("-inf")
                logger.info("the store takes verdicts again")

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self.complained >= QUIET:
            self.complained = now
            logger.warning("the store does not take verdicts: %s (other machines won't hear of ours)", words(error))

    def _key(self, route: str) -> str:
        return f"{self.namespace}:health:{route}"

    def _field(self, backend: str) -> str:
        return f"{backend}@{self.node}"

    def _ttl_ms(self, route: str) -> int:
        return max(1000, round(self.every[route] * TTL_INTERVALS * 1000))


def stamp(value: bytes) -> float:
    """When a stored verdict was written, seconds since 1970; 0 for what is not a verdict."""
    try:
        return float(json.loads(value)["at"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0.0


def parse_event(data: bytes) -> tuple[str, str] | None:
    """Route and backend of an event that says a backend was lost; None for any other message, however malformed."""
    if len(data) > MAX_EVENT:
        return None
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("event") != "verdict" or event.get("state") not in (DOWN, DRAIN):
        return None
    route, backend = event.get("route"), event.get("backend")
    return (route, backend) if isinstance(route, str) and isinstance(backend, str) else None
