import json
from typing import Any

from puerta import __version__
from puerta.admin import page
from puerta.admin.status import build, readiness


def test_top(world: Any) -> None:
    status = build(world.role, world)
    assert json.loads(json.dumps(status)) == status
    assert {key: status[key] for key in ("name", "version", "pid", "generation", "state")} == {
        "name": "test",
        "version": __version__,
        "pid": world.board.master.get(0, "pid"),
        "generation": 3,
        "state": "running",
    }
    assert 90 <= status["uptime_seconds"] < 150


def test_workers(world: Any) -> None:
    workers = build(world.role, world)["workers"]
    assert [(each["seat"], each["state"], each["connections"], each["restarts"]) for each in workers] == [
        (0, "up", 3, 0),
        (0, "draining", 1, 0),
        (1, "up", 2, 1),
    ]
    assert all(0 <= each["heartbeat_age_seconds"] < 60 for each in workers)
    assert workers[0]["pid"] == world.board.children.get(0, "pid")
    assert (workers[0]["loop_lag_ms"], workers[0]["health_age_seconds"]) == (1.5, 0.25)
    assert workers[0]["scheduling"] == "batch"


def test_worker_without_a_row_yet(world: Any) -> None:
    world.board.children.set(1, "row", -1)
    world.board.children.set(1, "state", 1)
    found = next(each for each in build(world.role, world)["workers"] if each["seat"] == 1)
    assert (found["state"], found["connections"], found["heartbeat_age_seconds"]) == ("starting", 0, None)


def test_store(world: Any) -> None:
    def state() -> Any:
        return build(world.role, world)["store"]

    assert (state()["state"], state()["latency_ms"]) == ("up", 0.201)
    assert "s3cret" not in json.dumps(state())
    assert "10.0.0.9:6379" in state()["url"]
    world.board.workers.set(1, "store_up", 0)
    assert (state()["state"], state()["latency_ms"]) == ("partial", 0.2)
    world.board.workers.set(0, "store_up", 0)
    assert (state()["state"], state()["latency_ms"]) == ("down", None)
    world.no_workers()
    assert state()["state"] == "unknown"


def test_routes(world: Any) -> None:
    mongo, other = build(world.role, world)["routes"]
    assert mongo["listen"] == ["127.0.0.1:27017", "unix:/tmp/mongo.sock"]
    assert (mongo["name"], mongo["mode"], other["mode"]) == ("mongo", "mongodb", "tcp")
    assert (mongo["connections"], mongo["connections_total"]) == (6, 16)
    assert (mongo["bytes_in"], mongo["bytes_out"]) == (1600, 16000)
    assert mongo["closed"]["client_closed"] == 16
    assert sum(mongo["closed"].values()) == 16
    assert mongo["found"] == {"hit": 32, "claimed": 0, "moved": 0, "hash": 0, "none": 0}


def test_backends(world: Any) -> None:
    first, second = build(world.role, world)["routes"][0]["backends"]
    assert (first["id"], first["state"], first["weight"], first["effective_weight"]) == ("10.0.0.1:27017", "up", 2, 1.5)
    assert (first["connections"], first["connections_total"], first["connect_failures_total"]) == (4, 16, 7)
    check = first["check"]
    assert (check["ok"], check["latency_ms"], check["error"]) == (True, 0.8, None)
    assert 0 <= check["age_seconds"] < 60
    assert (second["id"], second["state"], second["downs"]) == ("[::1]:27018", "down", 2)
    assert (second["check"]["ok"], second["check"]["error"]) == (False, "connection refused")


def test_unchecked_backend(world: Any) -> None:
    world.verdict("other", "10.0.0.3:1", "starting", checked_ns=0, since_ns=0)
    backend = build(world.role, world)["routes"][1]["backends"][0]
    assert backend["state"] == "starting"
    assert backend["check"] == {"ok": None, "latency_ms": None, "error": None, "age_seconds": None, "warnings": []}
    assert "never" in page.render(build(world.role, world))


def failures(world: Any) -> dict[str, str]:
    return {name: why for name, why in readiness(build(world.role, world)) if why is not None}


def test_readiness(world: Any) -> None:
    assert failures(world) == {}
    world.verdict("mongo", "10.0.0.1:27017", "drain")
    assert failures(world) == {"route mongo": "no healthy backend"}
    world.verdict("mongo", "10.0.0.1:27017", "up")
    for state in ("booting", "draining", "stopping"):
        world.master(state)
        assert failures(world) == {"master": f"the master is {state}"}
    world.master("running")
    world.no_workers()
    assert failures(world) == {"workers": "no worker is up"}


def test_page_shows_and_escapes(world: Any) -> None:
    html = page.render(build(world.role, world))
    for shown in ("10.0.0.1:27017", "[::1]:27018", "connection refused", "&lt;b&gt;odd&lt;/b&gt;", "hit 32", "1.6 KiB"):
        assert shown in html
    for absent in ("<b>odd</b>", "<script", "s3cret", "http://", "https://"):
        assert absent not in html
    assert f"http-equiv=refresh content={page.REFRESH}" in html


def test_page_words() -> None:
    assert [page.duration(each) for each in (None, 0.26, 119, 120, 7300, 200_000)] == [
        "–",
        "0.3 s",
        "119.0 s",
        "2 m",
        "2 h",
        "2 d",
    ]
    assert [page.size(each) for each in (0, 1023, 1024, 1 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.0 MiB",
        "3.0 TiB",
    ]
