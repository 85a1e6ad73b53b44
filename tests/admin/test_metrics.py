import os
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from puerta.admin import metrics, processes
from puerta.admin.status import build
from puerta.board import CLOSE_REASONS

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(world: Any) -> Samples:
    collector = metrics.BoardCollector(world.board, lambda: build(world.role, world), "config")
    text = metrics.exposition(metrics.registry(collector)).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type != "unknown"
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found  # a series twice spoils the whole scrape
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.mark.parametrize(
    ("expected", "name", "labels"),
    [
        (1, "puerta_config_last_reload_successful", {}),
        (1_700_000_000, "puerta_config_last_reload_success_timestamp_seconds", {}),
        (3, "puerta_config_generation", {}),
        (2, "puerta_workers", {"state": "up"}),
        (1, "puerta_workers", {"state": "draining"}),
        (0, "puerta_workers", {"state": "hung"}),
        (5, "puerta_worker_restarts_total", {}),
        (0.0015, "puerta_worker_loop_lag_seconds", {"seat": "0", "row": "2"}),
        (1, "puerta_worker_scheduled_as_batch", {"seat": "0", "row": "2"}),
        (1, "puerta_affinity_store_up", {}),
        (0.000201, "puerta_affinity_store_duration_seconds", {}),
        (6, "puerta_listener_connections", {"route": "mongo"}),
        (16, "puerta_listener_connections_total", {"route": "mongo"}),
        (0, "puerta_listener_connections_total", {"route": "other"}),
        (1600, "puerta_bytes_total", {"route": "mongo", "direction": "in"}),
        (16000, "puerta_bytes_total", {"route": "mongo", "direction": "out"}),
        (16, "puerta_connections_closed_total", {"route": "mongo", "reason": "client_closed"}),
        (32, "puerta_affinity_lookups_total", {"route": "mongo", "result": "hit"}),
        (1, "puerta_backend_up", {"route": "mongo", "backend": "10.0.0.1:27017"}),
        (0, "puerta_backend_up", {"route": "mongo", "backend": "[::1]:27018"}),
        (1, "puerta_backend_state", {"route": "mongo", "backend": "[::1]:27018", "state": "down"}),
        (0, "puerta_backend_state", {"route": "mongo", "backend": "[::1]:27018", "state": "up"}),
        (1.5, "puerta_backend_weight", {"route": "mongo", "backend": "10.0.0.1:27017"}),
        (2, "puerta_backend_ejections_total", {"route": "mongo", "backend": "[::1]:27018"}),
        (4, "puerta_backend_connections", {"route": "mongo", "backend": "10.0.0.1:27017"}),
        (7, "puerta_backend_connect_failures_total", {"route": "mongo", "backend": "10.0.0.1:27017"}),
        (16, "puerta_backend_connect_duration_seconds_count", {"route": "mongo", "backend": "10.0.0.1:27017"}),
        (0.032, "puerta_backend_connect_duration_seconds_sum", {"route": "mongo", "backend": "10.0.0.1:27017"}),
        (0.0008, "puerta_backend_check_duration_seconds", {"route": "mongo", "backend": "10.0.0.1:27017"}),
    ],
)
def test_values(world: Any, expected: float, name: str, labels: dict[str, str]) -> None:
    assert value(scrape(world), name, **labels) == pytest.approx(expected)


def test_info_and_processes(world: Any) -> None:
    found = scrape(world)
    assert any(name == "puerta_build_info" for name, _ in found)
    assert any(name == "puerta_config_hash_info" for name, _ in found)
    assert value(found, "puerta_process_resident_memory_bytes", role="master", seat="", row="") > 1 << 20
    assert value(found, "puerta_process_open_fds", role="worker", seat="0", row="2") > 2
    assert value(found, "puerta_process_cpu_seconds_total", role="supervisor", seat="-1", row="3") > 0


def test_series_are_bounded_and_name_no_client(world: Any) -> None:
    before = set(scrape(world))
    for row in range(256):
        world.board.route("mongo").add(row, "connections_total", 1000)
    after = scrape(world)
    assert set(after) == before
    assert {label for _, labels in before for label, _ in labels} == {
        "backend", "direction", "hash", "name", "reason", "result", "role", "route", "row", "seat", "state", "version",
    }  # fmt: skip
    closed = [labels for name, labels in before if name == "puerta_connections_closed_total"]
    assert len(closed) == 2 * len(CLOSE_REASONS)


def test_two_workers_on_one_seat_are_two_series(world: Any) -> None:
    found = scrape(world)
    rows = [dict(labels)["row"] for name, labels in found if name == "puerta_worker_heartbeat_age_seconds"]
    assert sorted(rows) == ["0", "1", "2"]


def test_usage_of_a_process() -> None:
    used = processes.usage(os.getpid())
    assert used is not None
    assert used.cpu > 0
    assert used.resident > 1 << 20
    assert used.descriptors is not None
    assert processes.usage(0) is None
