"""The first message of a MongoDB client: the only one that Puerta reads. All later bytes are relayed unseen.

A client speaks first, and what it says is a hello (by an older name: isMaster) in OP_MSG or OP_QUERY, or a TLS
ClientHello. From the hello come the two things a route needs: `client.application.name`, the one field of it that stays
the same on a client's monitor, RTT and pool connections and for the client's whole life, and `loadBalanced`, which says
that this client pins its own cursors. Any other first command is let through without a name.

The parser holds no state: it is called again with a longer prefix until it answers. An incomplete message costs a look
at its header only, so bytes that trickle in cost linear time, and no length is believed beyond FIRST_MESSAGE_LIMIT.
Documents in the hello that don't lead to the name are skipped by their length, never entered: nesting costs nothing.

Formats: the MongoDB wire protocol (OP_MSG, OP_QUERY, OP_COMPRESSED), bsonspec.org 1.1, and the drivers' handshake
specification (mongodb-handshake/handshake.md).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from puerta.errors import ProtocolError
from puerta.protocol import tls
from puerta.protocol.tls import ClientHello

__all__ = ["APPLICATION_LIMIT", "FIRST_MESSAGE_LIMIT", "ClientHello", "Hello", "first_message"]

FIRST_MESSAGE_LIMIT = 64 << 10
"""Bytes. A hello is 0.3 to 0.6 KiB; only an OIDC token in its authentication makes one of several KiB."""

APPLICATION_LIMIT = 128
"""Bytes of `application.name` that the handshake specification allows; servers refuse a longer one."""

_PLAUSIBLE_LENGTH = 48_000_000
"""Servers accept no longer message. A length above it is text or another protocol: `GET ` reads as 542,393,671."""

_OP_QUERY, _OP_COMPRESSED, _OP_MSG = 2004, 2012, 2013
_HEADER_SIZE = 16
_SMALLEST_DOCUMENT = 5
"""A length and a zero. The smallest document sequence is as long: a length, and a zero that ends its empty name."""
_SMALLEST = {_OP_QUERY: 16 + 4 + 1 + 8 + 5, _OP_COMPRESSED: 16 + 9, _OP_MSG: 16 + 4 + 1 + 5}
"""Bytes of the shortest message of each operation code that a client may start with."""

_CHECKSUM_PRESENT, _KNOWN_REQUIRED_FLAGS, _REQUIRED_FLAGS = 0x1, 0x3, 0xFFFF
_HELLO_COMMANDS = frozenset((b"hello", b"isMaster", b"ismaster"))

_DOUBLE, _STRING, _DOCUMENT, _ARRAY, _BINARY, _UNDEFINED, _OBJECT_ID, _BOOLEAN = range(0x01, 0x09)
_DATE, _NULL, _REGEX, _DB_POINTER, _CODE, _SYMBOL, _SCOPED_CODE, _INT32 = range(0x09, 0x11)
_TIMESTAMP, _INT64, _DECIMAL128, _MAX_KEY, _MIN_KEY = 0x11, 0x12, 0x13, 0x7F, 0xFF

_FIXED = {
    _DOUBLE: 8, _UNDEFINED: 0, _OBJECT_ID: 12, _BOOLEAN: 1, _DATE: 8, _NULL: 0, _INT32: 4, _TIMESTAMP: 8, _INT64: 8,
    _DECIMAL128: 16, _MAX_KEY: 0, _MIN_KEY: 0,
}  # fmt: skip
"""Bytes of a value, by element type."""

_MEASURED = {
    _STRING: (4, 1), _DOCUMENT: (0, 5), _ARRAY: (0, 5), _BINARY: (5, 0), _DB_POINTER: (16, 1), _CODE: (4, 1),
    _SYMBOL: (4, 1), _SCOPED_CODE: (0, 14),
}  # fmt: skip
"""Values that start with an int32 length: the bytes it doesn't count, and the least it may say."""

_TERMINATED = frozenset((_STRING, _DOCUMENT, _ARRAY, _CODE, _SYMBOL, _SCOPED_CODE))
"""Values whose last byte is zero."""

_INT32_AT = struct.Struct("<i").unpack_from
_FLAGS_AT = struct.Struct("<I").unpack_from


@dataclass(frozen=True, slots=True)
class Hello:
    """A whole first message. `length`: its bytes. `application`: `client.application.name`, None when there is none.

    `load_balanced`: the client said `loadBalanced: true`: it keeps its cursors and transactions on one connection.
    """

    length: int
    application: bytes | None
    load_balanced: bool


def first_message(data: bytes | bytearray | memoryview) -> Hello | ClientHello | None:
    """What a connection starts with; None: more bytes are needed. Bytes behind the first message are not looked at.

    Raises ProtocolError as soon as the bytes can't become a first message, with one of these reasons:
    "length" (shorter than its kind can be, or negative), "too_large" (above FIRST_MESSAGE_LIMIT), "not_mongodb" (no
    server would accept that length: HTTP, SSH, Redis, a PROXY header), "opcode", "flags", "section", "bson", "tls".
    """
    if len(data) < 4:
        return None
    if _is_tls(data):
        return tls.client_hello(data, FIRST_MESSAGE_LIMIT)
    (length,) = _INT32_AT(data)
    if length < _HEADER_SIZE:
        raise ProtocolError("length", "message")
    if length > FIRST_MESSAGE_LIMIT:
        raise ProtocolError("too_large" if length <= _PLAUSIBLE_LENGTH else "not_mongodb")
    if len(data) < _HEADER_SIZE:
        return None
    (opcode,) = _INT32_AT(data, 12)
    if opcode not in _SMALLEST:
        raise ProtocolError("opcode")
    if length < _SMALLEST[opcode]:
        raise ProtocolError("length", "message")
    if len(data) < length:
        return None
    return _hello(opcode, bytes(data[:length]))


def _is_tls(data: bytes | bytearray | memoryview) -> bool:
    """Whether four bytes start a TLS handshake record, of any version from 3.0 to 3.4.

    A message of 790 bytes starts like a record of version 3.0 below 256 bytes; no client of this century sends that.
    Those of the later versions would be messages above FIRST_MESSAGE_LIMIT.
    """
    return data[0] == 0x16 and data[1] == 3 and data[2] <= 4 and (data[2] > 0 or data[3] > 0)


def _hello(opcode: int, message: bytes) -> Hello:
    """Reads a whole message. What OP_COMPRESSED hides can't be the first hello: compression is agreed on by it."""
    span = None
    if opcode == _OP_MSG:
        span = _body_of_msg(message)
    elif opcode == _OP_QUERY:
        span = _body_of_query(message)
    if span is None:
        return Hello(len(message), None, False)
    application, load_balanced = _command(message, *span)
    return Hello(len(message), application, load_balanced)


def _body_of_msg(message: bytes) -> tuple[int, int]:
    """Span of the document in OP_MSG's one section of kind 0; document sequences (kind 1) may surround it."""
    (flags,) = _FLAGS_AT(message, 16)
    if flags & _REQUIRED_FLAGS & ~_KNOWN_REQUIRED_FLAGS:
        raise ProtocolError("flags")
    end = len(message) - 4 if flags & _CHECKSUM_PRESENT else len(message)
    at = 20
    body = None
    while at < end:
        kind = message[at]
        if kind > 1 or (kind == 0 and body is not None):
            raise ProtocolError("section", "kind")
        size = _length(message, at + 1, end, _SMALLEST_DOCUMENT, "section" if kind else "bson")
        if kind == 0:
            body = at + 1, at + 1 + size
        at += 1 + size
    if body is None:
        raise ProtocolError("section", "no body")
    return body


def _body_of_query(message: bytes) -> tuple[int, int] | None:
    """Offset and limit of OP_QUERY's document; None when it is a query of a collection and not a command.

    A document of fields to return may follow; a command has none, and to refuse one is the server's business.
    """
    name_end = message.find(0, 20)
    body = name_end + 1 + 8
    if name_end < 0:
        raise ProtocolError("bson", "collection name")
    if not message.endswith(b".$cmd", 20, name_end):
        return None
    return body, len(message)


def _command(message: bytes, start: int, limit: int) -> tuple[bytes | None, bool]:
    """`client.application.name` and `loadBalanced` of a hello, known by its first key; other commands give neither."""
    elements = _elements(message, start, limit)
    first = next(elements, None)
    if first is None:
        raise ProtocolError("bson", "empty command")
    if first[1] not in _HELLO_COMMANDS:
        return None, False
    application: bytes | None = None
    seen = load_balanced = False
    for kind, name, value, end in elements:
        if name == b"client" and kind == _DOCUMENT and not seen:
            seen, application = True, _application_name(message, value, end)
        elif name == b"loadBalanced" and kind == _BOOLEAN:
            load_balanced = message[value] == 1
    return application, load_balanced


def _application_name(message: bytes, start: int, limit: int) -> bytes | None:
    """`application.name` of a client document. Both documents are walked to their ends: a malformed one is refused."""
    application = _member(message, start, limit, b"application", _DOCUMENT)
    if application is None:
        return None
    name = _member(message, *application, b"name", _STRING)
    if name is None:
        return None
    text = message[name[0] + 4 : name[1] - 1]
    return text if 0 < len(text) <= APPLICATION_LIMIT else None


def _member(message: bytes, start: int, limit: int, wanted: bytes, wanted_kind: int) -> tuple[int, int] | None:
    """Span of the value of the document's first element of that name and type."""
    found = None
    for kind, name, value, end in _elements(message, start, limit):
        if found is None and name == wanted and kind == wanted_kind:
            found = value, end
    return found


def _elements(message: bytes, start: int, limit: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Type, name and span of the value of each element of the document at `start`, which must end by `limit`."""
    end = start + _length(message, start, limit, _SMALLEST_DOCUMENT, "bson") - 1
    if message[end]:
        raise ProtocolError("bson", "document end")
    at = start + 4
    while at < end:
        kind = message[at]
        name_end = message.find(0, at + 1, end)
        if name_end < 0:
            raise ProtocolError("bson", "name")
        name = message[at + 1 : name_end]
        at = _after(message, kind, name_end + 1, end)
        yield kind, name, name_end + 1, at


def _after(message: bytes, kind: int, value: int, limit: int) -> int:
    """Where the value of that type ends, at most `limit`."""
    fixed = _FIXED.get(kind)
    if fixed is not None:
        after = value + fixed
    elif kind in _MEASURED:
        uncounted, least = _MEASURED[kind]
        after = value + uncounted + _length(message, value, limit, least, "bson")
    elif kind == _REGEX:
        options = message.find(0, value, limit) + 1
        after = message.find(0, options, limit) + 1 if options else 0
    else:
        raise ProtocolError("bson", "element type")
    if not value <= after <= limit or (kind in _TERMINATED and message[after - 1]):
        raise ProtocolError("bson", "value")
    return after


def _length(message: bytes, at: int, limit: int, least: int, reason: str) -> int:
    """The int32 length at `at`: it must lie before `limit`, say no less than `least`, and not reach beyond `limit`."""
    if at + 4 > limit:
        raise ProtocolError(reason, "length")
    (length,) = _INT32_AT(message, at)
    if not least <= length <= limit - at:
        raise ProtocolError(reason, "length")
    return int(length)
