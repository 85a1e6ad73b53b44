"""Spans: places in a buffer, and what is found there without making an object of it: the twin of `span.pyx`."""

import binascii
from typing import Any


class Spans:
    """A growing list of (offset, length)."""

    __slots__ = ("count", "lengths", "offsets")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.lengths: list[int] = []
        self.count = 0

    def clear(self) -> int:
        self.offsets.clear()
        self.lengths.clear()
        self.count = 0
        return 0

    def push(self, offset: int, length: int) -> int:
        self.offsets.append(offset)
        self.lengths.append(length)
        self.count += 1
        return 0


class NameIndex:
    """Upper-case names to values, found by any spelling in a buffer."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[bytes, Any] = {}

    def add(self, name: bytes, value: Any) -> None:
        self.values[name] = value

    def find(self, data: bytearray, offset: int, length: int) -> Any:
        """The value of the name at data[offset:offset+length], or None."""
        return self.values.get(bytes(data[offset : offset + length]).upper())


def line_end(data: bytes | bytearray, at: int, end: int) -> int:
    """Where the CR LF that ends the line at `at` begins, or -1 when it is not there yet."""
    return data.find(b"\r\n", at, end)


def key_slot(data: bytes | bytearray, offset: int, length: int) -> int:
    """The hash slot of a key (Redis Cluster specification, "Hash tags")."""
    key = data[offset : offset + length]
    opened = key.find(b"{")
    if opened >= 0:
        closed = key.find(b"}", opened + 1)
        if closed > opened + 1:
            key = key[opened + 1 : closed]
    return binascii.crc_hqx(key, 0) & 16383
