"""The supervisor: it watches backends (in process-manager talk "supervisor" means what our master is).

One process with plain threads, beside the workers: it asks every backend how it is, writes the verdicts on the board
and to the store, and serves the admin interface. Workers go on without it: while the master starts another one, the
board keeps the last verdicts, and the new one begins with them.

Its signals are blocked and taken one at a time by the main thread, so no handler runs in the middle of anything.
"""

import os
import select
import signal
import threading
import time

from puerta.admin.app import App
from puerta.admin.server import Server, serve
from puerta.config.render import render
from puerta.health.monitor import Monitor
from puerta.health.publish import Report, StorePublisher, node_name
from puerta.log import logger, reopen
from puerta.role import Role

BEAT = 0.2
"""Seconds between two beats, and so at most until a signal's or the lifeline's news is acted on."""

STOP_TIMEOUT = 2.0
"""Seconds in all for closing connections to backends, store and admin clients before we leave anyway."""

STACK = 512 << 10
"""Bytes of a thread's stack. There are a few threads per backend, and none of them nests deeply."""

TAKEN = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM)
IGNORED = (signal.SIGINT, signal.SIGHUP)


def main(role: Role) -> int:
    """Watch and serve until told to stop or left alone. Returns the exit status."""
    take_signals()
    threading.stack_size(STACK)
    supervisor = Supervisor(role)
    supervisor.start()
    if supervisor.run():
        supervisor.stop()
    return 0


def take_signals() -> None:
    """Block what `run` takes, before the first thread: threads inherit the mask, so none of them is interrupted."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
    for number in TAKEN:
        signal.signal(number, signal.SIG_DFL)  # an ignored signal would not wait to be taken
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


class Supervisor:
    """All parts of the role, put together."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.monitor = Monitor(role.config, role.board, self._offer)
        self.publisher = self._make_publisher()
        self.servers: list[Server] = []

    def start(self) -> None:
        """Check, publish, serve; then say that we are ready."""
        self.beat()
        if self.publisher is not None:
            self.publisher.start()
        self.monitor.start()
        app = App(self.role, self.monitor, render(self.role.config))
        self.servers = serve(app, [each.socket for each in self.role.listeners])
        self.role.board.workers.set(self.role.row, "ready", self.role.generation + 1)
        logger.info(
            "supervisor watches %d backends and %d clusters", len(self.monitor.watches), len(self.monitor.clusters)
        )

    def run(self) -> bool:
        """Beat until it is time to go. True: there is time to close what is open; False: go at once.

        A timer tells when to beat, not sigtimedwait, which may return a signal that never came (see process/signals).
        """
        signal.setitimer(signal.ITIMER_REAL, BEAT, BEAT)
        while True:
            self.beat()
            taken = signal.sigwaitinfo(TAKEN).si_signo
            if taken == signal.SIGUSR1:
                reopen()
            elif taken != signal.SIGALRM:
                return taken == signal.SIGTERM
            if is_cut(self.role.lifeline):
                logger.warning("the master is gone: supervisor stops")
                return True

    def stop(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT
        self.monitor.stop(STOP_TIMEOUT / 2)  # first: a successor writes the same verdicts already
        for server in self.servers:
            server.stop(max(0.0, min(0.5, deadline - time.monotonic())))
        if self.publisher is not None:
            self.publisher.stop(max(0.0, deadline - time.monotonic()))
        logger.info("supervisor stopped")

    def beat(self) -> None:
        self.role.board.workers.set(self.role.row, "beat_ns", time.monotonic_ns())

    def _make_publisher(self) -> StorePublisher | None:
        config = self.role.config
        if not self.role.store_url:
            return None
        every = {route.name: route.health.every for route in config.routes}
        return StorePublisher(
            self.role.store_url, config.store.namespace, node_name(config.name), every, self.monitor.hear
        )

    def _offer(self, report: Report, changed: bool) -> None:
        if self.publisher is not None:
            self.publisher.offer(report, changed)


def is_cut(lifeline: int) -> bool:
    """True once the only holder of the lifeline's other end is gone."""
    poll = select.poll()  # not select(): descriptors may be beyond its 1024
    poll.register(lifeline, select.POLLIN)
    return bool(poll.poll(0)) and not os.read(lifeline, 1)
