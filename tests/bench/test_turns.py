"""Pairs: two sides that are up together and loaded by turns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bench.backends import Backend
from bench.load import LoadFailed, Report
from bench.peers import Direct, Side
from bench.scenarios import TURN, LoadScenario, Sample, together

Work = Callable[[str], Report]


def kind(name_: str, gone_: bool = False) -> type[Side]:
    """A side that needs no process: it only stands for its name."""

    class Stand(Direct):
        name = name_

        def gone(self) -> bool:
            return gone_

        def log(self) -> str:
            return f"{name_} said this last"

        def stop(self) -> None:
            super().stop()
            STOPPED.append(name_)

    return Stand


STOPPED: list[str] = []


@dataclass(frozen=True)
class Scripted(LoadScenario):
    """Its work is a function of the test."""

    on_work: Work = lambda name: Report(100, 1.0, 1.0, 2.0)

    def serves(self, port: int, backend: Backend) -> bool:
        return True

    def pace(self, side: Side, backend: Backend) -> float:
        return 1000.0

    def work(self, side: Side, backend: Backend, pace: float, seconds: float) -> Report:
        assert (pace, seconds) == (1000.0, TURN)
        return self.on_work(side.name)


def scripted(on_work: Work, kinds: Any = None, turns: int = 4) -> list[Sample]:
    STOPPED.clear()
    scenario = Scripted("scripted", "", "tcp", (), "single", on_work=on_work)
    return scenario.pair(kinds or [kind("a"), kind("b")], Backend((1,)), 1, turns * TURN)


def test_sides_take_turns_and_neither_is_always_the_first() -> None:
    order: list[str] = []

    def work(name: str) -> Report:
        order.append(name)
        assert STOPPED == []  # both are up
        return Report(len(order), 1.0, 1.0, 2.0)

    first, second = scripted(work)
    assert "".join(order) == "abbaabba"
    assert [turn["detail"]["operations"] for turn in first.detail["turns"]] == [1, 4, 5, 8]
    assert [turn["detail"]["operations"] for turn in second.detail["turns"]] == [2, 3, 6, 7]
    assert sorted(STOPPED) == ["a", "b"]


def test_there_is_a_turn_however_short_the_load() -> None:
    first, second = scripted(lambda name: Report(7, 1.0, 1.0, 2.0), turns=0)
    assert first.measures == second.measures == {"throughput": 7.0, "p50_ms": 1.0, "p99_ms": 2.0}


def test_a_sample_is_the_median_of_its_turns() -> None:
    turns = [Sample({"cpu_us": cost, "p99_ms": 1.0}, {}) for cost in (10.0, 11.0, 90.0)]
    assert together(turns).measures == {"cpu_us": 11.0, "p99_ms": 1.0}


def test_a_failure_names_its_side_alone_and_stops_both() -> None:
    def work(name: str) -> Report:
        if name == "b":
            raise LoadFailed("nothing came back")
        return Report(100, 1.0, 1.0, 2.0)

    with pytest.raises(LoadFailed, match="nothing came back") as failed:
        scripted(work)
    assert str(failed.value) == "b: nothing came back\nb said this last"
    assert sorted(STOPPED) == ["a", "b"]


def test_a_side_that_ends_at_once_is_a_failure() -> None:
    with pytest.raises(LoadFailed, match=r"^b: it has ended"):
        scripted(lambda name: Report(100, 1.0, 1.0, 2.0), [kind("a"), kind("b", gone_=True)])
    assert sorted(STOPPED) == ["a", "b"]
