"""Watches every backend: a thread each that checks and sleeps, and one that listens to what the workers met.

One thread a backend is the simplest thing that keeps a frozen backend from delaying the others' checks.
"""

import random
import threading
import time

from puerta.board import Board
from puerta.config.schema import Backend, Config, RedisRoute, TcpRoute
from puerta.health import publish
from puerta.health.checks import make
from puerta.health.cluster import ClusterWatch
from puerta.health.dial import Check, Result
from puerta.health.remark import remark
from puerta.health.snapshot import Snapshot
from puerta.health.verdict import UP, Verdict
from puerta.log import logger

POLL = 0.1
"""Seconds between two looks at the workers' failed connects, and between two steps of a slow start."""

HASTE = 0.1
"""Seconds that pass at least between two checks of one backend, however many ask for one."""


class Watch:
    """One backend of one route: its check, its verdict, its board row, its thread."""

    def __init__(self, route: TcpRoute, backend: Backend, board: Board, offer: publish.Offer) -> None:
        self.route, self.backend, self.offer = route, backend, offer
        self.workers = board.backend(route.name, backend.id)
        self.row = board.verdict(route.name, backend.id)
        self.failures = self.workers.sum("connect_failures")
        health = route.health
        self.verdict = Verdict(health.rise, health.fall, health.every, route.slow_start)
        self.result = publish.read(self.row, self.verdict)
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.stopped = threading.Event()
        self.check: Check = make(route, backend, self.hurry)
        self.weigh(time.monotonic())
        self.thread = threading.Thread(target=self._run, name=f"puerta-check {backend.id}", daemon=True)

    def hurry(self) -> None:
        """Check now. Safe in any thread."""
        self.wake.set()

    def suspect(self) -> None:
        """Somebody else lost this backend: look now, unless we know already."""
        with self.lock:
            self.verdict.suspect()
            news = self.verdict.state == UP
        if news:
            self.hurry()

    def poll(self, now: float) -> None:
        """Notice what the workers met since the last look, and let a slow start go on."""
        failures = self.workers.sum("connect_failures")
        accused, self.failures = failures > self.failures, failures
        if accused:
            with self.lock:
                self.verdict.accuse()
                news = self.verdict.state == UP
            if news:
                self.hurry()
        self.weigh(now)

    def weigh(self, now: float) -> None:
        """Write the weight: at the start, with each change, and with every poll."""
        weight = self.verdict.weight_milli(self.backend.weight, now)
        if self.row.get(0, "weight_milli") != weight:
            self.row.set(0, "weight_milli", weight)

    def settle(self, result: Result, now: float) -> float:
        """Take a check's result to the verdict, the board, the log and the store. Returns the pause before the next."""
        with self.lock:
            before, last = self.verdict.state, self.result
            changed = self.verdict.take(result.ok, result.drain, now)
            self.result = result
            if changed:
                self.weigh(now)  # before it is seen to be back: a slow start begins slowly
            publish.write(self.row, self.verdict, result, now)
            state, pause = self.verdict.state, self.verdict.interval(random.random())
        remark(f"{self.route.name}/{self.backend.id}", self.route.health, (before, state), (last, result))
        self._report(state, result, changed)
        return pause

    def _run(self) -> None:
        while not self.stopped.is_set():
            self.wake.clear()
            result = self._ask()
            if self.stopped.is_set():
                break  # what ended with us says nothing about the backend
            if self.wake.wait(self.settle(result, time.monotonic())):
                self.stopped.wait(HASTE)
        self.check.close()

    def _ask(self) -> Result:
        try:
            return self.check.check()
        except Exception as error:  # a driver's surprise is a failed check, never the end of the checks
            if self.result is None or self.result.ok:
                logger.exception("checking backend %s/%s", self.route.name, self.backend.id)
            return Result(False, error=f"the check failed: {type(error).__name__}")

    def _report(self, state: str, result: Result, changed: bool) -> None:
        report = publish.Report(
            self.route.name, self.backend.id, state, result.ok, result.latency, result.error, time.time()
        )
        self.offer(report, changed)


class Monitor:
    """All watches of a configuration, and the thread that polls the board for them. Clusters watch themselves."""

    def __init__(self, config: Config, board: Board, offer: publish.Offer) -> None:
        self.watches = {
            (route.name, backend.id): Watch(route, backend, board, offer)
            for route in config.routes
            if isinstance(route, TcpRoute)
            for backend in route.backends
        }
        self.clusters = {
            route.name: ClusterWatch(route, board, offer) for route in config.routes if isinstance(route, RedisRoute)
        }
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._poll, name="puerta-poll", daemon=True)

    def start(self) -> None:
        for watch in self.watches.values():
            watch.thread.start()
        for cluster in self.clusters.values():
            cluster.start()
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """End the checks and close their connections; a check that hangs is left behind after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self.stopped.set()
        for watch in self.watches.values():
            watch.stopped.set()
            watch.hurry()
        for cluster in self.clusters.values():
            cluster.stop()
        clusters = [thread for cluster in self.clusters.values() for thread in cluster.threads()]
        for thread in (self.thread, *(watch.thread for watch in self.watches.values()), *clusters):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def hear(self, route: str, backend: str) -> None:
        """Another machine lost this backend."""
        watch = self.watches.get((route, backend))
        if watch is not None:
            watch.suspect()
        cluster = self.clusters.get(route)
        if cluster is not None:
            cluster.suspect(backend)

    def result(self, route: str, backend: str) -> Result | None:
        """The last check's result, with the words that the board has no room for."""
        watch = self.watches.get((route, backend))
        return watch.result if watch is not None else None

    def cluster(self, route: str) -> Snapshot:
        """What is known of the cluster behind a route of mode redis."""
        return self.clusters[route].snapshot()

    def _poll(self) -> None:
        while not self.stopped.wait(POLL):
            now = time.monotonic()
            for watch in self.watches.values():
                watch.poll(now)
