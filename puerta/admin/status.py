"""The state of this machine's Puerta as one dict of plain values: what `/status` answers, and what the page, the
readiness checks and half of the metrics are made from. Read from the board, which every process writes its part of.
"""

import time
from typing import Any, Protocol

from puerta import __version__
from puerta.admin import cluster_status
from puerta.admin.moments import age
from puerta.board import BACKEND_STATES, CHILD_STATES, CLOSE_REASONS, FOUND, MASTER_STATES, ROLES, Board, Table
from puerta.config.kinds import redact_url
from puerta.config.schema import AnyRoute, TcpRoute
from puerta.health.dial import Result
from puerta.health.snapshot import Snapshot
from puerta.role import WORKER, Role


class Watcher(Protocol):
    """Who checks the backends and knows what the board has no room for."""

    def result(self, route: str, backend: str) -> Result | None:
        """The last check's result."""

    def cluster(self, route: str) -> Snapshot:
        """The nodes behind a route of mode redis."""


UP = "up"


def build(role: Role, watcher: Watcher) -> dict[str, Any]:
    """The status as of now."""
    now = time.monotonic_ns()
    board = role.board
    master = board.master.row(0)
    members = workers(board, now)
    return {
        "name": role.config.name,
        "version": __version__,
        "pid": master["pid"],
        "generation": master["generation"],
        "uptime_seconds": age(master["started_ns"], now),
        "state": named(MASTER_STATES, master["state"]),
        "workers": members,
        "store": store(role, members),
        "routes": [route_status(board, route, watcher, now) for route in role.config.routes],
    }


def named(names: tuple[str, ...], index: int) -> str:
    return names[index] if 0 <= index < len(names) else "unknown"


def workers(board: Board, now: int) -> list[dict[str, Any]]:
    """Every worker the master knows, those that drain included; more than one may have the same seat."""
    found = []
    for index in range(board.children.rows):
        child = board.children.row(index)
        state = named(CHILD_STATES, child["state"])
        if named(ROLES, child["role"]) != WORKER or state == "none":
            continue
        found.append(worker(child, state, board, now))
    return sorted(found, key=lambda each: (each["seat"], -each["generation"], each["row"]))


def worker(child: dict[str, int], state: str, board: Board, now: int) -> dict[str, Any]:
    own = board.workers.row(child["row"]) if 0 <= child["row"] < board.workers.rows else {}
    return {
        "seat": child["seat"],
        "row": child["row"],
        "pid": child["pid"],
        "generation": child["generation"],
        "state": state,
        "connections": own.get("connections", 0),
        "heartbeat_age_seconds": age(own.get("beat_ns", 0), now),
        "restarts": child["restarts"],
        "loop_lag_ms": own.get("loop_lag_us", 0) / 1000,
        "health_age_seconds": own.get("health_age_ms", 0) / 1000,
        "scheduling": "batch" if own.get("batch") else "normal",
    }


def store(role: Role, members: list[dict[str, Any]]) -> dict[str, Any]:
    """The store as the serving workers see it: `up`, `down` (or it takes no claims), `partial` (some reach it), or
    `unknown` (nobody serves, or no route has an affinity to keep there)."""
    used = any(isinstance(route, TcpRoute) and route.affinity.by != "none" for route in role.config.routes)
    told = role.board.workers
    rows = [each["row"] for each in members if used and each["state"] == UP]
    reach = [row for row in rows if told.get(row, "store_up")]
    latencies = [told.get(row, "store_latency_us") for row in reach]
    state = "unknown" if not rows else "down" if not reach else UP if len(reach) == len(rows) else "partial"
    return {
        "url": redact_url(role.store_url),
        "state": state,
        "latency_ms": max(latencies) / 1000 if latencies else None,
    }


def route_status(board: Board, route: AnyRoute, watcher: Watcher, now: int) -> dict[str, Any]:
    """What all routes have, and what the route's mode adds."""
    if isinstance(route, TcpRoute):
        return counters(board, route) | {"backends": backends(board, route, watcher, now)}
    return counters(board, route) | cluster_status.build(board, route.name, watcher.cluster(route.name), now)


def counters(board: Board, route: AnyRoute) -> dict[str, Any]:
    table = board.route(route.name)
    return {
        "name": route.name,
        "mode": route.mode,
        "listen": [str(address) for address in route.listen],
        "connections": table.sum("connections"),
        "connections_total": table.sum("connections_total"),
        "bytes_in": table.sum("bytes_in"),
        "bytes_out": table.sum("bytes_out"),
        "commands_total": table.sum("commands_total"),
        "closed": {reason: table.sum("closed_" + reason) for reason in CLOSE_REASONS},
        "found": {found: table.sum("found_" + found) for found in FOUND},
    }


def backends(board: Board, route: TcpRoute, watcher: Watcher, now: int) -> list[dict[str, Any]]:
    return [
        backend_status(
            backend.id, backend.weight, board.backend(route.name, backend.id),
            board.verdict(route.name, backend.id), watcher.result(route.name, backend.id), now,
        )
        for backend in route.backends
    ]  # fmt: skip


def backend_status(
    name: str, weight: int, counters: Table, verdict: Table, result: Result | None, now: int
) -> dict[str, Any]:
    cells = verdict.row(0)
    checked = bool(cells["checked_ns"])
    return {
        "id": name,
        "state": named(BACKEND_STATES, cells["state"]),
        "weight": weight,
        "effective_weight": cells["weight_milli"] / 1000,
        "connections": counters.sum("connections"),
        "connections_total": counters.sum("connections_total"),
        "connect_failures_total": counters.sum("connect_failures"),
        "connect_seconds_total": counters.sum("connect_us") / 1e6,
        "downs": cells["downs"],
        "state_age_seconds": age(cells["since_ns"], now),
        "check": {
            "ok": bool(cells["ok"]) if checked else None,
            "latency_ms": cells["latency_us"] / 1000 if checked else None,
            "error": (result.error or None) if result is not None else None,
            "age_seconds": age(cells["checked_ns"], now),
            "warnings": list(result.warnings) if result is not None else [],
        },
    }


def readiness(status: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Every condition of readiness by name, with what is wrong, or None if it holds."""
    state = status["state"]
    serving = sum(each["state"] == UP for each in status["workers"])
    checks: list[tuple[str, str | None]] = [
        ("master", None if state == "running" else f"the master is {state}"),
        ("workers", None if serving else "no worker is up"),
    ]
    for route in status["routes"]:
        if "slots_covered" in route:
            checks.append(cluster_status.readiness(route))
            continue
        healthy = sum(backend["state"] == UP for backend in route["backends"])
        checks.append((f"route {route['name']}", None if healthy else "no healthy backend"))
    return checks
