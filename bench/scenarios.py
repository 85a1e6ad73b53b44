"""The scenarios: which load runs through a side, in front of which backend, and what is measured.

A pair is one fresh start of two sides: wait until both serve, warm them up, load them by turns, read the CPU time of a
side's processes before and after each of its turns. The load reports throughput and latency; the backend's own counters
must confirm what it claims. The turns are short, so that what else the machine does meets both sides alike.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import backends, load, processes
from bench.backends import Backend, Keys
from bench.load import LoadFailed, RedisLoad, Report
from bench.peers import Side, Task
from bench.ratios import medians
from playground.servers import wait_until

WARM_UP = 0.3
"""Seconds of load that are not counted, where a load is told its time."""

TURN = 0.5
"""Seconds of load on one side before it is the other's turn."""

SETTLE = 1.0
"""Seconds between the last round trip of idle connections and the look at memory."""

SERVES_WITHIN = 10.0
IDLE_CONNECTIONS = 5000
IDLE_WARM_UP = 64

TINY = Keys("key", 100_000, 3)
BULK = Keys("bulk", 4, 1 << 20)
BIG = Keys("big", 200, 64 << 10)

TCP_PEERS = ("haproxy", "nginx", "envoy")
REDIS_PEERS = ("envoy", "envoy-batch", "twemproxy", "direct")
SMALL_REDIS_PEERS = ("envoy", "envoy-batch", "twemproxy", "haproxy-tcp", "direct")


@dataclass(frozen=True)
class Sample:
    """What one run of one side showed: measures to compare, and what else is worth keeping."""

    measures: dict[str, float]
    detail: dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One thing to measure. Subclasses say how."""

    name: str
    about: str
    """For the report."""

    mode: str
    peers: tuple[str, ...]
    backend: str
    """A key of BACKENDS."""

    options: dict[str, Any] = field(default_factory=dict)
    """Of the Task."""

    needs: tuple[str, ...] = ("valkey-server", "redis-benchmark")

    def task(self, backend: Backend, workers: int) -> Task:
        return Task(self.mode, workers, backend.ports, backend.single, **self.options)

    def serves(self, port: int, backend: Backend) -> bool:
        """Whether the side on `port` does real work already: it has found its backends and takes them for healthy."""
        try:
            return all(backends.ask(port, "GET", key, timeout=1.0) for key in probes(self.mode))
        except (OSError, RuntimeError):
            return False

    @contextlib.contextmanager
    def up(self, kind: type[Side], backend: Backend, workers: int) -> Iterator[Side]:
        """A fresh side that serves. Raises LoadFailed when it does not come to that."""
        side = kind(self.task(backend, workers))
        try:
            with blaming(side):
                side.start()
                wait_until(lambda: side.gone() or self.serves(side.port, backend), SERVES_WITHIN, "it to serve")
                if side.gone():
                    raise LoadFailed("it has ended")
            yield side
        finally:
            side.stop()

    def pair(self, kinds: Sequence[type[Side]], backend: Backend, workers: int, seconds: float) -> list[Sample]:
        """A sample of each kind of side, after `seconds` of load on each. Raises LoadFailed, which names the side."""
        raise NotImplementedError


@contextlib.contextmanager
def blaming(side: Side) -> Iterator[None]:
    """What goes wrong in this context is the side's fault: a LoadFailed that names it and has the end of its log."""
    try:
        yield
    except (LoadFailed, TimeoutError, OSError, RuntimeError) as error:
        raise LoadFailed(f"{side.name}: {error}\n{last(side)}".strip()) from error


def probes(mode: str) -> list[bytes]:
    """Keys whose GET shows that a side works: in front of a cluster, one on each master."""
    if mode != "redis":
        return [TINY.name(0)]
    found: dict[int, bytes] = {}
    for number in range(100):
        found.setdefault(backends.master_of(TINY.name(number), backends.MASTERS), TINY.name(number))
    return list(found.values())


def last(side: Side) -> str:
    """The end of a side's log, for an error message."""
    with contextlib.suppress(OSError):
        return side.log()[-500:]
    return ""


@dataclass(frozen=True)
class LoadScenario(Scenario):
    """Something that works through the side for a while and then reports. Subclasses say what."""

    def pace(self, side: Side, backend: Backend) -> float:
        """Warm the side up; returns its operations a second."""
        raise NotImplementedError

    def work(self, side: Side, backend: Backend, pace: float, seconds: float) -> Report:
        """Load the side for about `seconds`. Raises LoadFailed."""
        raise NotImplementedError

    def pair(self, kinds: Sequence[type[Side]], backend: Backend, workers: int, seconds: float) -> list[Sample]:
        with contextlib.ExitStack() as stack:
            return self.by_turns(
                [stack.enter_context(self.up(kind, backend, workers)) for kind in kinds], backend, seconds
            )

    def by_turns(self, sides: Sequence[Side], backend: Backend, seconds: float) -> list[Sample]:
        """Load one side after the other, again and again, first the one first and then the other."""
        paces = []
        for side in sides:
            with blaming(side):
                paces.append(self.pace(side, backend))
        turns: list[list[Sample]] = [[] for _ in sides]
        for number in range(max(1, round(seconds / TURN))):
            order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
            for index in order:
                with blaming(sides[index]):
                    turns[index].append(self.turn(sides[index], backend, paces[index]))
        return [together(some) for some in turns]

    def turn(self, side: Side, backend: Backend, pace: float) -> Sample:
        """One turn, and what it cost the side."""
        before = side.look()
        report = self.work(side, backend, pace, TURN)
        spent = processes.spent(before, side.look())
        measures = {"throughput": report.throughput, "p50_ms": report.p50_ms, "p99_ms": report.p99_ms}
        if before:
            measures["cpu_us"] = 1e6 * sum(spent.values()) / report.operations
        return Sample(measures, {"operations": report.operations, "seconds": report.seconds, "processes": spent})


def together(turns: Sequence[Sample]) -> Sample:
    """One sample of several turns: each measure's median, for a turn in which the machine was away is no measure."""
    return Sample(medians([turn.measures for turn in turns]), {"turns": [asdict(turn) for turn in turns]})


@dataclass(frozen=True)
class RedisScenario(LoadScenario):
    """redis-benchmark reads keys through the side."""

    load: RedisLoad = field(kw_only=True)
    first: int = field(kw_only=True)
    """Requests of the warm-up."""

    crowd: int = 0
    """Connections that are open meanwhile and do nothing but a round trip at their beginning and one at their end.

    The sides are loaded one after the other then: no backend takes the crowds of two.
    """

    def pair(self, kinds: Sequence[type[Side]], backend: Backend, workers: int, seconds: float) -> list[Sample]:
        if not self.crowd:
            return super().pair(kinds, backend, workers, seconds)
        samples = []
        for kind in kinds:
            with (
                self.up(kind, backend, workers) as side,
                blaming(side),
                load.held(side.port, self.crowd, TINY.name(0).decode()),
            ):
                samples += self.by_turns([side], backend, seconds)
        return samples

    def pace(self, side: Side, backend: Backend) -> float:
        return load.redis(self.load, side.port, self.first).throughput

    def work(self, side: Side, backend: Backend, pace: float, seconds: float) -> Report:
        count = max(1, round(pace * seconds / self.load.pipeline)) * self.load.pipeline
        hits, misses = backend.served()
        report = load.redis(self.load, side.port, count)
        hits, misses = (after - before for after, before in zip(backend.served(), (hits, misses), strict=True))
        if misses or hits < count * self.load.keys:
            raise LoadFailed(f"{count} operations were reported; the backends served {hits} keys and missed {misses}")
        return report


@dataclass(frozen=True)
class HelloScenario(LoadScenario):
    """hello.c connects, says hello, closes; from many loopback addresses, so that there is an affinity to keep."""

    clients: int = 50
    sources: int = 50

    def serves(self, port: int, backend: Backend) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as peer:
                peer.sendall(Path(backend.files["request"]).read_bytes())
                return len(peer.recv(16)) == 16
        except OSError:
            return False

    def pace(self, side: Side, backend: Backend) -> float:
        return self.work(side, backend, 0.0, WARM_UP).throughput

    def work(self, side: Side, backend: Backend, pace: float, seconds: float) -> Report:
        program, request = backend.files["program"], backend.files["request"]
        return load.hello(program, request, side.port, seconds, self.clients, self.sources)


@dataclass(frozen=True)
class IdleScenario(Scenario):
    """Memory of the side's processes for each connection that only stays, after one round trip."""

    connections: int = IDLE_CONNECTIONS

    def pair(self, kinds: Sequence[type[Side]], backend: Backend, workers: int, seconds: float) -> list[Sample]:
        samples = []
        for kind in kinds:
            with self.up(kind, backend, workers) as side, blaming(side):
                samples.append(self.weigh(side))
        return samples

    def weigh(self, side: Side) -> Sample:
        key = TINY.name(0).decode()
        with load.held(side.port, IDLE_WARM_UP, key):
            pass
        time.sleep(SETTLE)
        base = side.memory()
        with load.held(side.port, self.connections, key):
            time.sleep(SETTLE)
            total = side.memory()
        measures = {"rss_bytes": (total - base) / self.connections}
        return Sample(measures, {"connections": self.connections, "base_bytes": base, "total_bytes": total})


def read(keys: Keys, clients: int, count: int = 1, **options: Any) -> RedisLoad:
    """GET of one random key, or MGET of `count`."""
    names = (f"{keys.prefix}:__rand_int__",) * count
    return RedisLoad(("GET" if count == 1 else "MGET", *names), clients, random=keys.count, keys=count, **options)


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        RedisScenario(
            "tcp-small", "50 clients, tiny round trips", "tcp", TCP_PEERS, "single", load=read(TINY, 50), first=6000
        ),
        RedisScenario(
            "tcp-bulk", "replies of 1 MiB, 8 clients", "tcp", ("haproxy", "haproxy-splice", "nginx", "envoy"), "single",
            {"buffer": 64 << 10}, load=read(BULK, 8), first=200,
        ),
        RedisScenario(
            "tcp-connect", "a new connection for each round trip, 50 clients", "tcp", TCP_PEERS, "single",
            load=read(TINY, 50, keep_alive=False), first=1500,
        ),
        RedisScenario(
            "tcp-crowd", "tcp-small beside 9,000 idle connections", "tcp", TCP_PEERS, "single",
            load=read(TINY, 50), first=6000, crowd=9000,
        ),
        IdleScenario("tcp-idle", "5,000 idle connections", "tcp", TCP_PEERS, "single", needs=("valkey-server",)),
        HelloScenario(
            "mongo-connect", "TCP connect, hello, close; 50 clients that are kept on one of 3 servers", "mongodb",
            TCP_PEERS, "hello", {"affinity": True}, needs=("cc",),
        ),
        RedisScenario(
            "redis-p1", "GET of random keys, 50 clients", "redis", SMALL_REDIS_PEERS, "cluster",
            load=read(TINY, 50), first=6000,
        ),
        RedisScenario(
            "redis-crowd", "redis-p1 beside 10,000 idle connections", "redis", ("envoy",), "cluster",
            load=read(TINY, 50), first=6000, crowd=10_000,
        ),
        RedisScenario(
            "redis-p16", "GET of random keys, 50 clients, pipelines of 16", "redis", SMALL_REDIS_PEERS, "cluster",
            load=read(TINY, 50, pipeline=16), first=32000,
        ),
        RedisScenario(
            "redis-mget", "MGET of 10 random keys over all nodes, 50 clients", "redis", REDIS_PEERS, "cluster",
            load=read(TINY, 50, count=10), first=2000,
        ),
        RedisScenario(
            "redis-big", "GET of 64 KiB values, 50 clients", "redis", REDIS_PEERS, "cluster",
            load=read(BIG, 50), first=1500,
        ),
        IdleScenario(
            "redis-idle", "5,000 idle connections", "redis", ("envoy", "twemproxy"), "cluster", {"mbuf": 512},
            needs=("valkey-server",),
        ),
    )
}  # fmt: skip

QUICK = {
    "tcp-small": "haproxy", "tcp-connect": "haproxy", "mongo-connect": "haproxy", "redis-p1": "envoy", "redis-p16": "envoy",
}  # fmt: skip
"""What --quick measures: scenario → its one peer."""

BACKENDS: dict[str, Callable[[str], AbstractContextManager[Backend]]] = {
    "single": lambda _: backends.open_single((TINY, BULK)),
    "cluster": lambda _: backends.open_cluster((TINY, BIG)),
    "hello": backends.open_hello,
}
"""Fixture by name; each is given the path of the compiled hello.c."""
