"""What the kernel must be asked for: cores, descriptors, identities, directories, and to be told when a parent dies."""

import ctypes
import os
import pwd
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from puerta.errors import BootError
from puerta.log import logger

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path, without the closing NUL (unix(7))."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded in the master, so that a child finds it ready


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom children become."""

    name: str
    uid: int
    gid: int


def look_up(user: str | None) -> Identity | None:
    """The identity behind `user`; None when children stay who they are. Raises BootError if that can't be done."""
    if user is None:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise BootError(f"there is no user {user!r} on this machine (create it, or change `user`)") from None
    if os.geteuid() == entry.pw_uid:
        return None
    if os.geteuid() != 0:
        raise BootError(f"only root can become {user!r} (start as root, or remove `user`)")
    return Identity(user, entry.pw_uid, entry.pw_gid)


def drop_privileges(identity: Identity) -> None:
    """Become `identity`. In this order: after setuid the groups could no longer be changed."""
    os.initgroups(identity.name, identity.gid)
    os.setgid(identity.gid)
    os.setuid(identity.uid)


def die_with_parent(parent: int) -> bool:
    """Have the kernel send SIGTERM when `parent` dies; False if it is already gone.

    A change of credentials clears the setting, so call it after drop_privileges. It survives exec (prctl(2)).
    """
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
    return os.getppid() == parent


def usable_cores() -> int:
    """Cores this process may run on, cut to the CPU quota of its cgroup (v2) as containers have it."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no cgroup v2 here
    return cores


def pin_to_core(seat: int) -> None:
    """Bind this process to the `seat`-th of the cores it may use, round robin."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[seat % len(allowed)]})


def raise_open_files(need: int) -> int:
    """Raise the limit of open descriptors as far as it goes, and return it; warns when it is less than `need`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass  # an unlimited hard limit above fs.nr_open: stay with what we have
    if soft != resource.RLIM_INFINITY and soft < need:
        logger.warning(
            "%d open files are allowed, the connection limits may need %d in one worker "
            "(raise LimitNOFILE/ulimit -n, or lower limits.connections)", soft, need,
        )  # fmt: skip
    return soft


def make_directory(path: Path, mode: int, owner: Identity | None) -> None:
    """Make `path` if it is missing and give it to `owner`. What exists is left as it is. Raises BootError."""
    try:
        if path.is_dir():
            return
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        path.chmod(mode)  # whatever the umask took away
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
    except OSError as error:
        raise BootError(f"can't make the directory {path}: {error.strerror}") from error


def check_socket_path(path: str) -> None:
    """Raises BootError when `path` is too long for a Unix socket."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise BootError(
            f"the socket path {path} has {length} bytes, a Unix socket's may have {SOCKET_PATH_LIMIT} "
            "(choose a shorter run_dir)"
        )


def describe_status(status: int) -> str:
    """How a child ended, from what waitpid said."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"
