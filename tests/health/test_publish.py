import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from puerta.board import VERDICT, Board
from puerta.health import publish
from puerta.health.dial import Result
from puerta.health.publish import Report, StorePublisher, parse_event
from puerta.health.verdict import Verdict

NODE = "here/puerta"


def report(backend: str = "127.0.0.1:1", state: str = "up", route: str = "mongo") -> Report:
    return Report(route, backend, state, state == "up", 0.0012, "" if state == "up" else "gone", time.time())


@pytest.fixture
def publisher() -> Iterator[Callable[..., StorePublisher]]:
    made: list[StorePublisher] = []

    def make(server: Any, node: str = NODE, every: float = 0.2) -> StorePublisher:
        heard: list[tuple[str, str]] = []
        one = StorePublisher(f"unix://{server.address}", "ns", node, {"mongo": every}, lambda *lost: heard.append(lost))
        one.heard_so_far = heard  # type: ignore[attr-defined]
        one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop(3.0)


def stored(server: Any) -> dict[str, Any]:
    with redis.Redis(unix_socket_path=server.address, decode_responses=True) as client:
        return {field: json.loads(value) for field, value in client.hgetall("ns:health:mongo").items()}


def test_board_row_and_back() -> None:
    table = Board(1 << 20).verdict("mongo", "b")
    assert publish.read(table, Verdict(2, 3, 5.0)) is None
    verdict = Verdict(2, 3, 5.0, state="drain", since=12.5, downs=4)
    publish.write(table, verdict, Result(False, drain=True, latency=0.0015), 20.25)
    assert table.row(0) == dict(zip(VERDICT, (3, 0, 1500, 20_250_000_000, 4, 12_500_000_000, 0), strict=True))
    again = Verdict(2, 3, 5.0)
    result = publish.read(table, again)
    assert (again.state, again.since, again.downs) == ("drain", 12.5, 4)
    assert result == Result(False, latency=0.0015)


def test_hash_expires_unless_refreshed(valkey: Any, publisher: Any, wait_for: Any) -> None:
    one = publisher(valkey)
    one.offer(report(), True)
    one.offer(report("127.0.0.1:2", "down"), True)
    wait_for(lambda: len(stored(valkey)) == 2)
    time.sleep(1.2)  # longer than the time to live: it was refreshed
    found = stored(valkey)
    assert set(found) == {f"127.0.0.1:1@{NODE}", f"127.0.0.1:2@{NODE}"}
    down = found[f"127.0.0.1:2@{NODE}"]
    assert (down["state"], down["ok"], down["error"], down["node"]) == ("down", False, "gone", NODE)
    assert abs(down["at"] - time.time()) < 60
    one.stop(3.0)
    wait_for(lambda: not stored(valkey), 5)


def test_changes_reach_other_nodes(valkey: Any, publisher: Any, wait_for: Any) -> None:
    here, there = publisher(valkey), publisher(valkey, "there/puerta")
    wait_for(lambda: here.up and there.up)
    here.offer(report(), True)
    here.offer(report(state="down"), False)
    here.offer(report(state="down"), True)
    here.offer(report(state="drain"), True)
    wait_for(lambda: len(there.heard_so_far) == 2)
    assert there.heard_so_far == [("mongo", "127.0.0.1:1")] * 2


def test_event_line(valkey: Any, publisher: Any, wait_for: Any) -> None:
    with redis.Redis(unix_socket_path=valkey.address) as client, client.pubsub() as ears:
        ears.subscribe("ns:events")
        one = publisher(valkey)
        one.offer(report(state="down"), True)
        got: list[Any] = []
        wait_for(lambda: got.append(ears.get_message(ignore_subscribe_messages=True, timeout=0.05)) or got[-1])
    event = json.loads(got[-1]["data"])
    assert abs(event.pop("at") - time.time()) < 60
    assert event == {"event": "verdict", "route": "mongo", "backend": "127.0.0.1:1", "state": "down", "node": NODE}


def test_what_nobody_refreshes_is_forgotten(valkey: Any, publisher: Any, wait_for: Any) -> None:
    old = json.dumps({"at": time.time() - 3600})
    fresh = json.dumps({"at": time.time()})
    with redis.Redis(unix_socket_path=valkey.address) as client:
        client.hset(
            "ns:health:mongo",
            mapping={"a@gone": old, "b@there": fresh, f"removed@{NODE}": fresh, "c@broken": "not json", "d@odd": "[]"},
        )
    one = publisher(valkey)
    one.offer(report(), False)
    one.offer(replace(report("left:1"), at=time.time() - 3600), False)  # a node that left its cluster an hour ago
    with redis.Redis(unix_socket_path=valkey.address, decode_responses=True) as client:
        wait_for(lambda: set(client.hkeys("ns:health:mongo")) == {f"127.0.0.1:1@{NODE}", "b@there"})


def test_a_lost_store_costs_a_line_and_comes_back(
    valkey: Any, publisher: Any, wait_for: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("puerta"), "propagate", True)
    monkeypatch.setattr(publish, "RETRY", 0.02)
    caplog.set_level(logging.INFO, "puerta")
    one = publisher(valkey)
    wait_for(lambda: one.up)
    valkey.kill()
    wait_for(lambda: not one.up)
    for _ in range(3 * publish.QUEUE):
        one.offer(report(state="down"), True)
    assert len(one.changes) == publish.QUEUE
    time.sleep(0.5)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    valkey.start()
    wait_for(lambda: one.up and not one.changes)
    assert stored(valkey)[f"127.0.0.1:1@{NODE}"]["state"] == "down"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_hung_store_delays_nobody(valkey: Any, publisher: Any, wait_for: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(publish, "TIMEOUT", 0.2)
    one = publisher(valkey)
    wait_for(lambda: one.up)
    valkey.freeze()
    started = time.monotonic()
    for _ in range(100):
        one.offer(report(state="down"), True)
    assert time.monotonic() - started < 0.5
    wait_for(lambda: not one.up)
    valkey.thaw()
    wait_for(lambda: one.up and not one.changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b"{}",
        b'{"event": "verdict", "state": "up", "route": "r", "backend": "b"}',
        b'{"event": "override", "state": "down", "route": "r", "backend": "b"}',
        b'{"event": "verdict", "state": "down", "route": 1, "backend": "b"}',
        b'{"event": "verdict", "state": ["down"], "route": "r", "backend": "b"}',
        b'{"event": "verdict", "state": "down", "route": "r"}',
        b"[" * 4000,
        b'{"event": "verdict", "state": "down", "route": "r", "backend": "' + b"b" * 5000 + b'"}',
    ],
)
def test_odd_events_are_ignored(data: bytes) -> None:
    assert parse_event(data) is None


def test_event_of_a_loss() -> None:
    data = b'{"event": "verdict", "state": "drain", "route": "r", "backend": "b", "node": "x", "at": 1}'
    assert parse_event(data) == ("r", "b")
