"""What the admin interface says of a route of mode redis: its nodes, its slots, its commands."""

import time
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from puerta.admin import metrics, page
from puerta.admin.cluster_status import NAMES, OTHER
from puerta.admin.status import build, readiness
from puerta.board import BUCKETS, CHILD_STATES, COMMANDS, MASTER_STATES, ROLES, Board
from puerta.config.schema import Address, Config, RedisRoute
from puerta.health.dial import Result
from puerta.health.snapshot import NodeState, Snapshot
from puerta.role import Role

SLOTS = 16384
GET, CONFIG_GET = NAMES.index("get"), NAMES.index("config|get")


class Cluster:
    """A running Puerta with a cluster of two masters and a replica, as its board and its supervisor show it."""

    def __init__(self) -> None:
        route = RedisRoute("cache", "redis", (Address("127.0.0.1", 6380),), (Address("10.0.0.1", 7001),))
        self.board = Board()
        self.board.lay_out([], ["cache"])
        self.role = Role("supervisor", -1, 200, 1, Config(routes=(route,), name="test"), "", self.board, "", -1)
        now = time.monotonic()
        up, down = Result(True, latency=0.0005, warnings=("<i>odd</i>",)), Result(False, error="timed out")
        self.shown = Snapshot(
            (
                NodeState("10.0.0.1:7001", "a" * 40, "master", "", "up", 10000, 0, 0, now - 9, now - 1, up),
                NodeState("10.0.0.2:7001", "b" * 40, "master", "", "down", 6384, 1, 2, now - 5, now - 1, down),
                NodeState("10.0.0.3:7001", "c" * 40, "replica", "10.0.0.1:7001", "starting", 0, -1),
            ),
            0, 5, 7, now - 2,
        )  # fmt: skip
        self.board.master.set(0, "state", MASTER_STATES.index("running"))
        self.board.children.set(0, "role", ROLES.index("worker"))
        self.board.children.set(0, "state", CHILD_STATES.index("up"))
        self.count()

    def count(self) -> None:
        table = self.board.redis("cache")
        for value, name in enumerate(table.columns, 1):
            table.set(0, name, value)
            table.set(9, name, 100)
        self.board.node("cache", 0).set(3, "connections", 4)
        self.board.node("cache", 0).set(3, "connect_us", 2_000_000)
        for value, name in enumerate(("lost", "in_flight", "commands_total", "errors", "timeouts"), 11):
            self.board.node("cache", 0).set(3, name, value)
            self.board.node("cache", 0).set(4, name, 100)
        self.call(0, GET, bucket=5, count=99, microseconds=4000)
        self.call(0, GET, bucket=13, count=1, microseconds=10_000)
        self.call(4, CONFIG_GET, bucket=20, count=2, microseconds=3_000_000)
        self.call(4, COMMANDS - 1, bucket=0, count=1, microseconds=1)
        self.call(4, COMMANDS - 2, bucket=0, count=1, microseconds=1)

    def call(self, row: int, command: int, bucket: int, count: int, microseconds: int) -> None:
        found = self.board.latency("cache")
        found.cells[found.index(row, command) + bucket] += count
        found.cells[found.sum_index(row, command)] += microseconds
        self.board.route("cache").add(row, "commands_total", count)

    def result(self, route: str, backend: str) -> Result | None:
        raise AssertionError("nodes have no verdict on the board")

    def cluster(self, route: str) -> Snapshot:
        assert route == "cache"
        return self.shown

    def status(self) -> dict[str, Any]:
        (found,) = build(self.role, self)["routes"]
        return dict(found)


@pytest.fixture
def cache() -> Cluster:
    return Cluster()


def test_nodes(cache: Cluster) -> None:
    first, second, third = cache.status()["backends"]
    assert (first["id"], first["node_id"], first["role"], first["state"]) == ("10.0.0.1:7001", "a" * 40, "master", "up")
    assert (first["slots"], first["weight"], first["connections"]) == (10000, 1, 4)
    assert first["connect_seconds_total"] == 2
    assert (first["connections_lost_total"], first["in_flight"], first["commands_total"]) == (111, 112, 113)
    assert (first["errors_total"], first["timeouts_total"]) == (114, 115)
    assert (first["check"]["ok"], first["check"]["latency_ms"], first["check"]["error"]) == (True, 0.5, None)
    assert 1 <= first["check"]["age_seconds"] < 60
    assert (second["state"], second["check"]["error"], second["downs"], second["connections"]) == (
        "down",
        "timed out",
        2,
        0,
    )
    assert (third["role"], third["master"], third["connections"]) == ("replica", "10.0.0.1:7001", 0)
    assert third["check"] == {"ok": None, "latency_ms": None, "error": None, "age_seconds": None, "warnings": []}


def test_counters(cache: Cluster) -> None:
    found = cache.status()
    assert (found["slots_covered"], found["topology_version"], found["topology_epoch"]) == (SLOTS, 7, 5)
    assert 2 <= found["topology_age_seconds"] < 60
    assert found["commands_total"] == 104
    assert found["redirects"] == {"moved": 102, "ask": 103, "tryagain": 104}
    upstreams = {"connections": 105, "failures_total": 106, "pinned": 107, "pinned_pool": 108}
    assert found["upstreams"] == upstreams | {"shared": {"resp2": 113, "resp3": 114}}
    assert (found["timeouts_total"], found["retries_total"], found["slow_calls_total"]) == (109, 110, 111)


def test_latencies(cache: Cluster) -> None:
    found = cache.status()["latency"]
    assert list(found) == ["all", "get", "config|get", OTHER]
    assert [each["count"] for each in found.values()] == [104, 100, 2, 2]
    assert 0.032 <= found["get"]["p50_ms"] <= 0.064
    assert found["get"]["p99_ms"] == 0.064
    assert 1048.576 < found["config|get"]["p50_ms"] < 2097.152


def test_no_command_was_called_yet(cache: Cluster) -> None:
    cache.role.board = Board()
    cache.role.board.lay_out([], ["cache"])
    assert cache.status()["latency"] == {"all": {"count": 0, "p50_ms": 0, "p95_ms": 0, "p99_ms": 0}}


def ready(cache: Cluster) -> dict[str, str | None]:
    return dict(readiness(build(cache.role, cache)))


def test_readiness(cache: Cluster) -> None:
    assert ready(cache)["route cache"] is None
    cache.shown = replace(cache.shown, uncovered=384)
    assert ready(cache)["route cache (16000 of 16384 slots have a node)"] is None
    cache.shown = replace(cache.shown, uncovered=SLOTS)
    assert ready(cache)["route cache"] == "no slot has a node"
    cache.shown = replace(cache.shown, nodes=cache.shown.nodes[1:], uncovered=0)
    assert ready(cache)["route cache"] == "no master is up"
    seed = NodeState("10.0.0.1:7001", "", "seed", "", "up", 0, -1)
    cache.shown = Snapshot((seed,), SLOTS, 0, 0, 0.0)
    assert ready(cache)["route cache"] == "no master is up"
    assert cache.status()["topology_age_seconds"] is None
    assert "never" in page.render(build(cache.role, cache))


def test_metrics(cache: Cluster) -> None:
    collector = metrics.BoardCollector(cache.board, lambda: build(cache.role, cache), "config")
    text = metrics.exposition(metrics.registry(collector)).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    route = ("route", "cache")
    command = ("command", "get")
    assert found["puerta_redis_slots_covered", route] == SLOTS
    assert found["puerta_redis_redirects_total", ("kind", "ask"), route] == 103
    assert found["puerta_redis_timeouts_total", route] == 109
    assert found["puerta_redis_pool_connections", route] == 108
    assert found["puerta_backend_up", ("backend", "10.0.0.1:7001"), route] == 1
    assert found["puerta_backend_connections", ("backend", "10.0.0.1:7001"), route] == 4
    assert found["puerta_redis_node_commands_total", ("backend", "10.0.0.1:7001"), route] == 113
    assert found["puerta_redis_node_calls", ("backend", "10.0.0.1:7001"), route] == 112
    assert found["puerta_redis_node_errors_total", ("backend", "10.0.0.2:7001"), route] == 0
    assert found["puerta_redis_shared_connections", ("protocol", "resp3"), route] == 114
    assert found["puerta_redis_node_slots", ("backend", "10.0.0.2:7001"), route] == 6384
    assert found["puerta_redis_node_role", ("backend", "10.0.0.3:7001"), ("role", "replica"), route] == 1
    name = "puerta_redis_command_duration_seconds"
    assert found[f"{name}_count", command, route] == 100
    assert found[f"{name}_sum", command, route] == pytest.approx(0.014)
    assert found[f"{name}_bucket", command, ("le", "3.2e-05"), route] == 0
    assert found[f"{name}_bucket", command, ("le", "6.4e-05"), route] == 99
    assert found[f"{name}_bucket", command, ("le", "+Inf"), route] == 100
    assert sum(key[0] == f"{name}_bucket" and command in key for key in found) == BUCKETS


def test_page(cache: Cluster) -> None:
    html = page.render(build(cache.role, cache))
    for shown in (
        "10.0.0.3:7001",
        "replica",
        "timed out",
        "&lt;i&gt;odd",
        "config|get",
        "moved 102",
        "16384 slots covered",
        "<td class=n>113</td><td class=n>114</td><td class=n>112</td>",
    ):
        assert shown in html
    assert "<i>" not in html
