"""What the status of a route of mode redis has beside what all routes have: its nodes, its slots, its commands."""

from collections.abc import Iterable, Sequence
from typing import Any

from puerta.admin.histogram import merge, percentile
from puerta.admin.moments import age
from puerta.board import BUCKETS, COMMANDS, Board, Table
from puerta.health.snapshot import NodeState, Snapshot
from puerta.health.views import SLOTS
from puerta.protocol.commands import TABLE, extended
from puerta.protocol.entry import unpack
from puerta.protocol.spec import Spec

UP = "up"
ALL = "all"
"""The latency of all commands together stands under this name, which no command has."""

OTHER = "other"
"""The last histogram: all commands beyond the number that is measured one by one."""

QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


def names_of(specs: Iterable[Spec]) -> list[str]:
    """As the server's own INFO names commands: `get`, `config|get`."""
    return [spec.name.decode("ascii").lower() for spec in specs]


NAMES = names_of(TABLE.specs)
"""The built-in commands by their index."""


def build(board: Board, route: str, cluster: Snapshot, now: int) -> dict[str, Any]:
    """The parts of the status; `now` is in nanoseconds of the monotonic clock."""
    table = board.redis(route)
    return {
        "slots_covered": SLOTS - cluster.uncovered,
        "topology_version": cluster.version,
        "topology_epoch": cluster.epoch,
        "topology_age_seconds": age(round(cluster.seen * 1e9), now),
        "redirects": {
            "moved": table.sum("redirects_moved"), "ask": table.sum("redirects_ask"), "tryagain": table.sum("tryagain"),
        },
        "upstreams": {
            "connections": table.sum("upstream_connections"),
            "shared": {"resp2": table.sum("shared_resp2"), "resp3": table.sum("shared_resp3")}, "pinned": table.sum("pinned"),
            "pinned_pool": table.sum("pinned_pool"), "failures_total": table.sum("upstream_failures"),
        },
        "timeouts_total": table.sum("timeouts"),
        "retries_total": table.sum("retries"),
        "slow_calls_total": table.sum("slow_calls"),
        "refreshes_wanted_total": table.sum("refresh_wanted"),
        "latency": latency(histograms(board, route)),
        "backends": [backend(board, route, node, now) for node in cluster.nodes],
    }  # fmt: skip


def backend(board: Board, route: str, node: NodeState, now: int) -> dict[str, Any]:
    """One node, with all that backends of other modes have."""
    counters = board.node(route, node.cell) if node.cell >= 0 else None
    result = node.result
    return {
        "id": node.id,
        "node_id": node.node_id or None,
        "role": node.role,
        "master": node.master or None,
        "state": node.state,
        "slots": node.slots,
        "weight": 1,
        "effective_weight": 1.0,
        "connections": count(counters, "connections"),
        "connections_total": count(counters, "connections_total"),
        "connect_failures_total": count(counters, "connect_failures"),
        "connect_seconds_total": count(counters, "connect_us") / 1e6,
        "connections_lost_total": count(counters, "lost"),
        "in_flight": count(counters, "in_flight"),
        "commands_total": count(counters, "commands_total"),
        "errors_total": count(counters, "errors"),
        "timeouts_total": count(counters, "timeouts"),
        "downs": node.downs,
        "state_age_seconds": age(round(node.since * 1e9), now),
        "check": {
            "ok": result.ok if result is not None else None,
            "latency_ms": round(result.latency * 1000, 3) if result is not None else None,
            "error": (result.error or None) if result is not None else None,
            "age_seconds": age(round(node.checked * 1e9), now),
            "warnings": list(result.warnings) if result is not None else [],
        },
    }


def count(table: Table | None, column: str) -> int:
    """0, too, for a node beyond the number that is counted one by one."""
    return table.sum(column) if table is not None else 0


def histograms(board: Board, route: str) -> dict[str, tuple[list[int], float]]:
    """Bucket counts and seconds of every command that was called, by its name, over all workers there ever were."""
    table = board.route(route)
    rows = [row for row in range(table.rows) if table.get(row, "commands_total")]
    found: dict[str, tuple[list[int], float]] = {}
    known = names(board, route)
    for command, (counts, microseconds) in board.latency(route).totals(rows).items():
        name = known[command] if command < len(known) else OTHER
        others, seconds = found.get(name, ([0] * BUCKETS, 0.0))
        found[name] = (merge([counts, others]), seconds + microseconds / 1e6)
    return found


def names(board: Board, route: str) -> list[str]:
    """All that are measured one by one, by their index: the built-in ones, then those that the cluster has besides."""
    published = board.commands(route).read(0)
    if published is None:
        return NAMES
    return names_of(extended(unpack(published[1])).specs[: COMMANDS - 1])


def latency(found: dict[str, tuple[list[int], float]]) -> dict[str, dict[str, float]]:
    """Quantiles of each command, the most used first, after those of all together."""
    total = merge(counts for counts, _ in found.values()) or [0] * BUCKETS
    ordered = sorted(found.items(), key=lambda entry: (-sum(entry[1][0]), entry[0]))
    return {ALL: quantiles(total)} | {name: quantiles(counts) for name, (counts, _) in ordered}


def quantiles(counts: Sequence[int]) -> dict[str, float]:
    found: dict[str, float] = {"count": sum(counts)}
    return found | {name: round(percentile(counts, q) * 1000, 3) for name, q in QUANTILES.items()}


def readiness(route: dict[str, Any]) -> tuple[str, str | None]:
    """Ready while some of the slots are served: who asks for another one is told so, and the rest goes on."""
    name, covered = f"route {route['name']}", route["slots_covered"]
    if not any(node["role"] == "master" and node["state"] == UP for node in route["backends"]):
        return name, "no master is up"
    if not covered:
        return name, "no slot has a node"
    return name if covered == SLOTS else f"{name} ({covered} of {SLOTS} slots have a node)", None
