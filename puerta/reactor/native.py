"""The system calls and the memory under the loop, in plain Python: the twin of `native.pyx`.

Used where no compiler was at hand, and with PUERTA_PURE=1. Both keep to the same few functions, and the same tests run on both.
Whatever goes wrong in a call comes back as the negative errno, because on these paths EAGAIN is an everyday answer.
"""

import _socket
import contextlib
import errno
import os
import select
import socket
import struct
import time
from typing import Any

COMPILED = False

_RESET = struct.pack("ii", 1, 0)
_BOTH_BY_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_KEPT_TRYING = frozenset({errno.EINTR, errno.ECONNABORTED, errno.EPROTO, errno.EPERM})

_NO_SIGNAL = _socket.MSG_NOSIGNAL

now = time.monotonic


_handles: dict[int, _socket.socket] = {}
"""Python reaches a descriptor's calls only through a socket object: one for each descriptor that was opened here."""


def _handle(fd: int) -> _socket.socket:
    """The socket object on `fd`; a listener's, which was opened elsewhere, is made at its first use."""
    handle = _handles.get(fd)
    if handle is None:
        handle = _handles[fd] = _socket.socket(fileno=fd)
    return handle


_LITTLE = 4 << 10
"""Bytes up to which a copy costs less than a view of them."""


def _send(fd: int, data: bytearray, start: int, end: int) -> int:
    """Send data[start:end]. Returns the bytes that the socket took, or -errno."""
    try:
        if end - start <= _LITTLE:
            return _handles[fd].send(data[start:end], _NO_SIGNAL)
        with memoryview(data) as view:
            return _handles[fd].send(view[start:end], _NO_SIGNAL)
    except OSError as error:
        return -(error.errno or errno.EIO)


_SLACK = 64 << 10
"""Bytes already let go of that a buffer may have in front before it moves the rest."""


class Buffer:
    """Bytes on their way: filled from one socket, drained into another. `data[start:end]` is what it holds."""

    __slots__ = ("data", "end", "sent", "start")

    def __init__(self) -> None:
        self.data = bytearray()
        self.start = 0
        self.sent = 0
        self.end = 0

    def reserve(self, room: int) -> int:
        """Make at least `room` bytes free behind `end`."""
        if len(self.data) - self.end >= room:
            return 0
        if self.start:
            self.move()
        if len(self.data) - self.end < room:
            self.data.extend(bytes(room - (len(self.data) - self.end)))
        return 0

    def move(self) -> None:
        """Begin with what is held."""
        del self.data[: self.start]
        self.end -= self.start
        self.sent = max(0, self.sent - self.start)
        self.start = 0

    def size(self) -> int:
        return self.end - self.start

    def fill(self, fd: int, room: int) -> int:
        """Receive at most `room` bytes behind what is held. Returns their count, 0 at end of file, or -errno."""
        if len(self.data) - self.end < room:
            self.reserve(room)
        try:
            if self.end == 0:
                got = _handles[fd].recv_into(self.data, room)
            else:
                with memoryview(self.data) as view:
                    got = _handles[fd].recv_into(view[self.end : self.end + room])
        except OSError as error:
            return -(error.errno or errno.EIO)
        self.end += got
        return got

    def drain(self, fd: int) -> int:
        """Send what is held and keep what the socket did not take. Returns the bytes sent or -errno."""
        sent = _send(fd, self.data, self.start, self.end)
        if sent < 0:
            return sent
        self.start += sent
        if self.start == self.end:
            self.start = self.end = 0
        return sent

    def append(self, data: bytes | bytearray) -> int:
        if self.end != len(self.data) or self.start > _SLACK:
            self.cut()
        self.data += data
        self.end += len(data)
        return 0

    def extend(self, data: Any, offset: int, length: int) -> int:
        """Append data[offset:offset+length]."""
        if self.end != len(self.data) or self.start > _SLACK:
            self.cut()
        self.data += data[offset : offset + length]
        self.end += length
        return 0

    def cut(self) -> None:
        """Have nothing behind what is held, where a bytearray grows by itself, and little in front of it."""
        del self.data[self.end :]
        if self.start > _SLACK:
            self.move()

    def push(self, fd: int) -> int:
        """Send what has not been sent, but keep it until it is `skip`ped. Returns the bytes sent or -errno."""
        sent = _send(fd, self.data, self.sent, self.end)
        if sent > 0:
            self.sent += sent
        return sent

    def unsent(self) -> int:
        return self.end - self.sent

    def skip(self, length: int) -> int:
        """Let go of the first `length` bytes held; an empty buffer begins anew."""
        self.start += length
        if self.start == self.end:
            self.start = self.sent = self.end = 0
        elif self.sent < self.start:
            self.sent = self.start
        return 0

    def peek(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes, `offset` behind the first one held."""
        first = self.start + offset
        return bytes(self.data[first : first + length])

    def split(self) -> "Buffer":
        """Move what is held into a buffer of its own, just large enough."""
        other = Buffer()
        other.append(self.take())
        return other

    def take(self) -> bytes:
        """All that is held, as bytes; the buffer is empty afterwards."""
        data = bytes(self.data[self.start : self.end])
        self.start = self.end = 0
        return data


class Poller:
    """One epoll set. Whoever adds an owner keeps it alive until its descriptor is closed and the current batch is done."""

    def __init__(self) -> None:
        self.epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self.owners: dict[int, Any] = {}
        self.ready: list[tuple[int, int]] = []

    def fileno(self) -> int:
        return self.epoll.fileno()

    def add(self, fd: int, owner: Any, edge: bool) -> int:
        """Watch `fd` for `owner`: both directions by edge, or (a listener) input by level."""
        self.epoll.register(fd, _BOTH_BY_EDGE if edge else select.EPOLLIN)
        self.owners[fd] = owner
        return 0

    def remove(self, fd: int) -> int:
        """Stop watching a descriptor that stays open (a listener that pauses)."""
        self.epoll.unregister(fd)
        return 0

    def poll(self, milliseconds: int = 0) -> int:
        """Collect what is ready, waiting for it no longer than that; returns how many, for `owner` and `events`."""
        self.ready = self.epoll.poll(milliseconds / 1000, 512)
        return len(self.ready)

    def owner(self, index: int) -> Any:
        return self.owners[self.ready[index][0]]

    def events(self, index: int) -> int:
        return self.ready[index][1]

    def close(self) -> None:
        self.epoll.close()


class Endpoint:
    """A resolved address to connect to. Raises ValueError for a host that is not an IP address (or a path)."""

    def __init__(self, host: str, port: int, path: str = "") -> None:
        self.address: Any = path or (host, port)
        if path:
            self.family = socket.AF_UNIX
            if len(path.encode()) > 107:
                raise ValueError(f"{path}: the path is too long for a Unix socket")
            return
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.inet_pton(self.family, host)
        except OSError:
            raise ValueError(f"{host}: not an IP address") from None

    def connect(self) -> int:
        """Begin a connection; returns its descriptor (it is usable once it reports writable), or -errno."""
        try:
            begun = _socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            return -(error.errno or errno.EIO)
        if self.family != socket.AF_UNIX:
            begun.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failure = begun.connect_ex(self.address)
        if failure not in (0, errno.EINPROGRESS):
            begun.close()
            return -failure
        _handles[begun.fileno()] = begun
        return begun.fileno()


def tune_listener(fd: int) -> None:
    """Have every connection that this listener accepts send small writes at once and probe a peer that may have vanished.

    The kernel copies a listener's options to what it accepts. No TCP_USER_TIMEOUT here: a client may take its time to read.
    """
    listener = _handle(fd)
    if listener.family != socket.AF_UNIX:
        _tune(listener)


def keep_alive(fd: int, patience: int = 30000) -> int:
    """Probe a silent peer after a minute. With `patience`, give up on one that takes none of our bytes for so many milliseconds:

    it may have vanished, but it may also be busy, for the kernel counts the time that it does not read (tcp(7)).
    """
    handle = _handles[fd]
    if handle.family != socket.AF_UNIX:
        _tune(handle)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
    return 0


def _tune(handle: _socket.socket) -> None:
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)


def accept(fd: int) -> tuple[int, str, int] | int | None:
    """The next waiting connection as (descriptor, host, port), None when nobody waits, or the negative errno.

    The descriptor is non-blocking and close-on-exec. A Unix socket's peer is ("unix", 0).
    """
    listener = _handle(fd)
    while True:
        try:
            accepted, address = listener._accept()  # type: ignore[attr-defined]
            break
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _KEPT_TRYING:
                return -(error.errno or errno.EIO)
    os.set_blocking(accepted, False)
    _handles[accepted] = _socket.socket(listener.family, socket.SOCK_STREAM, 0, accepted)
    if isinstance(address, tuple):
        return accepted, address[0], address[1]
    return accepted, "unix", 0


def connect_error(fd: int) -> int:
    """How a connect that was in progress ended: 0, or its errno."""
    return _handles[fd].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def send_bytes(fd: int, data: bytes) -> int:
    """Send once; returns how many bytes the socket took, or -errno."""
    try:
        return _handles[fd].send(data, _NO_SIGNAL)
    except OSError as error:
        return -(error.errno or errno.EIO)


def local_address(fd: int) -> tuple[str, int]:
    """The (host, port) a connection was made to; ("unix", 0) for a Unix socket."""
    address = _handles[fd].getsockname()
    return address[:2] if isinstance(address, tuple) else ("unix", 0)


def error_text(error: int) -> str:
    """An errno in words."""
    return os.strerror(error)


def send_span(fd: int, data: bytearray, start: int, length: int) -> int:
    """Send data[start:start+length] once; returns how many bytes the socket took, or -errno."""
    return send_bytes(fd, bytes(data[start : start + length]))


def shutdown_write(fd: int) -> int:
    try:
        _handles[fd].shutdown(socket.SHUT_WR)
    except OSError:
        return -1
    return 0


def close_fd(fd: int) -> int:
    _handles.pop(fd).close()
    return 0


def abort_fd(fd: int) -> int:
    """Close so that the peer sees a reset: it must not take what it got for complete."""
    with contextlib.suppress(OSError):
        _handles[fd].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return close_fd(fd)
