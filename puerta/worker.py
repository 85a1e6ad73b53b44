"""The worker role: one seat's process, from its birth to its exit.

The reactor drives it, and gevent's hub with it; greenlets exist only for what must wait (the store's claims and events,
resolving names). Everything a connection needs happens on the loop.
"""

from gevent import monkey

# For redis-py alone, which must wait in the hub; nothing of ours opens a patched socket. Not aggressive: that would take
# away select.epoll, by which the uncompiled core polls.
monkey.patch_all(aggressive=False)

import errno
import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import gevent.hub

from puerta import log
from puerta.board import CHILD_STATES
from puerta.config.schema import AnyRoute, RedisRoute, TcpRoute
from puerta.proxy.acceptor import Acceptor
from puerta.proxy.acceptors import Acceptors
from puerta.proxy.access_log import AccessLog
from puerta.proxy.mongodb_session import MongodbSession
from puerta.proxy.names import Names
from puerta.proxy.redis_opening import open_session
from puerta.proxy.redis_route import RedisRouteRunner
from puerta.proxy.redis_session import RedisSession
from puerta.proxy.redis_upstream import Upstream
from puerta.proxy.route import IDLE_BEFORE_CLOSE, Route, SessionFactory
from puerta.proxy.session import Session
from puerta.proxy.store import Store
from puerta.reactor import memory, native
from puerta.reactor.hub import ReactorHub
from puerta.reactor.loop import Channel, Loop
from puerta.reactor.preemption import Preemption
from puerta.role import Role

TICK_SECONDS = 0.1
LATE_SECONDS = 0.5
TRIM_SECONDS = 5.0
LAYOUT_SECONDS = 5.0
HEALTH_STALE_SECONDS = 30.0

SESSIONS: dict[str, SessionFactory] = {"mongodb": MongodbSession, "tcp": Session, "redis": open_session}


class Worker:
    """Holds the loop, the routes and the acceptors, and runs the tick that keeps them in step with the board."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.board = role.board
        self.cells = role.board.workers
        self.loop = Loop(self.session_failed, role.config.io_uring)
        if self.loop.outbox.refusal:
            log.logger.info(
                "io_uring is not to be had here, going on without it: %s", os.strerror(self.loop.outbox.refusal)
            )
        self.preemption = Preemption(role.config.scheduling)
        self.hub = ReactorHub(self.loop, self.tick, TICK_SECONDS)
        gevent.hub.set_hub(self.hub)
        self.access = AccessLog(role.config.log.access, role.config.log.format == "json")
        self.store = self.make_store()
        self.names = Names()
        self.routes: list[Any] = [self.make_route(route) for route in role.config.routes]
        self.acceptors = Acceptors(self.loop, role, self.routes, SESSIONS)
        self.draining_since = 0.0
        self.stopped = gevent.event.Event()
        self.exit_status = 0
        self.expected_tick = 0.0
        self.next_trim = 0.0
        self.resumed = 0.0
        self.health_was_stale = False

    def make_store(self) -> Store | None:
        if all(not isinstance(route, TcpRoute) or route.affinity.by == "none" for route in self.role.config.routes):
            return None
        store = Store(self.role.store_url, self.role.config.store.namespace, self.role.config.store.timeout)
        store.on_doubt = self.doubt_store
        return store

    def make_route(self, config: AnyRoute) -> Any:
        role = self.role
        if isinstance(config, RedisRoute):
            return RedisRouteRunner(
                config, role.board, role.row, self.loop, self.access, self.schedule, self.names.address
            )
        return Route(config, role.config, role.board, role.row, self.loop, self.store, self.access)

    # -- life

    def run(self) -> int:
        self.install_signals()
        self.names.look_up_all(self.host_names())
        self.place_backends()
        lifeline = self.hub.loop.io(self.role.lifeline, 1)
        lifeline.start(self.master_died)
        gevent.spawn(self.names.refresh_often)
        if self.store is not None:
            gevent.spawn(self.store.run)
            gevent.spawn(self.store.follow, self.on_store_event)
        self.acceptors.serve("mongodb", "tcp")
        self.wait_for_layouts()
        self.acceptors.serve("redis")
        self.cells.set(self.role.row, "state", CHILD_STATES.index("draining" if self.draining_since else "up"))
        self.cells.set(self.role.row, "ready", self.role.generation + 1)
        # Connections make no reference cycles, so full collections find nothing: what exists now is for ever.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 100)
        self.stopped.wait()
        lifeline.stop()
        self.loop.bury()
        self.write_meters()
        return self.exit_status

    def install_signals(self) -> None:
        gevent.signal_handler(signal.SIGTERM, self.drain)
        gevent.signal_handler(signal.SIGQUIT, self.stop)
        gevent.signal_handler(signal.SIGUSR1, log.reopen)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])  # it may have waited for that
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(ignored, signal.SIG_IGN)

    def session_failed(self, channel: Channel) -> None:
        """A handler raised. That is a fault of ours: say where, and end that session alone."""
        log.logger.exception("a session failed and was closed")
        session = getattr(channel, "session", None)
        if session is not None:
            session.end("internal_error")
        elif isinstance(channel, RedisSession):
            channel.end("internal_error")
        elif isinstance(channel, Upstream):
            channel.cluster.upstream_lost(channel, errno.EPROTO)
        elif not isinstance(channel, Acceptor):
            channel.abort()

    # -- ten times a second

    def tick(self) -> None:
        started = native.now()
        self.loop.now = started
        cells, row = self.cells, self.role.row
        lag = max(0.0, started - self.expected_tick) if self.expected_tick else 0.0
        cells.set(row, "loop_lag_us", int(lag * 1e6))
        if lag > LATE_SECONDS:
            # We were not run for a while: what peers sent meanwhile must be seen before deadlines and idleness are.
            self.resumed = started
            self.loop.turn()
        self.expected_tick = started + TICK_SECONDS
        cells.set(row, "beat_ns", time.monotonic_ns())
        for route in self.routes:
            route.tick(started)
        cells.set(row, "connections", sum(len(route.sessions) for route in self.routes))
        if self.store is not None:
            cells.set(row, "store_up", int(self.store.up and not self.store.refusing))
            cells.set(row, "store_latency_us", int(self.store.latency * 1e6))
        self.place_backends()
        self.watch_health_age()
        self.preemption.look(started)
        cells.set(row, "batch", int(self.preemption.batch))
        if self.draining_since:
            self.go_on_draining(started)
        self.acceptors.tick(started)
        self.access.flush()
        if started >= self.next_trim:
            self.next_trim = started + TRIM_SECONDS
            memory.trim()
        self.loop.end_turn()

    def write_meters(self) -> None:
        for route in self.routes:
            route.tick(native.now())
        self.access.flush()

    def watch_health_age(self) -> None:
        """The supervisor may be gone: then the last view stands, and we say how old it is."""
        if self.draining_since:  # our generation's supervisor is gone, and what it watched may be
            return
        checked = [backend.verdict.get(0, "checked_ns") for route in self.routes for backend in route.backends]
        newest = max(checked, default=0)
        if not newest:
            return
        age = (time.monotonic_ns() - newest) / 1e9
        self.cells.set(self.role.row, "health_age_ms", int(age * 1000))
        longest = max(route.config.health.every + route.config.health.timeout for route in self.routes)
        stale = age > max(HEALTH_STALE_SECONDS, 3 * longest)
        if stale != self.health_was_stale:
            self.health_was_stale = stale
            if stale:
                log.logger.warning("health: the last verdict is %.0f s old; going on with it", age)
            else:
                log.logger.info("health: verdicts are fresh again")

    def wait_for_layouts(self) -> None:
        """A Redis route is of use once the supervisor has published where the slots are; but never wait for ever."""
        deadline = native.now() + LAYOUT_SECONDS
        while native.now() < deadline and not all(route.ready() for route in self.routes):
            if self.draining_since or self.stopped.wait(0.02):
                return

    # -- the store

    def agreeing(self) -> list[Route]:
        """The routes whose clients' places are agreed upon; a Redis route has none to agree upon."""
        return [route for route in self.routes if isinstance(route, Route)]

    def doubt_store(self) -> None:
        for route in self.agreeing():
            route.affinity.doubt()

    def on_store_event(self, event: dict[str, Any]) -> None:
        if event.get("event") != "moved":
            return
        for route in self.agreeing():
            if route.name == event.get("route"):
                route.affinity.moved(bytes.fromhex(event["key"]), str(event["backend"]))

    # -- names

    def host_names(self) -> list[str]:
        hosts = [entry.address.host for route in self.role.config.routes for entry in getattr(route, "backends", ())]
        return [host for host in hosts if host]

    def place_backends(self) -> None:
        """Every backend gets the address that its name has now."""
        for route in self.routes:
            for backend, entry in zip(route.backends, getattr(route.config, "backends", ()), strict=True):
                backend.locate(entry.address, self.names.address)

    def schedule(self, seconds: float, function: Callable[[], object]) -> None:
        """Call `function` on the hub later, as a turn of the loop of its own."""
        gevent.spawn_later(seconds, self.run_turn, function)

    def run_turn(self, function: Callable[[], object]) -> None:
        self.loop.now = native.now()
        try:
            function()
        except Exception:
            log.logger.exception("a scheduled step failed")
        self.loop.end_turn()

    # -- the end

    def master_died(self) -> None:
        """The lifeline's end of file: nobody would restart us or take our signals any more."""
        log.logger.error("the master is gone; leaving")
        self.stop()

    def drain(self) -> None:
        """No new sessions; those that are there may finish within `stop_timeout`. A second TERM means now."""
        if self.draining_since:
            self.stop()
            return
        self.draining_since = native.now()
        self.acceptors.close()
        self.cells.set(self.role.row, "state", CHILD_STATES.index("draining"))
        self.go_on_draining(self.draining_since)

    def go_on_draining(self, now: float) -> None:
        """End quiet MongoDB sessions a few at a time, spread over the first two thirds; the rest at the deadline."""
        left = sum(len(route.sessions) for route in self.routes)
        limit = self.role.config.stop_timeout
        passed = now - self.draining_since
        if not left:
            self.stop()
        elif passed >= limit:
            self.close_all("drained")
            self.stop()
        elif now - self.resumed >= IDLE_BEFORE_CLOSE:
            ticks = max(1.0, (limit * 2 / 3 - passed) / TICK_SECONDS)
            for route in self.routes:
                if route.config.mode != "tcp":
                    route.close_idle(now, IDLE_BEFORE_CLOSE, "drained", max(1, round(len(route.sessions) / ticks)))

    def stop(self) -> None:
        """Now: close what is left and leave."""
        self.acceptors.close()
        self.close_all("stopped")
        self.stopped.set()

    def close_all(self, reason: str) -> None:
        for route in self.routes:
            for session in tuple(route.sessions):
                session.end(reason)


def main(role: Role) -> int:
    """Serve until told to stop; returns the exit status."""
    return Worker(role).run()
