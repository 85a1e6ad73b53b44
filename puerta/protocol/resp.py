"""RESP2 and RESP3 framing (https://redis.io/docs/latest/develop/reference/protocol-spec/): where a request's arguments
and a reply's end are, without decoding either.

A reply's end is found by counting: one value is due; an aggregate of n replaces itself by n values that are due. So
the state is two numbers, whatever the nesting, and finding the end of a reply that comes in pieces looks at each byte once.
Requests are what clients may send: an array of bulk strings, or an inline command. Their limits and their error texts
are the server's own (networking.c, processMultibulkBuffer and processInlineBuffer).
"""

import cython

from puerta.errors import ProtocolError

if not cython.compiled:
    from puerta.protocol.span import Spans, line_end

    MORE, COMPLETE, INLINE, BAD = range(4)

MALFORMED: int = cython.declare(cython.Py_ssize_t, -(1 << 62))
"""`number`'s answer for a line that holds none."""

# Declared, here and in other compiled modules, so that comparing with them makes no Python object.
INLINE_LIMIT = cython.declare(cython.Py_ssize_t, 64 << 10)
MOST_ARGUMENTS = cython.declare(cython.Py_ssize_t, 1 << 20)
MOST_VALUES = cython.declare(cython.Py_ssize_t, 1 << 40)
UNTRUSTED_ARGUMENTS = cython.declare(cython.Py_ssize_t, 10)
UNTRUSTED_BULK = cython.declare(cython.Py_ssize_t, 16384)


def number(data: bytes | bytearray, at: int, end: int) -> int:
    """The decimal integer at data[at:end], or MALFORMED: as the server reads it, and of at most 18 digits, so that nothing
    overflows."""
    negative = at < end and data[at] == 45
    if negative:
        at += 1
    if at >= end or end - at > 18 or (data[at] == 48 and (negative or end - at > 1)):
        return MALFORMED
    value = 0
    while at < end:
        digit = data[at] - 48
        if digit < 0 or digit > 9:
            return MALFORMED
        value = value * 10 + digit
        at += 1
    return -value if negative else value


class Scan:
    """The search for the end of one reply. `at` is how far it got from the reply's first byte, `left` the values still due."""

    if not cython.compiled:
        __slots__ = ("at", "left")

    def __init__(self) -> None:
        self.at = 0
        self.left = 1

    def reset(self) -> int:
        self.at = 0
        self.left = 1
        return 0

    def advance(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Go on with the reply that begins at `start`. COMPLETE: its length is `at`. MORE: `at` may lie beyond `end`."""
        at = start + self.at
        left = self.left
        while left > 0:
            if at >= end:
                break
            kind = data[at]
            stop = line_end(data, at + 1, end)
            if stop < 0:
                break
            if kind == 36 or kind == 61 or kind == 33:  # $ = !
                size = number(data, at + 1, stop)
                if size < -1:
                    return BAD
                at = stop + 2 if size < 0 else stop + size + 4
                left -= 1
            elif kind == 42 or kind == 126 or kind == 62 or kind == 37 or kind == 124:  # * ~ > % |
                size = number(data, at + 1, stop)
                if size < -1 or size > MOST_VALUES:
                    return BAD
                at = stop + 2
                if size < 0:
                    left -= 1
                elif kind == 37:
                    left += 2 * size - 1
                elif kind == 124:  # attributes come before the value they describe and are no value themselves
                    left += 2 * size
                else:
                    left += size - 1
            elif (
                kind == 43 or kind == 45 or kind == 58 or kind == 95 or kind == 35 or kind == 44 or kind == 40
            ):  # + - : _ # , (
                at = stop + 2
                left -= 1
            else:
                return BAD
        self.at = at - start
        self.left = left
        return COMPLETE if left == 0 and at <= end else MORE

    def look(self, data: bytes) -> int:
        """`advance`, for plain Python: `data` is what has come of the reply."""
        return self.advance(data, 0, len(data))


class Request:
    """One request as it comes in. `spans` are its arguments relative to its first byte, `at` its length once it is COMPLETE.

    INLINE: the line is complete (`at` is its length with the line end) and `inline.arguments` takes it apart.
    BAD: `error` is what the server would say before it closes. `biggest` bounds a bulk string; until a client is
    `trusted` (authenticated) it gets the server's much smaller limits.
    """

    if not cython.compiled:
        __slots__ = ("at", "biggest", "error", "seen", "size", "spans", "total", "trusted")

    def __init__(self, biggest: int) -> None:
        self.spans = Spans()
        self.biggest = biggest
        self.trusted = True
        self.error = b""
        self.at = self.seen = 0
        self.total = -1
        self.size = -1

    def reset(self) -> int:
        self.spans.clear()
        self.at = self.seen = 0
        self.total = -1
        self.size = -1
        return 0

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

    def look(self, data: bytes) -> int:
        """`parse`, for plain Python: `data` is what has come of the request."""
        return self.parse(data, 0, len(data))

    def arguments(self, data: bytes) -> list[bytes]:
        """Of a complete request that `look` saw in `data`."""
        spans = self.spans
        return [data[spans.offsets[index] :][: spans.lengths[index]] for index in range(spans.count)]


def whole(text: bytes) -> int | None:
    """An integer as the server takes it from an argument (util.c, string2ll): no blank, no plus, no leading zero, 64 bits."""
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or (digits[:1] == b"0" and text != b"0") or len(digits) > 19:
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None


# -- writing

MOST_HEADS = cython.declare(cython.Py_ssize_t, 64)
HEADS: list[bytes] = [b"*%d\r\n" % values for values in range(64)]


def head(values: int) -> bytes:
    """How an array of so many values begins."""
    return HEADS[values] if values < MOST_HEADS else b"*%d\r\n" % values


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def command(*arguments: bytes) -> bytes:
    """A request: an array of bulk strings."""
    return head(len(arguments)) + b"".join(map(bulk, arguments))


def array(values: list[bytes]) -> bytes:
    """An array of values that are already encoded."""
    return head(len(values)) + b"".join(values)


def integer(value: int) -> bytes:
    return b":%d\r\n" % value


def error(text: bytes) -> bytes:
    """An error reply; line ends in it become blanks, so that it stays one line."""
    return b"-" + text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"


def elements(reply: bytes) -> list[bytes]:
    """The values in an aggregate reply, each as it stands there; of a map: key, value, key, value … Raises ProtocolError."""
    scan = Scan()
    data = bytearray(reply) if not cython.compiled else reply
    found = []
    at = line_end(data, 0, len(reply)) + 2
    while at < len(reply):
        scan.reset()
        if scan.advance(data, at, len(reply)) != COMPLETE:
            raise ProtocolError("resp", "an aggregate whose values are not complete")
        found.append(reply[at : at + scan.at])
        at += scan.at
    return found
