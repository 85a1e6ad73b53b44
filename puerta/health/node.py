"""Watches one node of a Redis Cluster: a thread that checks, and sleeps until the next check, a ring, or the end of the
node's connection."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable

from puerta.config.schema import Address, RedisRoute
from puerta.health import learned
from puerta.health.dial import Result
from puerta.health.publish import Offer, Report
from puerta.health.redis import RedisCheck, said
from puerta.health.remark import remark
from puerta.health.verdict import UP, Verdict
from puerta.health.views import View
from puerta.log import logger

HASTE = 0.1
"""Seconds that pass at least between two checks of one node, however many ask for one."""


class Bell:
    """A descriptor that becomes readable when somebody rings."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.lock = threading.Lock()

    def ring(self) -> None:
        with self.lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it did not ring
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        with self.lock:
            os.close(self.descriptor)
            self.descriptor = -1


class NodeWatch:
    """One address: its check, its verdict, its view of the cluster, the commands it has beyond ours, its thread.

    `wanted` is the number of the newest look that was asked for, `done` of the newest that was finished; `news` is
    called after every check, and `doubt` when it gives a reason to look at the whole cluster.
    """

    def __init__(
        self, route: RedisRoute, address: Address, offer: Offer, news: Callable[[], None], doubt: Callable[[], None]
    ) -> None:
        self.route, self.address, self.offer, self.news, self.doubt = route, address, offer, news, doubt
        self.verdict = Verdict(route.health.rise, route.health.fall, route.health.every)
        self.check = RedisCheck(address, route.health.timeout, route.auth)
        self.result: Result | None = None
        self.commands: learned.Told = ()
        self.complaint = ""
        self.checked = 0.0
        self.wanted = self.done = 0
        self.lock = threading.Lock()
        self.bell = Bell()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"puerta-check {address}", daemon=True)

    @property
    def view(self) -> View | None:
        return self.check.view

    def look(self, number: int) -> None:
        """Check now, and read the layout. Safe in any thread."""
        self.wanted = number
        self.bell.ring()

    def suspect(self) -> None:
        """Somebody else lost this node: look now, unless we know already."""
        with self.lock:
            self.verdict.suspect()
            news = self.verdict.state == UP
        if news:
            self.bell.ring()

    def stop(self) -> None:
        self.stopped.set()
        self.bell.ring()

    def _run(self) -> None:
        while not self.stopped.is_set():
            self.bell.silence()
            number, signs, last = self.wanted, self.check.signs, self.result
            asked = time.monotonic()
            result = self._ask(number > self.done)
            if self.stopped.is_set():
                break  # what ended with us says nothing about the node
            pause = self._settle(result, time.monotonic())
            self.done = number
            fell = not result.ok and (last is None or last.ok)
            if fell or (result.ok and signs and self.check.signs != signs):
                self.doubt()
            self.news()
            if result.ok:
                self._learn()
            self.check.wait(self.bell.descriptor, pause)
            self.stopped.wait(max(0.0, asked + HASTE - time.monotonic()))
        self.check.close()
        self.bell.close()

    def _ask(self, look: bool) -> Result:
        try:
            return self.check.check(look)
        except Exception as error:  # a driver's surprise is a failed check, never the end of the checks
            if self.result is None or self.result.ok:
                logger.exception("checking backend %s/%s", self.route.name, self.address)
            self.check.forget()
            return Result(False, error=f"the check failed: {type(error).__name__}")

    def _learn(self) -> None:
        """Ask which commands the node has, when that may have changed. Whatever comes of it, its verdict stands."""
        try:
            reply = self.check.commands()
            if reply is not None:
                self.commands = learned.beyond(reply)
                self.news()
        except Exception as error:
            complaint, self.complaint = self.complaint, said(error)
            if self.complaint != complaint:
                name = f"{self.route.name}/{self.address}"
                logger.warning("backend %s does not say which commands it has: %s", name, self.complaint)

    def _settle(self, result: Result, now: float) -> float:
        """Take a check's result to the verdict, the log and the store. Returns the pause before the next."""
        with self.lock:
            before, last = self.verdict.state, self.result
            changed = self.verdict.take(result.ok, result.drain, now)
            self.result, self.checked = result, now
            state, pause = self.verdict.state, self.verdict.interval(random.random())
        name = str(self.address)
        remark(f"{self.route.name}/{name}", self.route.health, (before, state), (last, result))
        report = Report(self.route.name, name, state, result.ok, result.latency, result.error, time.time())
        self.offer(report, changed)
        return pause
