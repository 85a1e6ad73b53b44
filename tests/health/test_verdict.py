from hypothesis import given
from hypothesis import strategies as st

from puerta.health.verdict import DOWN, DRAIN, STARTING, UP, Verdict


def fed(verdict: Verdict, results: str, now: float = 0.0) -> list[str]:
    """States after each result: g good, b bad, d drain, a accused by a worker."""
    states = []
    for result in results:
        now += 1
        if result == "a":
            verdict.accuse()
        else:
            verdict.take(result == "g", result == "d", now)
        states.append(verdict.state)
    return states


def test_first_result_decides_at_once() -> None:
    assert fed(Verdict(2, 3, 5.0), "g") == [UP]
    assert fed(Verdict(2, 3, 5.0), "b") == [DOWN]
    assert fed(Verdict(2, 3, 5.0), "d") == [DRAIN]


def test_fall_and_rise() -> None:
    assert fed(Verdict(2, 3, 5.0), "gbbgbbbgbgg") == [UP] * 6 + [DOWN] * 4 + [UP]


def test_drain_at_once_recovers_by_rise_and_dies_by_fall() -> None:
    assert fed(Verdict(2, 3, 5.0), "gdgdgg") == [UP, DRAIN, DRAIN, DRAIN, DRAIN, UP]
    assert fed(Verdict(2, 3, 5.0), "gdbbb") == [UP, DRAIN, DRAIN, DRAIN, DOWN]
    assert fed(Verdict(2, 3, 5.0), "bd") == [DOWN, DOWN]  # what is down stays down until it is good again


def test_downs_and_since() -> None:
    verdict = Verdict(1, 1, 5.0)
    fed(verdict, "gbgdb")
    assert (verdict.downs, verdict.since) == (3, 5.0)


def test_workers_accusations_hasten_but_never_decide() -> None:
    assert fed(Verdict(2, 3, 5.0), "g" + "a" * 50) == [UP] * 51
    assert fed(Verdict(2, 3, 5.0), "gaaab")[-2:] == [UP, DOWN]
    assert fed(Verdict(2, 3, 5.0), "gaagbb")[-1] == UP  # a good check clears them
    assert fed(Verdict(2, 1, 5.0), "gaaa")[-1] == UP
    assert fed(Verdict(2, 3, 5.0), "aaa") == [STARTING] * 3


def test_an_accusation_never_takes_evidence_back() -> None:
    verdict = Verdict(2, 5, 5.0)
    fed(verdict, "gbbbba")
    assert verdict.bad == 4


def test_intervals() -> None:
    verdict = Verdict(2, 3, 5.0)
    middle = 0.5  # of the jitter
    fed(verdict, "g")
    assert verdict.interval(middle) == 5.0
    fed(verdict, "b")
    assert verdict.interval(middle) == 0.25
    fed(verdict, "g")
    verdict.suspect()
    assert verdict.interval(middle) == 0.25
    fed(verdict, "bbb")
    pauses = []
    for _ in range(20):
        pauses.append(verdict.interval(middle))
        fed(verdict, "b")
    assert pauses[0] == 1.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    fed(verdict, "g")
    assert verdict.interval(middle) == 0.25
    assert Verdict(2, 3, 0.1).interval(middle) == 0.1


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_is_ten_percent(random: float) -> None:
    verdict = Verdict(2, 3, 10.0, state=UP)
    assert 9.0 <= verdict.interval(random) <= 11.0


def test_slow_start_ramps_who_came_back() -> None:
    verdict = Verdict(1, 1, 5.0, slow_start=10.0)
    verdict.take(True, False, 100.0)
    assert verdict.weight_milli(4, 100.0) == 4000  # at boot there is no ramp
    verdict.take(False, False, 110.0)
    verdict.take(True, False, 200.0)
    assert [verdict.weight_milli(4, 200.0 + after) for after in (-1, 0, 5, 10, 99)] == [400, 400, 2200, 4000, 4000]
    assert verdict.weight_milli(0, 205.0) == 0
    verdict.take(False, False, 205.0)
    assert verdict.weight_milli(4, 205.0) == 4000  # the state says it is down, the weight does not


@given(st.integers(1, 5), st.integers(1, 5), st.text("gbda", max_size=200))
def test_state_changes_are_bounded_by_rise_and_fall(rise: int, fall: int, results: str) -> None:
    verdict = Verdict(rise, fall, 5.0)
    before, goods, bads = STARTING, 0, 0
    for result in results:
        if result == "g":
            goods, bads = goods + 1, 0
        elif result == "d":
            goods, bads = 0, 0
        elif result == "b" or before == UP:
            goods, bads = 0, bads + 1
        state = fed(verdict, result)[0]
        if state == before:
            continue
        if before != STARTING:
            assert state != UP or (result == "g" and goods >= rise)
            assert state != DOWN or (result == "b" and bads >= fall)
            assert state != DRAIN or (result == "d" and before == UP)
        before, goods, bads = state, 0, 0


@given(st.integers(1, 5), st.integers(2, 5), st.lists(st.integers(1, 4), max_size=40))
def test_flapping_within_fall_never_moves(rise: int, fall: int, runs: list[int]) -> None:
    verdict = Verdict(rise, fall, 5.0)
    flaps = "g" + "".join("b" * min(run, fall - 1) + "g" for run in runs)
    assert set(fed(verdict, flaps)) == {UP}
    assert verdict.downs == 0
