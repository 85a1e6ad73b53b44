"""Runs a load against one port and reads its report: redis-benchmark, hello.c, or connections that are only held."""

import contextlib
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench import programs

PATIENCE = 60.0
"""Seconds after which a load is ended and its sample has failed: redis-benchmark waits for ever for a lost reply."""


class LoadFailed(Exception):
    """The load, or what it was served, is not what was asked for: the sample must not count."""


@dataclass(frozen=True)
class Report:
    """What a load says it did."""

    operations: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def throughput(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds


@dataclass(frozen=True)
class RedisLoad:
    """redis-benchmark's arguments, but for the port and the number of requests."""

    command: tuple[str, ...]
    clients: int
    pipeline: int = 1
    random: int = 1
    """Keys are taken from 0 to this, less one."""

    keep_alive: bool = True
    keys: int = 1
    """Keys one operation reads."""

    def arguments(self, port: int, requests: int) -> list[str]:
        options = {"-h": "127.0.0.1", "-p": port, "-n": requests, "-c": self.clients, "-P": self.pipeline}
        options |= {"-r": self.random, "-k": int(self.keep_alive)}
        flat = [str(word) for pair in options.items() for word in pair]
        return [programs.path_of("redis-benchmark"), *flat, "--csv", *self.command]


def parse_redis(output: str, requests: int) -> Report:
    """The report of `redis-benchmark --csv`. Raises LoadFailed when it tells of an error or has no result."""
    error = re.search(r"^(Error|Could not connect|Server closed|ERR).*", output, re.MULTILINE)
    if error:
        raise LoadFailed(f"redis-benchmark: {error[0][:200]}")
    lines = [line for line in output.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))
    if len(rows) != 1:
        raise LoadFailed(f"redis-benchmark gave no result: {output.strip()[-200:]}")
    row = rows[0]
    rate = float(row["rps"])
    if rate <= 0:
        raise LoadFailed("redis-benchmark counted nothing")
    return Report(requests, requests / rate, float(row["p50_latency_ms"]), float(row["p99_latency_ms"]))


def parse_hello(output: str) -> Report:
    """The report of `hello load`. Raises LoadFailed when there was any error."""
    said = json.loads(output)
    if said["errors"] or not said["operations"]:
        raise LoadFailed(f"hello: {said['errors']} errors, {said['operations']} operations")
    return Report(said["operations"], said["seconds"], said["p50_ms"], said["p99_ms"])


def run(command: list[str], seconds: float = PATIENCE) -> str:
    """The output of a program. Raises LoadFailed when it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, errors="replace", check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"{command[0]} did not end within {seconds:.0f} s") from error
    if done.returncode:
        said = (done.stderr + done.stdout).strip()[-300:]
        raise LoadFailed(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout + done.stderr


def redis(load: RedisLoad, port: int, requests: int) -> Report:
    return parse_redis(run(load.arguments(port, requests)), requests)


def hello(program: str, request: str, port: int, seconds: float, clients: int, sources: int) -> Report:
    words = [program, "load", str(port), f"{seconds:.3f}", str(clients), str(sources), request]
    return parse_hello(run(words, seconds + PATIENCE))


@contextlib.contextmanager
def held(port: int, count: int, key: str) -> Iterator[None]:
    """While the context lasts, `count` connections are open, each after one GET. At its end each does another.

    Raises LoadFailed when one of them could not be opened, or was lost.
    """
    command = [sys.executable, "-m", "bench.holder", str(port), str(count), key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=programs.ROOT
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            expect(holder.stdout.readline(), f"held {count}")
            yield
            holder.stdin.write("check\n")
            holder.stdin.flush()
            expect(holder.stdout.readline(), f"alive {count}")
            holder.stdin.close()
            holder.wait(PATIENCE)
        finally:
            holder.kill()


def expect(line: str, wanted: str) -> None:
    if line.strip() != wanted:
        raise LoadFailed(f"holding connections: {line.strip() or 'the holder ended'} (wanted: {wanted})")
