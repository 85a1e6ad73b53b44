"""The pid file: who runs here, and a lock that says whether they still do."""

import contextlib
import fcntl
import os
from pathlib import Path

from puerta.errors import BootError


class PidFile:
    """Written whole under another name and renamed, so a reader sees a number or no file. The flock on it ends with the
    process, even by SIGKILL; children must close `descriptor`, for the lock belongs to the open description."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def check(self) -> None:
        """Raises BootError when a living process holds the file."""
        try:
            with self.path.open(encoding="ascii", errors="replace") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return
        except BlockingIOError:
            raise BootError(f"already running as pid {self._holder()} ({self.path} is locked)") from None
        except OSError as error:
            raise BootError(f"can't read the pid file {self.path}: {error.strerror}") from error

    def write(self) -> None:
        """Take the file. Raises BootError when it can't be written or another process holds it."""
        self.check()
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self.descriptor, f"{os.getpid()}\n".encode())
            fresh.rename(self.path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise BootError(f"can't write the pid file {self.path}: {error.strerror}") from error

    def remove(self) -> None:
        """Unlink the file if it is still ours: a successor may have taken the name."""
        if self.descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self.descriptor), os.stat(self.path)):
                self.path.unlink()
        os.close(self.descriptor)
        self.descriptor = -1

    def _holder(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(int(self.path.read_text(encoding="ascii")))
        return "?"
