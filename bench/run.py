"""Runs the benchmark: pairs of samples, Puerta and a peer, loaded by turns, A B B A.

    python -m bench                                   everything: about half an hour
    python -m bench --only tcp-small --peers haproxy  one comparison
    python -m bench --quick                           a few short ones, under 50 s
    WORKERS=2 python -m bench                         two workers or threads on every side

Absolute figures drift with what else the machine does. The ratio of two samples of the same seconds does not, so each
ratio is taken within a pair, and the median over the pairs is what counts.
"""

import argparse
import datetime
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import machine, programs
from bench.backends import Backend
from bench.load import LoadFailed
from bench.peers import SIDES
from bench.ratios import Ratio, line, ratios
from bench.scenarios import BACKENDS, QUICK, SCENARIOS, IdleScenario, Sample, Scenario

LATEST = programs.HERE / "results" / "latest.json"
FORMAT = 2
UNMEASURED = (LoadFailed, RuntimeError, TimeoutError, OSError)


@dataclass
class Comparison:
    """One scenario against one peer, and the samples so far."""

    scenario: Scenario
    peer: str
    pairs: list[tuple[Sample, Sample]] = field(default_factory=list)
    failure: str | None = None

    def ratios(self) -> dict[str, Ratio]:
        return ratios([(subject.measures, peer.measures) for subject, peer in self.pairs])


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    subject: str
    workers: int
    pairs: int
    seconds: float
    out: Path
    comparisons: list[Comparison]

    def sides(self) -> list[str]:
        return list(dict.fromkeys([self.subject, *(comparison.peer for comparison in self.comparisons)]))


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, help="pairs of samples for each comparison (5)")
    parser.add_argument("--seconds", type=float, help="of load on each side in a pair (3)")
    parser.add_argument("--only", type=names, help=f"scenarios: {','.join(SCENARIOS)}")
    parser.add_argument("--peers", type=names, help=f"peers: {','.join(SIDES)}")
    parser.add_argument("--quick", action="store_true", help=f"one short pair each of {', '.join(QUICK)}")
    parser.add_argument("--subject", default="puerta", choices=SIDES, help="the side that is compared (puerta)")
    parser.add_argument("--out", type=Path, default=LATEST, help="results file (bench/results/latest.json)")
    return parser.parse_args(words)


def names(text: str) -> list[str]:
    """An option's list: NAME,NAME."""
    return [name for name in text.split(",") if name]


def make_plan(options: argparse.Namespace, workers: int) -> Plan:
    """Raises SystemExit for a scenario or a peer that does not exist."""
    chosen = pick(options.only, list(QUICK) if options.quick else list(SCENARIOS), SCENARIOS, "scenario")
    wanted = pick(options.peers, [], SIDES, "peer")
    comparisons = []
    for name in chosen:
        scenario = SCENARIOS[name]
        usual = (QUICK[name],) if options.quick and name in QUICK else scenario.peers
        for peer in wanted or usual:
            obstacle = unfit(scenario, peer, workers) or (peer == options.subject and "a side can't meet itself")
            if obstacle:
                print(f"skip {name} {peer}: {obstacle}", file=sys.stderr)
            else:
                comparisons.append(Comparison(scenario, peer))
    if not comparisons:
        raise SystemExit("bench: nothing left to compare")
    return Plan(
        options.subject, workers, options.pairs or (1 if options.quick else 5),
        options.seconds or (1.0 if options.quick else 3.0), options.out, comparisons,
    )  # fmt: skip


def pick(asked: list[str] | None, usual: list[str], known: dict[str, Any], what: str) -> list[str]:
    unknown = [name for name in asked or [] if name not in known]
    if unknown:
        raise SystemExit(f"bench: no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    return asked or usual


def unfit(scenario: Scenario, peer: str, workers: int) -> str | None:
    """Why a peer can't take part, in words; None if it can."""
    side = SIDES[peer]
    if scenario.mode not in side.modes:
        return f"it has no mode {scenario.mode}"
    if side.threads_most is not None and workers > side.threads_most:
        return f"it can't have {workers} workers"
    if peer == "direct" and scenario.name.endswith("idle"):
        return "there is no proxy to weigh"
    return None


# -- measuring ---------------------------------------------------------------------------------------------------------


def run(plan: Plan, hello: str) -> None:
    """Fill every comparison of the plan, backend by backend; print each result line as soon as it is known."""
    for name, group in itertools.groupby(plan.comparisons, lambda comparison: comparison.scenario.backend):
        comparisons = list(group)
        try:
            with BACKENDS[name](hello) as backend:
                for _, some in itertools.groupby(comparisons, lambda comparison: comparison.scenario.name):
                    run_scenario(plan, list(some), backend)
        except UNMEASURED as error:
            for comparison in comparisons:
                if not comparison.pairs:
                    fail(comparison, f"the backend `{name}`: {error}")


def fail(comparison: Comparison, reason: str) -> None:
    """It ends this comparison, not the run."""
    comparison.failure = reason
    print(f"FAILED {comparison.scenario.name} {comparison.peer}: {reason}", file=sys.stderr, flush=True)


def run_scenario(plan: Plan, comparisons: list[Comparison], backend: Backend) -> None:
    for number in range(plan.pairs):
        for comparison in comparisons:
            if comparison.failure is None:
                run_pair(plan, comparison, backend, number)
    for comparison in comparisons:
        if comparison.failure is None:
            print(line(comparison.scenario.name, comparison.peer, comparison.ratios()), flush=True)


def run_pair(plan: Plan, comparison: Comparison, backend: Backend, number: int) -> None:
    """One sample of each side."""
    scenario = comparison.scenario
    sides = (plan.subject, comparison.peer)
    try:
        subject, peer = scenario.pair([SIDES[side] for side in sides], backend, plan.workers, plan.seconds)
    except UNMEASURED as error:
        return fail(comparison, str(error))
    for side, sample in zip(sides, (subject, peer), strict=True):
        figures = " ".join(f"{measure}={figure:.4g}" for measure, figure in sample.measures.items())
        print(f"  {scenario.name} pair {number + 1} {side}: {figures}", file=sys.stderr, flush=True)
    comparison.pairs.append((subject, peer))


# -- results -----------------------------------------------------------------------------------------------------------


def results(plan: Plan, began: datetime.datetime, digests: dict[str, str]) -> dict[str, Any]:
    """The whole run as it is written: machine, versions, raw samples, ratios."""
    return {
        "format": FORMAT,
        "date": began.isoformat(timespec="seconds"),
        "subject": plan.subject,
        "workers": plan.workers,
        "pairs": plan.pairs,
        "seconds": plan.seconds,
        "machine": machine.describe(),
        "versions": {side: SIDES[side].version() for side in plan.sides()},
        "configs": digests,
        "comparisons": [
            {
                "scenario": comparison.scenario.name,
                "about": comparison.scenario.about,
                "peer": comparison.peer,
                "ratios": {label: asdict(ratio) for label, ratio in comparison.ratios().items()},
                "failure": comparison.failure,
                "pairs": [{"subject": asdict(subject), "peer": asdict(peer)} for subject, peer in comparison.pairs],
            }
            for comparison in plan.comparisons
        ],
    }


def digests(plan: Plan) -> dict[str, str]:
    """SHA-256 of each side's configuration in each scenario, by `SCENARIO/SIDE`."""
    found = {}
    for comparison in plan.comparisons:
        for name in (plan.subject, comparison.peer):
            task = comparison.scenario.task(Backend((10001, 10002, 10003), single=10004), plan.workers)
            side = SIDES[name](task)
            found[f"{comparison.scenario.name}/{name}"] = side.digest()
            side.stop()
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n")
    fresh.replace(path)


def workers() -> int:
    """WORKERS of the environment. Raises SystemExit when it is no number of workers."""
    text = os.environ.get("WORKERS") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise SystemExit(f"bench: WORKERS is {text!r}, not a number of workers")
    return int(text)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """TERM unwinds like ^C, so that every side and backend is stopped."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(words: list[str] | None = None) -> int:
    """0 = every comparison was made, 1 = some failed (what was measured is written all the same)."""
    plan = make_plan(arguments(words), workers())
    os.environ.pop("PORT", None)  # Puerta would listen there instead
    needs = [need for comparison in plan.comparisons for need in comparison.scenario.needs]
    programs.require([*needs, *(need for side in plan.sides() for need in SIDES[side].needs)])
    idle = any(isinstance(comparison.scenario, IdleScenario) for comparison in plan.comparisons)
    machine.raise_descriptor_limit(machine.DESCRIPTORS if idle else 0)
    began = datetime.datetime.now(datetime.UTC)
    with ended_in_order(), tempfile.TemporaryDirectory(prefix="puerta-bench-") as directory:
        needs_hello = any(comparison.scenario.backend == "hello" for comparison in plan.comparisons)
        try:
            run(plan, programs.build_hello(Path(directory)) if needs_hello else "")
        finally:
            write(plan.out, results(plan, began, digests(plan)))
    print(f"written: {plan.out}", file=sys.stderr)
    return 1 if any(comparison.failure for comparison in plan.comparisons) else 0
