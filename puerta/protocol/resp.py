"""RESP2 and RESP3 framing (https://redis.io/docs/latest/develop/reference/protocol-spec/): where a reply ends, without
decoding it, and how a request or a reply is written. What clients may send is the subject of `request`.

A reply's end is found by counting: one value is due; an aggregate of n replaces itself by n values that are due. So
the state is two numbers, whatever the nesting, and finding the end of a reply that comes in pieces looks at each byte once.
"""

import cython

from puerta.errors import ProtocolError

if not cython.compiled:
    from puerta.protocol.span import MOST_WORDS, Shape, Spans, line_end

    MORE, COMPLETE, INLINE, BAD = range(4)

MALFORMED: int = -(1 << 62)
"""`number`'s answer for a line that holds none."""

# Declared, here and in other compiled modules, so that comparing with them makes no Python object.
MOST_VALUES = cython.declare(cython.Py_ssize_t, 1 << 40)
MOST_ALIKE = cython.declare(cython.Py_ssize_t, 256)
"""Replies of one shape that are handed out together."""


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
    """The search for the ends of replies. `at` is how far it got from the reply's first byte, `left` the values still due.

    It begins anew after each reply that is COMPLETE. Its length then is `length`, and so many of the same shape follow one
    another, with this one: `run`. Up to `searched` there is no end of the line at `at`.
    """

    if not cython.compiled:
        __slots__ = ("at", "left", "length", "run", "searched", "shape", "spans")

    def __init__(self) -> None:
        self.shape = Shape()
        self.spans = Spans()
        self.at = self.length = self.searched = 0
        self.left = self.run = 1

    def advance(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Go on with the reply that begins at `start`: MORE, COMPLETE or BAD. After MORE `at` may lie beyond `end`."""
        fresh = self.at == 0
        if fresh:
            self.run = self.shape.alike(data, start, end, MOST_ALIKE)
            if self.run > 0:
                self.length = self.shape.length
                self.searched = 0
                return COMPLETE
            self.run = 1
            self.spans.clear()
        at = start + self.at
        left = self.left
        while left > 0:
            if at >= end:
                break
            kind = data[at]
            stop = line_end(data, max(at + 1, start + self.searched), end)
            if stop < 0:
                self.searched = end - 1 - start
                break
            if kind == 36 or kind == 61 or kind == 33:  # $ = !
                size = number(data, at + 1, stop)
                if size < -1:
                    return BAD
                at = stop + 2
                if size >= 0:
                    if self.spans.count <= MOST_WORDS:
                        self.spans.push(at - start, size)
                    at += size + 2
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
        if left > 0 or at > end:
            self.at = at - start
            self.left = left
            return MORE
        self.at = self.searched = 0
        self.left = 1
        self.length = at - start
        if fresh:
            self.shape.learn(data, start, self.length, self.spans, 0)
        return COMPLETE

    def look(self, data: bytes) -> int:
        """`advance`, for plain Python: `data` is what has come of the reply."""
        return self.advance(data, 0, len(data))


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
        if scan.advance(data, at, len(reply)) != COMPLETE:
            raise ProtocolError("resp", "an aggregate whose values are not complete")
        for _ in range(scan.run):
            found.append(reply[at : at + scan.length])
            at += scan.length
    return found
