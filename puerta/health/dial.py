"""What every kind of check needs: its result, a bounded connect and bounded answers, and errors in few words."""

import errno
import re
import socket
import time
from dataclasses import dataclass
from typing import Any, Protocol

from puerta.config.schema import Address
from puerta.resolve import lowest

PROXY_LOCAL = {
    "v1": b"PROXY UNKNOWN\r\n",
    "v2": b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
}
"""The header of a connection that the proxy makes on its own behalf (PROXY protocol specification, 2.1 UNKNOWN and
2.2 LOCAL): a backend that demands a header must get one from a check as well."""

ERROR_LENGTH = 200
ERRNO = re.compile(r"^\[Errno -?\d+\] ")


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found. `latency` is in seconds; `warnings` are about a backend that works but is set up oddly."""

    ok: bool
    drain: bool = False
    latency: float = 0.0
    error: str = ""
    warnings: tuple[str, ...] = ()


class Check(Protocol):
    """Asks one backend. Used by one thread at a time; `close` lets go of what it keeps between two checks."""

    def check(self) -> Result: ...

    def close(self) -> None: ...


class Bounded:
    """A connected socket that a driver reads from, and that reads no more than `begin` allows: a peer could send an answer
    without end, or one byte at a time within every timeout. Raises TimeoutError, or OSError for too many bytes."""

    def __init__(self, made: socket.socket) -> None:
        self.made = made
        self.begin(0, 0.0)

    def begin(self, most: int, seconds: float) -> None:
        """So many bytes, and so many seconds from now."""
        self.left, self.deadline = most, time.monotonic() + seconds

    def recv(self, size: int, *flags: int) -> bytes:
        data = self.made.recv(size, *flags)
        self._took(len(data))
        return data

    def recv_into(self, *arguments: Any) -> int:
        got = self.made.recv_into(*arguments)
        self._took(got)
        return got

    def _took(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise OSError(errno.EMSGSIZE, "the answer is too long")
        if time.monotonic() > self.deadline:
            raise TimeoutError

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)


def connect(address: Address, timeout: float) -> socket.socket:
    """A connected stream socket whose every call is bound by `timeout` seconds. Raises OSError."""
    if not address.path:
        return socket.create_connection((lowest(address.host), address.port), timeout)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout)
        made.connect(address.path)
    except BaseException:
        made.close()
        raise
    return made


def words(error: BaseException, address: Address | None = None) -> str:
    """An error as one short phrase: no errno, no address (the reader knows it), no list of configured timeouts."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).partition(" (configured timeouts")[0].strip()
    if address is not None:
        text = text.removeprefix(f"{address.path or address}: ")
    return ERRNO.sub("", text)[:ERROR_LENGTH] or type(error).__name__
