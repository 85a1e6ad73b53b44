"""The TLS ClientHello, as far as a pass-through needs it: where it ends, and which server name it asks for.

Nothing is decrypted or answered: the bytes go to the backend as they came. The name (SNI) only helps to tell clients
apart. Formats: RFC 8446 §4.1.2 and §5.1 (records, ClientHello), RFC 6066 §3 (server_name).
"""

import struct
from dataclasses import dataclass

from puerta.errors import ProtocolError

RECORD_LIMIT = 64
"""TLS records that one ClientHello may be spread over. Real ones take a few; every incomplete look walks them all."""

_RECORD = struct.Struct("!BBBH")
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0
_LONGEST_RECORD = 1 << 14
_SMALLEST_BODY = 2 + 32 + 1 + 4 + 2
_SESSION_ID = 4 + 2 + 32
"""Offset of the session id: behind the message's type and length, the version and the random bytes."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """A whole ClientHello. `length`: bytes of the records that carry it. `server_name`: the SNI host name as sent."""

    length: int
    server_name: bytes | None


def client_hello(data: bytes | bytearray | memoryview, limit: int) -> ClientHello | None:
    """The ClientHello that `data` starts with; None: more bytes are needed.

    Raises ProtocolError "tls" when it can't become one, "too_large" when its records would exceed `limit` bytes.
    """
    spans: list[tuple[int, int]] = []
    prefix = b""
    at = declared = 0
    while at + _RECORD.size <= len(data):
        start, end = _fragment(data, at)
        if end > limit:
            raise ProtocolError("too_large", "TLS ClientHello")
        declared += end - start
        prefix += bytes(data[start : min(end, start + 4 - len(prefix))])
        missing = _missing(prefix, declared, limit)
        if end > len(data):
            return None
        spans.append((start, end))
        at = end
        if missing == 0:
            return ClientHello(at, _server_name(b"".join(bytes(data[start:end]) for start, end in spans)))
        if len(spans) == RECORD_LIMIT:
            raise ProtocolError("tls", "ClientHello in too many records")
    return None


def _fragment(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    """Span of the payload of the handshake record at `at`; its end may lie beyond the data."""
    kind, major, _, length = _RECORD.unpack_from(data, at)
    if kind != _HANDSHAKE or major != 3 or not 0 < length <= _LONGEST_RECORD:
        raise ProtocolError("tls", "not a handshake record")
    start = at + _RECORD.size
    return start, start + length


def _missing(prefix: bytes, declared: int, limit: int) -> int:
    """Bytes of the message that the records seen so far don't announce; at least 1 while its length isn't known."""
    if prefix and prefix[0] != _CLIENT_HELLO:
        raise ProtocolError("tls", "not a ClientHello")
    if len(prefix) < 4:
        return 1
    body = int.from_bytes(prefix[1:4], "big")
    if body > limit:
        raise ProtocolError("too_large", "TLS ClientHello")
    missing = 4 + body - declared
    if body < _SMALLEST_BODY or missing < 0:
        raise ProtocolError("tls", "length of the ClientHello")
    return missing


def _server_name(hello: bytes) -> bytes | None:
    """The host name in the server_name extension of a whole handshake message."""
    _, at = _vector(hello, _SESSION_ID, len(hello), 1)
    _, at = _vector(hello, at, len(hello), 2)
    _, at = _vector(hello, at, len(hello), 1)
    if at == len(hello):
        return None
    at, end = _vector(hello, at, len(hello), 2)
    if end != len(hello):
        raise ProtocolError("tls", "bytes behind the extensions")
    name = None
    while at < end:
        kind = hello[at : at + 2]
        start, at = _vector(hello, at + 2, end, 2)
        if kind == b"\0\0":
            if name is not None:
                raise ProtocolError("tls", "two server names")
            name = _host_name(hello, start, at)
    return name


def _host_name(hello: bytes, at: int, end: int) -> bytes:
    """The host name in the body of a server_name extension, which must fill it."""
    at, after = _vector(hello, at, end, 2)
    if after != end or end - at < 3 or hello[at] != _HOST_NAME:
        raise ProtocolError("tls", "server name list")
    start, after = _vector(hello, at + 1, end, 2)
    if after != end or not 0 < after - start <= 255:
        raise ProtocolError("tls", "server name")
    return hello[start:after]


def _vector(hello: bytes, at: int, end: int, width: int) -> tuple[int, int]:
    """Span of the vector whose length, in `width` bytes, stands at `at`; it must fit before `end`."""
    start = at + width
    after = start + int.from_bytes(hello[at:start], "big")
    if start > end or after > end:
        raise ProtocolError("tls", "length inside the ClientHello")
    return start, after
