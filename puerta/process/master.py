"""The master: wait for a signal, handle it, reap, look at the beats, reconcile. One thread, no event loop.

Handlers change only what is *desired*: the state, how many workers, whether to reload. `reconcile` compares that with
what *is*, and is the one place from which children are forked or asked to go. The master imports nothing heavy: it
must outlive every mistake its children make.
"""

import gc
import os
import signal
import time

import setproctitle

from puerta.board import MASTER_STATES
from puerta.config.schema import Config
from puerta.errors import PuertaError
from puerta.log import logger
from puerta.process import needs, signals, unix
from puerta.process.child import Generation
from puerta.process.daemon import Readiness
from puerta.process.household import Household, Options, reopen_log, set_up
from puerta.process.reload import Reload
from puerta.process.roster import Roster
from puerta.process.seats import Adoptions
from puerta.process.watch import Watch, is_busy
from puerta.role import STORE, SUPERVISOR, WORKER

BOOTING, RUNNING, DRAINING, STOPPING = MASTER_STATES


def run(config: Config, options: Options, readiness: Readiness) -> int:
    """Serve until told to stop. Returns the exit status: 0 after a clean stop, 1 when the server could not boot."""
    signals.block()
    setproctitle.setproctitle(f"puerta: master [{config.name}]")
    try:
        house = set_up(config, options, readiness)
    except (PuertaError, OSError) as error:
        logger.error("can't start: %s", error)
        readiness.tell(f"can't start: {error}")
        return 1
    gc.freeze()  # what is loaded by now stays out of collections, so its pages stay shared with the children
    try:
        return Master(config, house).loop()
    except Exception:
        logger.exception("the master failed; its children leave")
        return 1
    finally:
        house.close()


class Master:
    """Desired state, and the loop that brings it about."""

    def __init__(self, config: Config, house: Household) -> None:
        self.house, self.options, self.timing = house, house.options, house.options.timing
        self.started = time.monotonic()
        self.state = BOOTING
        self.exit_status = 0
        self.roster = Roster(house, Generation(1, config), needs.worker_count(config), self.started)
        self.children = self.roster.children
        self.reloading = Reload(self.roster)
        self.watch = Watch(house.board.workers, house.store, self.timing)
        self.adoptions = Adoptions(house.board, house.listeners, self.timing.adopt_after)
        self.steps = 0
        """Workers more (or less) that TTIN and TTOU asked for since the last look."""
        self.retire_asked = False

    @property
    def serving(self) -> bool:
        return self.state in (BOOTING, RUNNING)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def loop(self) -> int:
        logger.info("starting %s, workers: %d", self.roster.current.config.name, self.roster.count)
        self.reconcile(time.monotonic())
        while self.serving or self.children.living:
            received = signals.wait(self.timing.busy_tick if is_busy(self.children) else self.timing.tick)
            now = time.monotonic()
            if received is not None:
                self.handle(received)
            self.reap(now)
            self.watch.look(self.children, now)
            self.reconcile(now)
        logger.info("stopped")
        return self.exit_status

    def handle(self, received: signals.Received) -> None:
        entry = received.signal
        if entry.number != signal.SIGCHLD:
            logger.info("%s from %s", entry.name, f"process {received.sender}" if received.sender else "outside")
        getattr(self, entry.action)()

    def reap(self, now: float) -> None:
        dead = list(self.children.reap())
        for child, status in dead:
            seat = self.roster.bury(child, status, now, refill=self.serving)
            if seat is not None and self.reloading.roll is not None:
                self.reloading.roll.lost(seat, unix.describe_status(status))
        if dead:
            self.reloading.prune()

    # -- handlers: they change what is desired -----------------------------------------------------------------------

    def drain(self) -> None:
        self.state = DRAINING if self.serving else STOPPING

    def stop(self) -> None:
        self.state = STOPPING

    def reload(self) -> None:
        self.reloading.asked = True
        self.retire_asked = False

    def reopen(self) -> None:
        reopen_log(self.house.identity)
        for child in self.children.of(WORKER, SUPERVISOR):
            child.signal(signal.SIGUSR1)

    def upgrade(self) -> None:
        logger.warning("upgrade is not available in this version, use a restart")

    def add_worker(self) -> None:
        self.steps += 1

    def remove_worker(self) -> None:
        self.steps -= 1

    def retire_workers(self) -> None:
        self.retire_asked = self.options.daemon

    def note_child(self) -> None:
        """Its only use is to wake the loop, which reaps on every turn."""

    # -- reconcile: bring about what is desired ----------------------------------------------------------------------

    def reconcile(self, now: float) -> None:
        if self.state == BOOTING:
            self._settle_boot(now)
        if self.state == RUNNING:
            self.reloading.settle(now)
            self._settle_count()
        if self.serving:
            self.roster.retire_unwanted(now)
            self.roster.replace_draining(now)
            self.adoptions.settle(self.roster.workers, now)
            self.roster.fill(now)
        else:
            self._wind_down(now)
        for child in self.children:
            child.kill_if_overdue(now)
        self._publish()

    def _settle_boot(self, now: float) -> None:
        """Booting ends when every seat is up or will never be; without any worker the server could not boot."""
        workers, supervisor = self.roster.workers, self.roster.supervisor
        up = sum(seat.served for seat in workers)
        late = now - self.started > self.timing.give_up
        if supervisor.broken:
            self._fail("the supervisor never boots, see above")
        elif all(seat.broken for seat in workers):
            self._fail("no worker ever boots, see above")
        elif late and not up:
            self._fail(f"no worker was ready within {self.timing.give_up:g} s")
        elif late or (supervisor.served and all(seat.served or seat.broken for seat in workers)):
            self.state = RUNNING
            where = ", ".join(str(address) for address in needs.addresses(self.roster.current.config))
            logger.info("ready: %d of %d workers serve %s", up, len(workers), where)
            self.house.readiness.tell()

    def _fail(self, why: str) -> None:
        logger.error("can't start: %s", why)
        self.house.readiness.tell(f"can't start: {why}")
        self.exit_status, self.state = 1, STOPPING

    def _settle_count(self) -> None:
        """More workers or less, but not while seats are being handed over."""
        if self.reloading.roll is not None:
            return
        if self.retire_asked:
            self.roster.want(0)
        elif self.steps:
            self.roster.change(self.steps)
        self.retire_asked, self.steps = False, 0

    def _wind_down(self, now: float) -> None:
        """Workers first, then the supervisor, so that operators see the end of it, then the store that both use."""
        self.house.listeners.close_routes()
        hurry = self.state == STOPPING
        stages = ((WORKER, SUPERVISOR), (STORE,)) if hurry else ((WORKER,), (SUPERVISOR,), (STORE,))
        for roles in stages:
            leaving = self.children.of(*roles)
            for child in leaving:
                self.children.retire(child, signal.SIGQUIT if hurry and child.role != STORE else signal.SIGTERM, now)
            if leaving:
                return

    def _publish(self) -> None:
        table = self.house.board.master
        table.set(0, "pid", os.getpid())
        table.set(0, "generation", self.roster.current.number)
        table.set(0, "state", MASTER_STATES.index(self.state))
        table.set(0, "started_ns", int(self.started * 1e9))
        table.set(0, "seats", self.roster.count)
        self.children.publish()
