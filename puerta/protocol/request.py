"""One request of a Redis client, as it comes in: where its arguments are, without decoding them.

A request is what clients may send: an array of bulk strings, or an inline command. The limits and the error texts are the
server's own (networking.c, processMultibulkBuffer and processInlineBuffer).
"""

from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.resp import BAD, COMPLETE, INLINE, MALFORMED, MORE, number
    from puerta.protocol.span import Shape, Spans, line_end

INLINE_LIMIT = cython.declare(cython.Py_ssize_t, 64 << 10)
MOST_ARGUMENTS = cython.declare(cython.Py_ssize_t, 1 << 20)
UNTRUSTED_ARGUMENTS = cython.declare(cython.Py_ssize_t, 10)
UNTRUSTED_BULK = cython.declare(cython.Py_ssize_t, 16384)


class Request:
    """One request as it comes in. `spans` are its arguments relative to its first byte, `at` its length once it is COMPLETE.

    INLINE: the line is complete (`at` is its length with the line end) and `inline.arguments` takes it apart.
    BAD: `error` is what the server would say before it closes. `biggest` bounds a bulk string; until a client is
    `trusted` (authenticated) it gets the server's much smaller limits. Its reader keeps in `spec` and `most` what
    it finds out about this name and shape: how many such requests it takes together. `run` of them follow one another here.
    """

    if not cython.compiled:
        __slots__ = (
            "at",
            "biggest",
            "error",
            "most",
            "run",
            "seen",
            "shape",
            "size",
            "spans",
            "spec",
            "total",
            "trusted",
        )

    def __init__(self, biggest: int) -> None:
        self.spans = Spans()
        self.shape = Shape()
        self.spec: Any = None
        self.run = self.most = 1
        self.biggest = biggest
        self.trusted = True
        self.error = b""
        self.at = self.seen = 0
        self.total = -1
        self.size = -1

    def begin(self, data: bytes | bytearray, start: int, end: int) -> int:
        """`parse`, of a request that begins here. About one that is like the last there is nothing to find out."""
        if self.trusted:
            self.run = self.shape.alike(data, start, end, self.most)
            if self.run > 0:
                return COMPLETE
        self.forget()
        return self.parse(data, start, end)

    def forget(self) -> int:
        """There was no request before."""
        self.shape.forget()
        self.spec = None
        self.spans.clear()
        self.run = self.most = 1
        self.at = self.seen = 0
        self.total = -1
        self.size = -1
        return 0

    def split(self) -> "Request":
        """Move a request that is not complete yet into an object of its own."""
        other = Request(self.biggest)
        other.spans, self.spans = self.spans, other.spans
        other.at, other.seen, other.total, other.size = self.at, self.seen, self.total, self.size
        return other

    def parse(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Go on with the request that begins at `start`: MORE, COMPLETE, INLINE or BAD."""
        if self.total < 0:
            if start >= end:
                return MORE
            if data[start] != 42:
                return self.inline_end(data, start, end)
            status = self.header(data, start, end)
            if status != COMPLETE:
                return status
        while self.spans.count < self.total:
            status = self.argument(data, start, end)
            if status != COMPLETE:
                return status
        if self.total > 0:
            self.shape.learn(data, start, self.at, self.spans, 1)
        return COMPLETE

    def header(self, data: bytes | bytearray, start: int, end: int) -> int:
        stop = line_end(data, start + 1, end)
        if stop < 0:
            if end - start > INLINE_LIMIT:
                self.error = b"too big mbulk count string"
                return BAD
            return MORE
        total = number(data, start + 1, stop)
        if total > MOST_ARGUMENTS or total == MALFORMED:
            self.error = b"invalid multibulk length"
            return BAD
        if total > UNTRUSTED_ARGUMENTS and not self.trusted:
            self.error = b"unauthenticated multibulk length"
            return BAD
        self.total = total if total > 0 else 0
        self.at = stop + 2 - start
        return COMPLETE

    def argument(self, data: bytes | bytearray, start: int, end: int) -> int:
        """The next bulk string: its header, then its body."""
        at = start + self.at
        if self.size < 0:
            if at >= end:
                return MORE
            if data[at] != 36:
                self.error = b"expected '$', got '%c'" % data[at]
                return BAD
            stop = line_end(data, at + 1, end)
            if stop < 0:
                if end - at > INLINE_LIMIT:
                    self.error = b"too big bulk count string"
                    return BAD
                return MORE
            size = number(data, at + 1, stop)
            if size < 0 or size > self.biggest:
                self.error = b"invalid bulk length"
                return BAD
            if size > UNTRUSTED_BULK and not self.trusted:
                self.error = b"unauthenticated bulk length"
                return BAD
            self.size = size
            at = stop + 2
            self.at = at - start
        if end - at < self.size + 2:
            return MORE
        self.spans.push(self.at, self.size)
        self.at += self.size + 2
        self.size = -1
        return COMPLETE

    def inline_end(self, data: bytes | bytearray, start: int, end: int) -> int:
        """An inline command ends at its LF; what was searched before is not searched again."""
        at = start + self.seen
        while at < end:
            if data[at] == 10:
                self.at = at + 1 - start
                return INLINE
            at += 1
        self.seen = end - start
        if self.seen > INLINE_LIMIT:
            self.error = b"too big inline request"
            return BAD
        return MORE

    def follow(self, data: bytes, start: int) -> int:
        """`begin`, for plain Python."""
        return self.begin(data, start, len(data))

    def look(self, data: bytes) -> int:
        """`parse`, for plain Python: `data` is what has come of the request."""
        return self.parse(data, 0, len(data))

    def arguments(self, data: bytes) -> list[bytes]:
        """Of a complete request that `data` begins with."""
        spans = self.spans
        return [data[spans.offsets[index] :][: spans.lengths[index]] for index in range(spans.count)]
