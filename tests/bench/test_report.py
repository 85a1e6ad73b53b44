"""The pure parts of the benchmark: what it reads from its loads and from /proc, its arithmetic, its page."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from bench import backends, chart, processes, report
from bench.load import LoadFailed, parse_hello, parse_redis
from bench.ratios import line, medians, ratios

CSV_HEAD = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"'
)
CSV_ROW = '"GET key:__rand_int__","20000.00","0.111","0.040","0.103","0.167","0.343","0.447"'


def test_redis_benchmark_is_read() -> None:
    said = parse_redis(f"WARNING: Could not fetch server CONFIG\n{CSV_HEAD}\n{CSV_ROW}\n", 50000)
    assert said.operations == 50000
    assert said.seconds == pytest.approx(2.5)
    assert said.throughput == pytest.approx(20000)
    assert (said.p50_ms, said.p99_ms) == (0.103, 0.343)


@pytest.mark.parametrize(
    "output",
    [
        CSV_HEAD + "\n",
        "",
        f"{CSV_HEAD}\nError from server: WRONGTYPE Operation against a key\n{CSV_ROW}\n",
        f"{CSV_HEAD}\n{CSV_ROW}\nError: Connection reset by peer\n",
        f"{CSV_HEAD}\n{CSV_ROW.replace('20000.00', '0.00')}\n",
    ],
)
def test_a_run_of_redis_benchmark_that_failed_does_not_count(output: str) -> None:
    with pytest.raises(LoadFailed):
        parse_redis(output, 1000)


def test_hello_is_read_and_must_be_free_of_errors() -> None:
    said = {"operations": 300, "seconds": 1.5, "errors": 0, "p50_ms": 1.0, "p99_ms": 2.0}
    assert parse_hello(json.dumps(said)).throughput == pytest.approx(200)
    for spoilt in ({"errors": 1}, {"operations": 0}):
        with pytest.raises(LoadFailed):
            parse_hello(json.dumps({**said, **spoilt}))


def test_cpu_time_of_children_that_were_waited_for() -> None:
    fields = ["S", "7", *["0"] * 9, "100", "20", "3", "4", *["0"] * 20]
    stat = f"42 (odd ) name (x) {' '.join(fields)}"
    assert processes.children_seconds(stat) == pytest.approx(7 / processes.TICKS)
    assert processes.stat_fields(stat)[:2] == ["S", "7"]


def test_cpu_time_of_another_process_with_its_threads() -> None:
    program = (
        "import threading, time\n"
        "def burn():\n"
        "    end = time.thread_time() + 0.05\n"
        "    while time.thread_time() < end: pass\n"
        "other = threading.Thread(target=burn); other.start(); other.join(); burn()\n"
        "print(time.process_time_ns(), flush=True); input()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = int(child.stdout.readline()) / 1e9
        seen = processes.cpu_seconds(child.pid)
        child.communicate("\n")
    assert 0.1 <= said <= seen < said + 0.05
    with pytest.raises(OSError):  # noqa: PT011: which one is the kernel's business
        processes.cpu_seconds(child.pid)


def test_cpu_time_between_two_looks_includes_a_process_born_in_between() -> None:
    before = [processes.Process(1, "master", 2.0)]
    after = [processes.Process(1, "master", 2.5), processes.Process(2, "worker", 0.25)]
    assert processes.spent(before, after) == {"master (1)": 0.5, "worker (2)": 0.25}


@pytest.mark.parametrize(
    ("cmdline", "title"),
    [
        (b"/usr/sbin/haproxy\0-db\0-f\0/tmp/x/haproxy.cfg\0", "haproxy"),
        (b"nginx: worker process\0\0\0", "nginx: worker process"),
        (b"puerta: store [bench]          \0", "puerta: store [bench]"),
        (b"nginx: master process /usr/sbin/nginx -p /tmp/x", "nginx: master process"),
    ],
)
def test_a_process_is_called_by_its_title(cmdline: bytes, title: str) -> None:
    assert processes.short_title(cmdline) == title


def test_a_ratio_is_taken_in_each_pair_and_then_the_median() -> None:
    pairs = [({"cpu_us": a}, {"cpu_us": b}) for a, b in ((10.0, 20.0), (30.0, 30.0), (9.0, 10.0))]
    found = ratios(pairs)
    assert list(found) == ["cpu"]
    assert (found["cpu"].least, found["cpu"].median, found["cpu"].greatest) == (0.5, 0.9, 1.0)


def test_what_one_side_can_not_have_is_left_out() -> None:
    proxy = {"cpu_us": 20.0, "throughput": 100.0, "p99_ms": 2.0}
    direct = {"throughput": 200.0, "p99_ms": 0.0}
    assert list(ratios([(proxy, direct)])) == ["throughput"]
    assert ratios([]) == {}
    assert medians([proxy, direct]) == {"throughput": 150.0, "p99_ms": 1.0}


def test_the_line_is_as_promised() -> None:
    subject = {"cpu_us": 9.3, "throughput": 108.0, "p99_ms": 0.91, "p50_ms": 5.0}
    peer = {"cpu_us": 10.0, "throughput": 100.0, "p99_ms": 1.0, "p50_ms": 1.0}
    found = line("tcp-small", "haproxy", ratios([(subject, peer)]))
    assert found == "ratio tcp-small haproxy cpu=0.93 throughput=1.08 p99=0.91"
    idle = line("tcp-idle", "nginx", ratios([({"rss_bytes": 500.0}, {"rss_bytes": 1000.0})]))
    assert idle == "ratio tcp-idle nginx rss=0.50"


def test_every_slot_belongs_to_the_master_whose_range_holds_it() -> None:
    count = backends.MASTERS
    ranges = [backends.slots_of(index, count) for index in range(count)]
    assert [slot for some in ranges for slot in some] == list(range(backends.SLOTS))
    for number in range(500):
        key = b"key:%012d" % number
        assert backends.slot(key) in ranges[backends.master_of(key, count)]
    assert backends.slot(b"123456789") == 0x31C3  # the check value of the Redis Cluster specification


def a_run(workers: int = 1, cpu: float = 0.9, peer: str = "haproxy", **more: Any) -> dict[str, Any]:
    measures = {"cpu_us": 20.0, "throughput": 30000.0, "p99_ms": 2.5, "p50_ms": 1.0}
    ratio = {"median": cpu, "least": cpu - 0.1, "greatest": cpu + 0.1}
    comparison = {
        "scenario": "tcp-small",
        "about": "tiny & quick",
        "peer": peer,
        "ratios": {"cpu": ratio, "throughput": ratio},
        "failure": None,
        "pairs": [{"subject": {"measures": measures}, "peer": {"measures": measures}}],
    }
    return {
        "format": report.FORMAT,
        "date": "2026-01-02T03:04:05+00:00",
        "subject": "puerta",
        "workers": workers,
        "pairs": 5,
        "seconds": 3.0,
        "machine": {"cpu": "A CPU", "cores": 2, "kernel": "Linux 6", "python": "3.11"},
        "versions": {"puerta": "Puerta 0.1.0 compiled", peer: f"{peer} 9.9"},
        "comparisons": [{**comparison, **more}],
    }


def test_runs_are_merged_by_workers_and_the_later_one_counts() -> None:
    merged = report.merge([a_run(cpu=0.9), a_run(workers=2), a_run(cpu=0.7), a_run(peer="nginx")])
    assert [run["workers"] for run in merged] == [1, 2]
    rows = report.rows(merged[0])
    assert [(row.peer, row.ratios["cpu"]["median"]) for row in rows] == [("haproxy", 0.7), ("nginx", 0.9)]
    assert set(merged[0]["versions"]) == {"puerta", "haproxy", "nginx"}


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    failed = a_run(workers=2, peer="nginx", failure="nginx: it broke\nand more", pairs=[], ratios={})
    files = []
    for run in (a_run(), a_run(workers=2), failed):
        files.append(tmp_path / f"{len(files)}.json")
        files[-1].write_text(json.dumps(run))
    report.main([*map(str, files), "--docs", str(tmp_path)])
    page = (tmp_path / "performance.md").read_text()
    assert "| `tcp-small`: tiny & quick | haproxy | **0.90** (0.80–1.00) |" in page
    assert "20.0 µs, 30,000/s, p99 2.50 ms" in page
    assert "## With 1 worker on each side" in page
    assert "## With 2 workers on each side" in page
    assert "Not measured: tcp-small against nginx: nginx: it broke\n" in page
    assert "and more" not in page
    assert page.count("with 1 pair of 3 s on 2 cores of A CPU") == 2
    drawing = ElementTree.parse(tmp_path / "performance.svg")
    words = {element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"tcp-small, 1 worker", "tcp-small, 2 workers", "haproxy", "0.90"} <= words
    assert "nginx" not in words


def test_what_was_measured_with_other_pairs_is_not_hidden(tmp_path: Path) -> None:
    longer, pair = a_run(peer="nginx"), {"measures": {"cpu_us": 1.0}}
    longer["comparisons"][0]["pairs"] = [{"subject": pair, "peer": pair}] * 9
    (run,) = report.merge([a_run(), {**longer, "seconds": 4.5}])
    assert (report.pairs([run]), report.seconds(run)) == ("1 to 9 pairs", "3 to 4.5 s")


def test_versions_that_were_measured_are_all_named() -> None:
    runs = [
        {**a_run(peer=peer), "versions": {"puerta": version}} for peer, version in (("a", "1"), ("b", "2"), ("c", "1"))
    ]
    (run,) = report.merge(runs)
    assert run["versions"] == {"puerta": "1 and 2"}


def test_a_run_of_another_side_has_a_table_of_its_own_and_no_bars(tmp_path: Path) -> None:
    files = [tmp_path / "usual.json", tmp_path / "other.json"]
    files[0].write_text(json.dumps(a_run()))
    files[1].write_text(json.dumps({**a_run(peer="nginx"), "subject": "puerta-batch"}))
    report.main([*map(str, files), "--docs", str(tmp_path)])
    page = (tmp_path / "performance.md").read_text()
    assert page.index("## With 1 worker on each side\n") < page.index("## With 1 worker on each side: puerta-batch\n")
    assert "| memory | puerta-batch | peer |" in page
    assert "nginx" not in (tmp_path / "performance.svg").read_text()


def test_a_file_that_holds_no_results_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    for content in ("{}", "no json"):
        other.write_text(content)
        with pytest.raises(SystemExit, match=r"other\.json"):
            report.main([str(other), "--docs", str(tmp_path)])
    with pytest.raises(SystemExit, match="make bench"):
        report.load(tmp_path / "missing.json")


def test_bars_stay_on_the_page() -> None:
    right = chart.WIDTH - chart.RIGHT
    assert chart.place(1.0) == pytest.approx((chart.LEFT + right) / 2)
    assert chart.place(0.5) - chart.LEFT == pytest.approx(right - chart.place(2.0))
    assert chart.place(0.001) == pytest.approx(chart.LEFT)
    assert chart.place(1000.0) == pytest.approx(right)
