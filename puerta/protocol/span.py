"""Spans: places in a buffer, and what is found there without making an object of it: the twin of `span.pyx`."""

import binascii
import re
from typing import Any

MOST_WORDS = 32
_MOST_KEPT = 256
_OFTEN = 256
"""To compile a shape costs about as much as to compare it with so many frames."""


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

    def has(self, offset: int) -> bool:
        return offset in self.offsets


class Shape:
    """Where the words of a frame stand, and what is between them: most have the shape of the one before.

    `length` is that of the whole frame, 0 when no shape is known. One that was `met` often becomes a regular expression, which
    finds many frames with one call.
    """

    __slots__ = ("between", "length", "met", "pattern")

    def __init__(self) -> None:
        self.between: list[tuple[int, bytes]] = []
        self.forget()

    def forget(self) -> int:
        self.pattern: re.Pattern[bytes] | None = None
        self.length = self.met = 0
        return 0

    def learn(self, data: bytes | bytearray, start: int, length: int, spans: Spans, first: int) -> int:
        """This is the frame data[start:start+length] with its words `spans`, of which those from number `first` on may differ."""
        self.forget()
        if spans.count > MOST_WORDS:
            return 0
        pieces = []
        at = kept = 0
        for index in range(first, spans.count):
            pieces.append((at, spans.offsets[index]))
            kept += spans.offsets[index] - at
            at = spans.offsets[index] + spans.lengths[index]
        if at < length - 2:
            pieces.append((at, length))
            kept += length - at
        if kept <= _MOST_KEPT:
            self.between = [(at, bytes(data[start + at : start + end])) for at, end in pieces]
            self.length = length
        return 0

    def alike(self, data: bytes | bytearray, start: int, end: int, most: int) -> int:
        """How many whole frames of this shape follow one another from data[start] on, or so many as that."""
        if self.pattern is not None:
            found = self.pattern.match(data, start, min(end, start + self.length * most))
            return (found.end() - start) // self.length if found is not None else 0
        if not 0 < self.length <= end - start:
            return 0
        for at, between in self.between:
            if not data.startswith(between, start + at):
                return 0
        self.met += 1
        if self.met == _OFTEN:
            self.compile()
        return 1

    def compile(self) -> None:
        whole = b""
        behind = 0
        for at, between in self.between:
            whole += b".{%d}%b" % (at - behind, re.escape(between))
            behind = at + len(between)
        whole += b".{%d}" % (self.length - behind)
        self.pattern = re.compile(b"(?:%b)+" % whole, re.DOTALL)


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
    if 123 in key:  # a "{"
        opened = key.index(123)
        closed = key.find(b"}", opened + 1)
        if closed > opened + 1:
            key = key[opened + 1 : closed]
    return binascii.crc_hqx(key, 0) & 16383
