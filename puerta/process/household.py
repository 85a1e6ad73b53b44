"""What the master owns, and how it comes to own it: everything that must exist before the first fork.

The order matters. Privileges are looked up first and dropped last (in each child), directories come before the files in
them, sockets before the pid file: a pid file says that somebody serves here.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from puerta import log
from puerta.board import Board
from puerta.config.schema import Config
from puerta.errors import BootError
from puerta.process import needs, unix
from puerta.process.daemon import Readiness
from puerta.process.listener import Listeners
from puerta.process.pidfile import PidFile
from puerta.process.store import Store
from puerta.process.timing import Timing
from puerta.role import SUPERVISOR, WORKER

ENTRIES: Mapping[str, str] = {WORKER: "puerta.worker:main", SUPERVISOR: "puerta.supervisor:main"}
"""The roles, by the text that a child imports after the fork."""

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says, beyond the configuration."""

    config_path: str
    load: Callable[[], Config]
    """Reads the configuration again. Raises ConfigError."""
    pid_file: str | None = None
    error_log: str | None = None
    daemon: bool = False
    entries: Mapping[str, str] = field(default_factory=lambda: ENTRIES)
    timing: Timing = field(default_factory=Timing)


@dataclass(slots=True)
class Household:
    """What the master owns, and its children are given or must let go of."""

    options: Options
    identity: unix.Identity | None
    board: Board
    listeners: Listeners
    pid_file: PidFile
    store: Store | None
    store_url: str
    lifeline: int
    """Read end of the pipe whose end of file tells children that the master is gone."""
    lifeline_writer: int
    readiness: Readiness

    def private(self) -> list[int]:
        """The descriptors that no child may keep."""
        return [self.lifeline_writer, self.pid_file.descriptor, *self.readiness.descriptors]

    def close(self) -> None:
        """Unlink what is ours in the file system and close the listeners."""
        self.listeners.close()
        self.pid_file.remove()


def set_up(config: Config, options: Options, readiness: Readiness) -> Household:
    """Take hold of everything. Raises BootError or BoardFull, and then no socket or pid file is left behind."""
    identity = unix.look_up(config.user)
    run_dir = Path(config.run_dir).absolute()
    unix.make_directory(run_dir, 0o755, identity)
    set_up_log(config, options, identity)
    pid_file = PidFile(Path(options.pid_file) if options.pid_file else run_dir / "puerta.pid")
    pid_file.check()
    store = Store(run_dir, config.name, identity) if config.store.url == EMBEDDED else None
    workers = needs.worker_count(config)
    unix.raise_open_files(needs.open_files(config))
    board = Board()
    needs.lay_out(board, config)
    listeners = Listeners(identity)
    try:
        listeners.open(needs.addresses(config), workers)
        listeners.open_admin(config.admin.socket or str(run_dir / "puerta.sock"), config.admin.listen)
        listeners.go_live(workers)
        pid_file.write()
    except Exception:
        listeners.close()
        raise
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    store_url = store.url if store is not None else config.store.url
    return Household(options, identity, board, listeners, pid_file, store, store_url, reader, writer, readiness)


def set_up_log(config: Config, options: Options, identity: unix.Identity | None) -> None:
    """Write records where the options and the configuration say. Raises BootError when the file can't be opened."""
    path = options.error_log
    if path is None and options.daemon:
        path = os.path.join(config.run_dir, "puerta.log")
    before = log.handler
    try:
        log.setup(config.log.level, config.log.format, path and os.path.abspath(path), options.daemon)
    except OSError as error:
        raise BootError(f"can't write the log {path}: {error.strerror}") from error
    if before is not None and before.path is not None:
        before.stream.close()
    _own_log(identity)


def reopen_log(identity: unix.Identity | None) -> None:
    """The log file was moved away: begin another under its name."""
    log.reopen()
    _own_log(identity)


def _own_log(identity: unix.Identity | None) -> None:
    """Children that dropped privileges must be able to reopen the file too."""
    if identity is not None and log.handler is not None and log.handler.path is not None:
        with contextlib.suppress(OSError):
            os.fchown(log.handler.stream.fileno(), identity.uid, identity.gid)
