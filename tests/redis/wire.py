"""A client that sees bytes: requests go out as they are given, replies come back frame by frame and undecoded."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import hiredis

PATIENCE = 20.0
"""Seconds until a reply that ought to come counts as missing."""


def request(*arguments: bytes | str | int) -> bytes:
    """An array of bulk strings."""
    parts = [argument if isinstance(argument, bytes) else str(argument).encode() for argument in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def bulk(value: bytes | str | None) -> bytes:
    if value is None:
        return b"$-1\r\n"
    data = value.encode() if isinstance(value, str) else value
    return b"$%d\r\n%s\r\n" % (len(data), data)


def array(items: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


def commands(data: bytes) -> tuple[list[list[bytes]], bytes]:
    """The complete commands that `data` begins with, and the rest."""
    found: list[list[bytes]] = []
    at = 0
    with contextlib.suppress(ValueError):
        while at < len(data):
            stop = data.index(b"\r\n", at)
            count, here = int(data[at + 1 : stop]), stop + 2
            words = []
            for _ in range(count):
                stop = data.index(b"\r\n", here)
                end = stop + 2 + int(data[here + 1 : stop])
                if end + 2 > len(data):
                    return found, data[at:]
                words.append(data[stop + 2 : end])
                here = end + 2
            found.append(words)
            at = here
    return found, data[at:]


def frame_end(data: bytes, at: int) -> int:
    """Where the frame that begins at `at` ends. Raises IndexError when more bytes are needed."""
    stop = data.find(b"\r\n", at)
    if stop < 0:
        raise IndexError
    kind, line = data[at : at + 1], data[at + 1 : stop]
    at = stop + 2
    if kind in b"$=!":
        if int(line) >= 0:
            at += int(line) + 2
        if at > len(data):
            raise IndexError
        return at
    if kind in b"*~>%|":
        count = int(line) * (2 if kind in b"%|" else 1) + (kind == b"|")
        for _ in range(count):
            at = frame_end(data, at)
        return at
    assert kind in b"+-:_#,(", data[:100]
    return at


def parts(frame: bytes) -> list[bytes]:
    """The elements of an aggregate, undecoded."""
    at = frame.index(b"\r\n") + 2
    found = []
    while at < len(frame):
        end = frame_end(frame, at)
        found.append(frame[at:end])
        at = end
    return found


def decoded(frame: bytes) -> Any:
    """As hiredis sees it; errors are returned, not raised."""
    reader = hiredis.Reader()
    reader.feed(frame)
    return reader.gets()


class Wire:
    """One connection. Use it as a context manager, or close it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def fill(self) -> bool:
        chunk = self.socket.recv(1 << 18)
        self.buffer += chunk
        return bool(chunk)

    def frame(self) -> bytes:
        """The next reply or push."""
        while True:
            try:
                end = frame_end(self.buffer, 0)
            except IndexError:
                assert self.fill(), f"the connection ended within {self.buffer[:200]!r}"
            else:
                found, self.buffer = self.buffer[:end], self.buffer[end:]
                return found

    def frames(self, count: int) -> list[bytes]:
        """The next `count`."""
        found: list[bytes] = []
        at = 0
        while len(found) < count:
            try:
                end = frame_end(self.buffer, at)
            except IndexError:
                assert self.fill(), (
                    f"the connection ended after {len(found)} of {count}: {self.buffer[at : at + 200]!r}"
                )
            else:
                found.append(self.buffer[at:end])
                at = end
        self.buffer = self.buffer[at:]
        return found

    def ask(self, *arguments: bytes | str | int) -> bytes:
        """One command's one reply."""
        self.send(request(*arguments))
        return self.frame()

    def pipeline(self, commands: Iterable[tuple[bytes | str | int, ...]]) -> list[bytes]:
        """Sent in one piece; as many replies."""
        requests = [request(*command) for command in commands]
        self.send(b"".join(requests))
        return self.frames(len(requests))

    def rest(self) -> bytes:
        """All bytes until the other side closes."""
        while self.fill():
            pass
        found, self.buffer = self.buffer, b""
        return found

    def quiet(self, seconds: float = 0.15) -> bool:
        """Nothing comes for so long."""
        self.socket.settimeout(seconds)
        try:
            return not self.buffer and not self.fill() is not False
        except TimeoutError:
            return not self.buffer
        finally:
            self.socket.settimeout(PATIENCE)


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.01)
    return value
