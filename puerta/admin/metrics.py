"""Prometheus metrics, read from the board at each scrape: processes share no registry, and nothing is counted twice.

Labels are names from the configuration and fixed lists alone, never anything a client sent: their number is bounded.
A worker is labelled by `row` beside its `seat`, because during a reload two workers hold one seat.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from puerta import __version__
from puerta.admin import cluster_metrics, processes
from puerta.admin.families import Sample, counter, gauge, info
from puerta.board import BACKEND_STATES, CHILD_STATES, ROLES, Board

CONTENT_TYPE = CONTENT_TYPE_LATEST
Status = Callable[[], dict[str, Any]]


class BoardCollector(Collector):
    """One scrape = one status and the cells it lacks. `config_text` is the effective configuration, redacted."""

    def __init__(self, board: Board, status: Status, config_text: str) -> None:
        self.board, self.status = board, status
        self.config_hash = hashlib.sha256(config_text.encode()).hexdigest()[:16]

    def collect(self) -> Iterator[Metric]:
        status = self.status()
        yield from self._process_group(status)
        yield from self._workers(status["workers"])
        yield from self._store(status["store"])
        yield from self._listeners(status["routes"])
        yield from self._affinity(status["routes"])
        backends = [((route["name"], each["id"]), each) for route in status["routes"] for each in route["backends"]]
        yield from self._backends(backends)
        yield from self._connects(backends)
        yield from cluster_metrics.collect(self.board, [each for each in status["routes"] if each["mode"] == "redis"])
        yield from self._usage()

    def _process_group(self, status: dict[str, Any]) -> Iterator[Metric]:
        master = self.board.master.row(0)
        yield info("puerta_build", "The running version.", {"version": __version__, "name": status["name"]})
        yield info("puerta_config_hash", "Names the effective configuration.", {"hash": self.config_hash})
        yield gauge(
            "puerta_config_generation", "Configurations taken since the start.", (), [((), status["generation"])]
        )
        yield gauge(
            "puerta_config_last_reload_successful", "1 if the last reload was taken.", (), [((), master["reload_ok"])]
        )
        yield gauge(
            "puerta_config_last_reload_success_timestamp_seconds",
            "When a configuration was last taken, in seconds since 1970.", (), [((), master["reloaded_s"])],
        )  # fmt: skip
        yield gauge("puerta_uptime_seconds", "Since the master started.", (), [((), status["uptime_seconds"] or 0.0)])

    def _workers(self, workers: list[dict[str, Any]]) -> Iterator[Metric]:
        names = [state for state in CHILD_STATES if state != "none"]
        counts = {state: sum(each["state"] == state for each in workers) for state in names}
        yield gauge("puerta_workers", "Workers by state.", ("state",), [((name,), counts[name]) for name in names])
        yield counter(
            "puerta_worker_restarts",
            "Workers that were started again.",
            (),
            [((), self.board.adoptions.sum("restarts"))],
        )
        label = ("seat", "row")
        rows = [((str(each["seat"]), str(each["row"])), each) for each in workers if each["pid"]]
        beats = [(values, each["heartbeat_age_seconds"]) for values, each in rows]
        yield gauge(
            "puerta_worker_heartbeat_age_seconds", "Since the worker's loop last turned.", label,
            [(values, beat) for values, beat in beats if beat is not None],
        )  # fmt: skip
        yield gauge(
            "puerta_worker_loop_lag_seconds", "How late the worker's loop last was.", label,
            [(values, each["loop_lag_ms"] / 1000) for values, each in rows],
        )  # fmt: skip
        yield gauge(
            "puerta_worker_health_age_seconds", "Age of the verdicts the worker acts on.", label,
            [(values, each["health_age_seconds"]) for values, each in rows],
        )  # fmt: skip
        yield gauge(
            "puerta_worker_scheduled_as_batch", "1 while the worker does not preempt others (SCHED_BATCH).", label,
            [(values, each["scheduling"] == "batch") for values, each in rows],
        )  # fmt: skip

    def _store(self, store: dict[str, Any]) -> Iterator[Metric]:
        yield gauge(
            "puerta_affinity_store_up",
            "1 if every serving worker reaches the store.",
            (),
            [((), store["state"] == "up")] if store["state"] != "unknown" else [],
        )
        if store["latency_ms"] is not None:
            yield gauge(
                "puerta_affinity_store_duration_seconds", "The slowest worker's last look-up.", (),
                [((), store["latency_ms"] / 1000)],
            )  # fmt: skip

    def _listeners(self, routes: list[dict[str, Any]]) -> Iterator[Metric]:
        def by_route(key: str) -> list[Sample]:
            return [((route["name"],), route[key]) for route in routes]

        label = ("route",)
        yield gauge("puerta_listener_connections", "Open client connections.", label, by_route("connections"))
        yield counter("puerta_listener_connections", "Client connections taken.", label, by_route("connections_total"))
        yield counter("puerta_commands", "Client commands served.", label, by_route("commands_total"))
        yield counter(
            "puerta_bytes", "Payload bytes; `in` is from clients to backends.", ("route", "direction"),
            [
                ((route["name"], direction), route["bytes_" + direction])
                for route in routes
                for direction in ("in", "out")
            ],
        )  # fmt: skip
        yield counter(
            "puerta_connections_closed", "Client connections ended, by reason.", ("route", "reason"),
            [((route["name"], reason), count) for route in routes for reason, count in route["closed"].items()],
        )  # fmt: skip

    def _affinity(self, routes: list[dict[str, Any]]) -> Iterator[Metric]:
        yield counter(
            "puerta_affinity_lookups", "How clients' backends were found.", ("route", "result"),
            [((route["name"], found), count) for route in routes for found, count in route["found"].items()],
        )  # fmt: skip

    def _backends(self, backends: list[tuple[tuple[str, str], dict[str, Any]]]) -> Iterator[Metric]:
        label = ("route", "backend")

        def by_backend(key: str) -> list[Sample]:
            return [(values, each[key]) for values, each in backends]

        yield gauge(
            "puerta_backend_up", "1 if the verdict is up.", label,
            [(values, each["state"] == "up") for values, each in backends],
        )  # fmt: skip
        yield gauge(
            "puerta_backend_state", "1 for the backend's state, 0 for the others.", (*label, "state"),
            [((*values, state), each["state"] == state) for values, each in backends for state in BACKEND_STATES],
        )  # fmt: skip
        yield gauge("puerta_backend_weight", "Weight after slow start.", label, by_backend("effective_weight"))
        yield counter("puerta_backend_ejections", "Verdicts that took it out.", label, by_backend("downs"))
        for key, name, help, scale in (
            ("latency_ms", "puerta_backend_check_duration_seconds", "How long the last check took.", 1000),
            ("age_seconds", "puerta_backend_check_age_seconds", "Since the last check.", 1),
        ):
            known = [(values, each["check"][key]) for values, each in backends]
            yield gauge(name, help, label, [(values, value / scale) for values, value in known if value is not None])

    def _connects(self, backends: list[tuple[tuple[str, str], dict[str, Any]]]) -> Iterator[Metric]:
        label = ("route", "backend")
        open_now: list[Sample] = [(values, each["connections"]) for values, each in backends]
        failed: list[Sample] = [(values, each["connect_failures_total"]) for values, each in backends]
        yield gauge("puerta_backend_connections", "Open connections to the backend.", label, open_now)
        yield counter("puerta_backend_connect_failures", "Connects that failed.", label, failed)
        durations = SummaryMetricFamily(
            "puerta_backend_connect_duration_seconds", "Connects that succeeded, and how long they took.", labels=label
        )
        for values, each in backends:
            durations.add_metric(values, each["connections_total"], each["connect_seconds_total"])
        yield durations

    def _usage(self) -> Iterator[Metric]:
        label = ("role", "seat", "row")
        found = []
        for values, pid in self._pids():
            used = processes.usage(pid)
            if used is not None:
                found.append((values, used))
        yield counter(
            "puerta_process_cpu_seconds", "User and system time.", label, [(values, used.cpu) for values, used in found]
        )
        yield gauge(
            "puerta_process_resident_memory_bytes", "Resident memory.", label,
            [(values, used.resident) for values, used in found],
        )  # fmt: skip
        yield gauge(
            "puerta_process_open_fds", "Open descriptors.", label,
            [(values, used.descriptors) for values, used in found if used.descriptors is not None],
        )  # fmt: skip

    def _pids(self) -> Iterator[tuple[tuple[str, ...], int]]:
        yield ("master", "", ""), self.board.master.get(0, "pid")
        for index in range(self.board.children.rows):
            child = self.board.children.row(index)
            if child["pid"] and 0 < child["role"] < len(ROLES):
                yield (ROLES[child["role"]], str(child["seat"]), str(child["row"])), child["pid"]


def registry(collector: Collector) -> CollectorRegistry:
    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    return made


def exposition(source: CollectorRegistry) -> bytes:
    """The metrics in Prometheus' text format."""
    return generate_latest(source)
