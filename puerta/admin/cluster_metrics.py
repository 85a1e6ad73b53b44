"""The metrics of routes of mode redis, beside those that all routes have."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from puerta.admin.cluster_status import histograms
from puerta.admin.families import Sample, counter, gauge
from puerta.admin.histogram import cumulative
from puerta.board import Board

GAUGES = (
    ("puerta_redis_slots_covered", "Slots that have a node, of 16384.", ("slots_covered",)),
    ("puerta_redis_topology_version", "Layouts published since the start.", ("topology_version",)),
    ("puerta_redis_topology_age_seconds", "Since the layout was last confirmed.", ("topology_age_seconds",)),
    ("puerta_redis_upstream_connections", "Open connections to nodes.", ("upstreams", "connections")),
    ("puerta_redis_pinned_connections", "Connections that one session has for itself.", ("upstreams", "pinned")),
    ("puerta_redis_pool_connections", "Idle connections kept for such sessions.", ("upstreams", "pinned_pool")),
)
COUNTERS = (
    (
        "puerta_redis_upstream_failures",
        "Connections to nodes that failed or were lost.",
        ("upstreams", "failures_total"),
    ),
    ("puerta_redis_timeouts", "Commands that a node did not answer in time.", ("timeouts_total",)),
    ("puerta_redis_retries", "Commands sent again after a failure.", ("retries_total",)),
    ("puerta_redis_slow_commands", "Commands slower than limits.slowlog.", ("slow_calls_total",)),
    ("puerta_redis_refreshes_wanted", "Times that a worker doubted the layout.", ("refreshes_wanted_total",)),
)
NODE_COUNTERS = (
    ("puerta_redis_node_commands", "Requests sent to the node, Puerta's own included.", "commands_total"),
    ("puerta_redis_node_errors", "Error replies of the node, redirections included.", "errors_total"),
    ("puerta_redis_node_timeouts", "Commands that the node did not answer in time.", "timeouts_total"),
    ("puerta_redis_node_connections_lost", "Connections to the node that broke.", "connections_lost_total"),
)
ROLES = ("master", "replica", "spare", "seed")


def collect(board: Board, routes: list[dict[str, Any]]) -> Iterator[Metric]:
    """The metrics of `routes`, all of mode redis."""
    label = ("route",)
    for name, help, path in GAUGES:
        yield gauge(name, help, label, samples(routes, path))
    for name, help, path in COUNTERS:
        yield counter(name, help, label, samples(routes, path))
    yield counter(
        "puerta_redis_redirects", "Commands that a node sent elsewhere, or asked to wait.", ("route", "kind"),
        [((route["name"], kind), count) for route in routes for kind, count in route["redirects"].items()],
    )  # fmt: skip
    yield gauge(
        "puerta_redis_shared_connections", "Connections that clients share: nodes times workers, for each protocol in use.",
        ("route", "protocol"),
        [((route["name"], name), count) for route in routes for name, count in route["upstreams"]["shared"].items()],
    )  # fmt: skip
    yield from nodes(routes)
    yield durations(board, [route["name"] for route in routes])


def samples(routes: list[dict[str, Any]], path: tuple[str, ...]) -> list[Sample]:
    """The value at `path` in each route's status, where there is one."""
    found: list[Sample] = []
    for route in routes:
        value: Any = route
        for key in path:
            value = value[key]
        if value is not None:
            found.append(((route["name"],), value))
    return found


def nodes(routes: list[dict[str, Any]]) -> Iterator[Metric]:
    """Which node is what; their verdicts and connections are among the metrics of all backends."""
    label = ("route", "backend")
    each = [((route["name"], node["id"]), node) for route in routes for node in route["backends"]]
    yield gauge("puerta_redis_node_slots", "Slots of the node.", label, [(key, node["slots"]) for key, node in each])
    yield gauge(
        "puerta_redis_node_calls", "Requests that the node has yet to answer.", label,
        [(key, node["in_flight"]) for key, node in each],
    )  # fmt: skip
    for name, help, field in NODE_COUNTERS:
        yield counter(name, help, label, [(key, node[field]) for key, node in each])
    yield gauge(
        "puerta_redis_node_role", "1 for the node's role, 0 for the others.", (*label, "role"),
        [((*key, role), node["role"] == role) for key, node in each for role in ROLES],
    )  # fmt: skip


def durations(board: Board, routes: list[str]) -> Metric:
    """Commands are those of the table, never a client's words: their number is bounded."""
    family = HistogramMetricFamily(
        "puerta_redis_command_duration_seconds",
        "From a command's arrival to its reply.",
        labels=("route", "command"),
    )
    for route in routes:
        for command, (counts, seconds) in sorted(histograms(board, route).items()):
            family.add_metric((route, command), cumulative(counts), seconds)
    return family
