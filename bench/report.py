"""Writes docs/performance.md and docs/performance.svg from results files.

    python -m bench.report                                                     from bench/results/latest.json
    python -m bench.report bench/results/one.json bench/results/two.json       several runs, such as WORKERS=1 and 2

Runs with the same subject and number of workers are merged: of two figures for one comparison the later file's counts.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import programs
from bench.chart import Bar, draw
from bench.ratios import medians
from bench.run import FORMAT, LATEST

DOCS = programs.ROOT / "docs"

SUBJECT = "puerta"
"""The side that the page is about. Runs with another subject have tables of their own and are not in the chart."""

Run = Mapping[str, Any]

HEAD = """# Performance

<!-- Written by `python -m bench.report`: change bench/report.py, or measure again. -->

Puerta beside other proxies: one machine, the same backend, the same load, the same number of workers or threads. Every
ratio is {subject} / peer, the median over pairs of samples taken in the same seconds, and in brackets the least and the
greatest. For CPU time, p99 latency and memory **below 1 is better for {subject}**, for throughput above 1.

![Cost per operation and per idle connection, {subject} / peer](performance.svg)
"""

TAIL = """## Reproduce

```
make bench-peers                     # the peers, as root on Debian or a relative
make bench                           # everything, one worker each: about half an hour
WORKERS=2 make bench ARGS="--out bench/results/two.json"
make bench ARGS="--only tcp-small --peers haproxy"
WORKERS=2 make bench ARGS="--only tcp-small --peers puerta-normal,nginx-batch --out bench/results/batch.json"
make bench-quick                     # a few short pairs, under 50 s: tells whether it works, not how fast
.venv/bin/python -m bench.report bench/results/latest.json bench/results/two.json
```

The peers' configurations are in `bench/configs/`; `bench/results/latest.json` holds every raw sample, the versions, the
machine and a hash of each configuration.

## How it is measured

- A pair is a fresh start of both sides. They are warmed up, then loaded by turns of half a second: the one, the other, the
  other, the one, and so on. A sample's figures are the medians of its turns. With a crowd, and where memory is weighed, one
  side is started, measured and stopped before the other, because no backend takes so many connections twice.
- CPU time is user + system time of **all** processes of a side, read before and after each turn: of Puerta the master, the
  workers, the supervisor and the store.
- redis-benchmark makes the load, `bench/hello.c` that of mongo-connect. The counters of the backend must confirm what
  redis-benchmark claims, or the sample has failed.
- Memory is the proportional set size (pages that forked workers share count once) with 5,000 connections less that
  before them. What the kernel holds for sockets is in no figure; it is the same for all.
- Puerta runs with its defaults, but for a higher limit on connections and without its access log; no peer writes one
  either. Its workers may so come under SCHED_BATCH ([what that is](scaling.md)); `puerta-normal` has `scheduling: normal`.
  Health checks are on where a peer has active ones: HAProxy, and Envoy in TCP mode. Buffers are 16 KiB where a peer has
  such a setting, 64 KiB for tcp-bulk.
- mongo-connect: HAProxy keeps clients by a stick table on the source address, nginx and Envoy by hashing it; Puerta
  parses the hello, keys by address and application, and agrees with the other workers through its store.

## What the figures do not say

- Load, proxy and backend share the cores and nothing is pinned to one. On a small machine the throughput of a pair says
  as much about the load as about the proxy; **CPU time per operation is the figure to trust**. Absolute figures change
  with the hour; compare only within a pair.
- Loopback has no packet loss, no latency and no interrupts of a network card, which all proxies would pay alike.
- redis-benchmark's latency begins when a request is written: in tcp-connect it leaves out the TCP connect, but not the
  proxy's own connect to the backend.
- `twemproxy`, `haproxy-tcp` (it carries the bytes and knows nothing of Redis) and `direct` (no proxy at all, the ceiling)
  have one server behind them instead of a cluster of three, because they know no cluster: they do less work, and leave
  more of the machine to their one server. twemproxy has one thread only, so it is left out with more workers.
- `nginx-batch` is nginx started under SCHED_BATCH. nginx has no such option, but whoever starts it can give it that.
- `envoy-batch` gathers requests for up to 3 ms: it saves CPU time at the price of latency when there is little traffic.
- `haproxy-splice` lets the kernel move long streams between sockets, an option that HAProxy does not set by default.
- redis-idle: twemproxy runs with 512-byte buffers there, as its manual advises for many connections.
"""


@dataclass(frozen=True)
class Row:
    """One comparison, as the table shows it."""

    scenario: str
    about: str
    peer: str
    ratios: Mapping[str, Mapping[str, float]]
    subject: Mapping[str, float]
    """Medians of the absolute figures."""

    other: Mapping[str, float]
    failure: str | None


def load(path: Path) -> Run:
    """A results file. Raises SystemExit when it is none."""
    try:
        run: Run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"bench.report: {path}: {error} (run `make bench` first)") from error
    if run.get("format") != FORMAT:
        raise SystemExit(f"bench.report: {path}: not a results file of this version")
    return run


def merge(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs with equal subject and workers made one, in the order of their first. Of equal comparisons the last one counts."""
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    for run in runs:
        key = (run["subject"], run["workers"])
        into = merged.setdefault(key, {**run, "comparisons": [], "versions": {}})
        into.update({name: run[name] for name in ("date", "machine")})
        for name, version in run["versions"].items():
            known_versions = into["versions"].setdefault(name, version).split(" and ")
            into["versions"][name] = " and ".join(dict.fromkeys([*known_versions, version]))
        known = {(old["scenario"], old["peer"]): old for old in into["comparisons"]}
        added = [{**comparison, "seconds": run["seconds"]} for comparison in run["comparisons"]]
        known.update({(new["scenario"], new["peer"]): new for new in added})
        into["comparisons"] = list(known.values())
    return list(merged.values())


def rows(run: Run) -> list[Row]:
    found = []
    for comparison in run["comparisons"]:
        subject, other = (
            medians([pair[side]["measures"] for pair in comparison["pairs"]]) for side in ("subject", "peer")
        )
        found.append(
            Row(
                comparison["scenario"], comparison["about"], comparison["peer"], comparison["ratios"], subject, other,
                comparison["failure"],
            )
        )  # fmt: skip
    return found


def figure(row: Row, label: str) -> str:
    """`0.93 (0.90–0.97)`, or a dash."""
    ratio = row.ratios.get(label)
    return "–" if ratio is None else f"**{ratio['median']:.2f}** ({ratio['least']:.2f}–{ratio['greatest']:.2f})"


def absolute(measures: Mapping[str, float]) -> str:
    """A side's own figures: `24.1 µs, 28,400/s, p99 2.10 ms`."""
    if "rss_bytes" in measures:
        return f"{measures['rss_bytes'] / 1024:.1f} KiB"
    words = [f"{measures['cpu_us']:.1f} µs"] if "cpu_us" in measures else []
    if "throughput" in measures:
        words += [f"{measures['throughput']:,.0f}/s", f"p99 {measures['p99_ms']:.2f} ms"]
    return ", ".join(words) or "–"


def table(run: Run) -> list[str]:
    """The Markdown table, and below it what failed."""
    lines = [
        f"| scenario | peer | CPU / operation | throughput | p99 | memory | {run['subject']} | peer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    failed = []
    previous = None
    for row in rows(run):
        if row.failure is not None:
            failed.append(f"Not measured: {row.scenario} against {row.peer}: {row.failure.splitlines()[0]}")
            continue
        name = f"`{row.scenario}`: {row.about}" if row.scenario != previous else ""
        previous = row.scenario
        ratios = " | ".join(figure(row, label) for label in ("cpu", "throughput", "p99", "rss"))
        lines.append(f"| {name} | {row.peer} | {ratios} | {absolute(row.subject)} | {absolute(row.other)} |")
    return [*lines, "", *failed, ""] if failed else [*lines, ""]


def workers(run: Run) -> str:
    return counted(run["workers"], "worker")


def pairs(runs: Sequence[Run]) -> str:
    """`5 pairs`, or `5 to 9 pairs` where runs were merged."""
    counts = {len(comparison["pairs"]) for run in runs for comparison in run["comparisons"] if comparison["pairs"]}
    least, most = min(counts, default=0), max(counts, default=0)
    return counted(most, "pair") if least == most else f"{least} to {most} pairs"


def seconds(run: Run) -> str:
    lengths = {comparison["seconds"] for comparison in run["comparisons"]}
    least, most = min(lengths, default=0), max(lengths, default=0)
    return f"{most:g} s" if least == most else f"{least:g} to {most:g} s"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def heading(run: Run) -> str:
    """Says which side is compared where it is not the usual one."""
    of = "" if run["subject"] == SUBJECT else f": {run['subject']}"
    return f"## With {workers(run)} on each side{of}"


def section(run: Run) -> list[str]:
    at = run["machine"]
    versions = ", ".join(dict.fromkeys(version for side, version in run["versions"].items() if side != "direct"))
    return [
        heading(run),
        "",
        *table(run),
        f"Measured {run['date'][:10]} with {pairs([run])} of {seconds(run)} on {at['cores']} cores of "
        f"{at['cpu']}, {at['kernel']}, Python {at['python']}. {versions}.",
        "",
    ]


def bars(runs: Sequence[Run]) -> list[Bar]:
    """What the chart shows: CPU time per operation, or memory per idle connection, of all runs."""
    found = []
    for run in runs:
        for row in rows(run):
            ratio = row.ratios.get("cpu") or row.ratios.get("rss")
            if ratio is not None and row.failure is None:
                group = row.scenario if len(runs) == 1 else f"{row.scenario}, {workers(run)}"
                found.append(Bar(group, row.peer, ratio["median"]))
    return found


def write(runs: Sequence[Run], docs: Path) -> None:
    subject = SUBJECT.capitalize()
    charted = [run for run in runs if run["subject"] == SUBJECT]
    sections = [line for run in runs for line in section(run)]
    title = f"CPU time per operation (memory per idle connection), {subject} / peer"
    subtitle = f"to the left of 1: {subject} needs less; logarithmic scale, medians of {pairs(charted)}"
    (docs / "performance.md").write_text("\n".join([HEAD.format(subject=subject), *sections, TAIL]))
    (docs / "performance.svg").write_text(draw(title, subtitle, bars(charted)))


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.report", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="*", help="results files (bench/results/latest.json)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where to write (docs)")
    options = parser.parse_args(words)
    write(merge([load(path) for path in options.results or [LATEST]]), options.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
