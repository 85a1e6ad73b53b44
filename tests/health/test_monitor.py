import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest import LogCaptureFixture

from puerta.board import BACKEND_STATES, Board
from puerta.config.schema import Address, Config, TcpRoute
from puerta.health import checks, publish
from puerta.health.dial import Result
from puerta.health.monitor import Monitor


@pytest.fixture
def watched() -> Iterator[Callable[..., Any]]:
    """Starts a Monitor over a fresh board, or over the given one."""
    made: list[Monitor] = []

    def start(*routes: TcpRoute, board: Board | None = None) -> Any:
        table = board or Board(1 << 20)
        table.lay_out((route.name, [backend.id for backend in route.backends]) for route in routes)
        reports: list[tuple[publish.Report, bool]] = []
        one = Monitor(Config(routes=routes), table, lambda *report: reports.append(report))
        one.start()
        made.append(one)
        return one, table, reports

    yield start
    for one in made:
        one.stop(2.0)


def state(board: Board, route: TcpRoute) -> str:
    return BACKEND_STATES[board.verdict(route.name, route.backends[0].id).get(0, "state")]


@pytest.fixture(autouse=True)
def heard(caplog: LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("puerta"), "propagate", True)
    caplog.set_level(logging.INFO, "puerta")


def test_killed_backend_is_out_within_a_second_and_back_after_rise(
    mongo: Any, watched: Any, route_to: Any, wait_for: Any, caplog: LogCaptureFixture
) -> None:
    route = route_to(Address(*mongo.address), every=5.0)
    _, board, reports = watched(route)
    wait_for(lambda: state(board, route) == "up")
    mongo.kill()
    assert wait_for(lambda: state(board, route) == "down") < 1.5  # no client was needed, nor the 5 s interval
    cells = board.verdict(route.name, route.backends[0].id).row(0)
    assert (cells["ok"], cells["downs"]) == (0, 1)
    assert time.monotonic_ns() - cells["since_ns"] < 2e9
    mongo.start()
    assert wait_for(lambda: state(board, route) == "up") < 5
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" is ")[1].split(" ")[0] for line in lines] == ["up", "down", "up"]
    assert "connection" in lines[1]
    assert [report.state for report, changed in reports if changed] == ["up", "down", "up"]


def test_frozen_backend_falls(mongo: Any, watched: Any, route_to: Any, wait_for: Any) -> None:
    route = route_to(Address(*mongo.address), every=0.5, timeout=0.2)
    _, board, _ = watched(route)
    wait_for(lambda: state(board, route) == "up")
    mongo.freeze()
    wait_for(lambda: state(board, route) == "down", 5)
    mongo.thaw()
    wait_for(lambda: state(board, route) == "up", 5)


def test_workers_failed_connects_bring_the_check_forward(
    scripted: Any, watched: Any, route_to: Any, wait_for: Any
) -> None:
    peer = scripted()
    route = route_to(peer.address, mode="tcp", every=60.0)
    _, board, _ = watched(route)
    wait_for(lambda: state(board, route) == "up")
    peer.close()
    counters = board.backend(route.name, route.backends[0].id)
    time.sleep(0.3)
    assert state(board, route) == "up"
    counters.add(3, "connect_failures", 2)
    assert wait_for(lambda: state(board, route) == "down") < 1.5


def test_a_worker_alone_can_not_take_a_backend_down(scripted: Any, watched: Any, route_to: Any, wait_for: Any) -> None:
    route = route_to(scripted().address, mode="tcp", every=60.0)
    _, board, reports = watched(route)
    wait_for(lambda: state(board, route) == "up")
    counters = board.backend(route.name, route.backends[0].id)
    for _ in range(50):
        counters.add(0, "connect_failures")
        time.sleep(0.02)
    assert state(board, route) == "up"
    assert 2 <= len(reports) <= 14  # it was looked at again, at most each tenth of a second


def test_another_machines_loss_is_looked_into(scripted: Any, watched: Any, route_to: Any, wait_for: Any) -> None:
    peer = scripted()
    route = route_to(peer.address, mode="tcp", every=60.0, fall=1)
    one, board, reports = watched(route)
    wait_for(lambda: state(board, route) == "up")
    one.hear(route.name, route.backends[0].id)
    wait_for(lambda: len(reports) == 2)
    assert state(board, route) == "up"  # we believe our own eyes
    peer.close()
    one.hear(route.name, "unknown:1")
    one.hear(route.name, route.backends[0].id)
    wait_for(lambda: state(board, route) == "down", 2)


def test_new_supervisor_keeps_the_verdicts(scripted: Any, watched: Any, route_to: Any, wait_for: Any) -> None:
    peer = scripted()
    route = route_to(peer.address, mode="tcp", every=0.1)
    first, board, _ = watched(route)
    wait_for(lambda: state(board, route) == "up")
    peer.close()
    wait_for(lambda: state(board, route) == "down")
    first.stop(2)
    before = board.verdict(route.name, route.backends[0].id).row(0)
    _, _, reports = watched(route, board=board)
    wait_for(lambda: len(reports) > 1)
    after = board.verdict(route.name, route.backends[0].id).row(0)
    assert [after[name] for name in ("state", "downs", "since_ns")] == [
        before[name] for name in ("state", "downs", "since_ns")
    ]
    assert not any(changed for _, changed in reports)


def test_weights_stand_before_the_first_check_and_ramp_after_a_return(
    scripted: Any, watched: Any, route_to: Any, wait_for: Any
) -> None:
    peer = scripted()
    peer.reply = None
    slow = route_to(peer.address, weight=3, every=0.1, timeout=5.0, rise=1, slow_start=30.0)
    _, board, _ = watched(slow)
    cells = board.verdict(slow.name, slow.backends[0].id)
    assert (state(board, slow), cells.get(0, "weight_milli")) == ("starting", 3000)
    other = scripted()
    back = route_to(other.address, mode="tcp", name="back", weight=2, every=0.1, rise=1, fall=1, slow_start=30.0)
    seeded = Board(1 << 20)
    row = seeded.verdict(back.name, back.backends[0].id)
    row.set(0, "state", BACKEND_STATES.index("down"))
    row.set(0, "downs", 1)
    row.set(0, "checked_ns", 1)
    watched(back, board=seeded)
    wait_for(lambda: state(seeded, back) == "up")
    first = row.get(0, "weight_milli")  # from the first moment
    assert 200 <= first < 700
    wait_for(lambda: row.get(0, "weight_milli") > first)


def test_a_warning_is_logged_once_per_change(
    scripted: Any, watched: Any, route_to: Any, wait_for: Any, caplog: LogCaptureFixture
) -> None:
    peer = scripted()
    peer.reply |= {"setName": "rs0"}
    route = route_to(peer.address, every=0.1)
    one, _, reports = watched(route)
    wait_for(lambda: len(reports) > 5)
    assert sum("bypass" in record.getMessage() for record in caplog.records) == 1
    result = one.result(route.name, route.backends[0].id)
    assert result is not None
    assert result.warnings


def test_a_check_that_raises_is_a_failed_check(
    watched: Any, route_to: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch, caplog: LogCaptureFixture
) -> None:
    class Broken:
        def check(self) -> Result:
            raise ZeroDivisionError

        def close(self) -> None: ...

    monkeypatch.setitem(checks.CHECKS, "tcp", lambda *_: Broken())
    route = route_to(Address("127.0.0.1", 9), mode="tcp", every=0.1)
    one, board, reports = watched(route)
    wait_for(lambda: len(reports) > 3)
    assert state(board, route) == "down"
    assert "ZeroDivisionError" in one.result(route.name, route.backends[0].id).error
    assert sum(record.exc_info is not None for record in caplog.records) == 1


def test_stop_ends_every_thread(scripted: Any, watched: Any, route_to: Any, wait_for: Any) -> None:
    peers = [scripted() for _ in range(5)]
    one, _, reports = watched(route_to(*(peer.address for peer in peers)))
    wait_for(lambda: len(reports) == 5)
    started = time.monotonic()
    one.stop(5.0)
    assert time.monotonic() - started < 3
    assert not any(watch.thread.is_alive() for watch in one.watches.values())
