"""One child: its record in the master, and its first steps after the fork.

A child never returns into the master's frames: the trampoline ends in os._exit, so neither the master's `finally`
blocks nor its atexit functions run twice. What a role needs is imported here, after the fork: the master itself stays
free of gevent, clients and TLS, and a broken role can't take it down.
"""

import faulthandler
import importlib
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import setproctitle

from puerta.config.schema import Config
from puerta.log import logger
from puerta.process import signals, unix
from puerta.process.listener import Key, Listeners
from puerta.role import EXIT_NEVER_BOOTS, WORKER, Role

STARTING, UP, DRAINING, BACKOFF, BROKEN, HUNG = "starting", "up", "draining", "backoff", "broken", "hung"
"""A child's states, as board.CHILD_STATES has them. Backoff and broken are those of a seat whose last child is dead."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A configuration and its number; a child lives and dies with the one it was born with."""

    number: int
    config: Config


@dataclass(slots=True, eq=False)
class Child:
    """What the master knows of one child. Times are seconds of the monotonic clock; `pid` is 0 when it is dead."""

    role: str
    seat: int
    row: int
    generation: Generation
    pid: int
    started: float
    holds: frozenset[Key]
    restarts: int = 0
    state: str = STARTING
    since: float = 0.0
    up_at: float | None = None
    kill_at: float = math.inf
    aborted: bool = False
    _sent: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{self.role} {self.seat} ({self.pid})" if self.role == WORKER else f"{self.role} ({self.pid})"

    @property
    def drain_limit(self) -> float:
        """Seconds it may take to finish what it has."""
        return self.generation.config.stop_timeout if self.role == WORKER else 0.0

    def become(self, state: str, now: float) -> None:
        if state == UP and self.up_at is None:
            self.up_at = now
        self.state, self.since = state, now

    def up_for(self, now: float) -> float:
        return 0.0 if self.up_at is None else now - self.up_at

    def signal(self, number: int) -> None:
        """Safe while it lives in the master's table: its pid can't be reused before it was reaped."""
        if self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                name = signal.Signals(number).name
                logger.error("%s can't be sent %s (give a master with `user` the capability CAP_KILL)", self, name)

    def retire(self, number: int, grace: float, now: float) -> None:
        """Ask it, once, to go; what is left after `grace` seconds is killed."""
        if number in self._sent:
            return
        self._sent.add(number)
        self.become(DRAINING, now)
        self.kill_at = min(self.kill_at, now + grace)
        self.signal(number)

    def drains(self, grace: float, now: float) -> None:
        """Somebody else asked it to go: to ask again would end it at once."""
        self._sent.add(signal.SIGTERM)
        self.become(DRAINING, now)
        self.kill_at = min(self.kill_at, now + grace)

    def abort(self, grace: float, now: float) -> None:
        """Have it dump its stacks, then kill it."""
        if not self.aborted:
            self.aborted = True
            self.kill_at = min(self.kill_at, now + grace)
            self.signal(signal.SIGABRT)

    def kill_if_overdue(self, now: float) -> None:
        if now >= self.kill_at and signal.SIGKILL not in self._sent:
            self._sent.add(signal.SIGKILL)
            logger.warning("%s did not go in time: killed", self)
            self.signal(signal.SIGKILL)


@dataclass(slots=True)
class Birth:
    """Everything the trampoline needs, put together before the fork."""

    role: Role
    run: Callable[[Role], int]
    parent: int
    listeners: Listeners
    private: Sequence[int]
    """The master's own descriptors."""
    identity: unix.Identity | None


def spawn(birth: Birth) -> int:
    """Fork a child that runs `birth`, and return its pid. Raises OSError when the kernel has no process left."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = _live(birth)
    finally:
        os._exit(status)


def run_entry(entry: str, role: Role) -> int:
    """Import `module:function` and call it. A module that can't be imported never boots."""
    module, _, function = entry.partition(":")
    try:
        main: Callable[[Role], int] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, SyntaxError):
        logger.exception("%s can't be loaded", entry)
        return EXIT_NEVER_BOOTS
    return main(role)


def title(role: Role) -> str:
    seat = f" {role.seat}" if role.name == WORKER else ""
    return f"puerta: {role.name}{seat} [{role.config.name}]"


def _live(birth: Birth) -> int:
    try:
        status = birth.run(birth.role) if _settle(birth) else 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        status = 1
        try:
            logger.exception("%s failed", birth.role.name)
        except Exception:
            os.write(2, traceback.format_exc().encode())
    for handler in logger.handlers:
        handler.flush()
    logging.shutdown()
    sys.stdout.flush()
    return status & 0xFF


def _settle(birth: Birth) -> bool:
    """Become a process of its own. False when the master died meanwhile: there is nothing to do then."""
    role = birth.role
    for descriptor in birth.private:
        os.close(descriptor)
    birth.listeners.close_others(role.listeners)
    setproctitle.setproctitle(title(role))
    signals.restore_in_child()
    if birth.identity is not None:
        unix.drop_privileges(birth.identity)
    if not unix.die_with_parent(birth.parent):
        return False
    # Stacks are written on a crash, and on SIGABRT, which the master sends to one that hangs.
    faulthandler.enable(all_threads=True)
    if role.config.pin_cpus and role.name == WORKER:
        unix.pin_to_core(role.seat)
    return True
