"""The PROXY protocol, versions 1 (text) and 2 (binary): who the client is, told by a proxy in front, or to a backend.

Whether a header must come is configuration, never a guess: a client could otherwise name any address it likes. So
`parse` refuses whatever isn't a header. Specification: haproxy.org, doc/proxy-protocol.txt.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from puerta.errors import ProtocolError

LINE_LIMIT = 107
"""Bytes of the longest line of version 1, with its CR LF (§2.1)."""

BLOCK_LIMIT = 4096
"""Bytes of addresses and TLVs accepted behind the 16 of version 2. Its length field could say 65,535."""

IDENTITY_LIMIT = 128
"""Bytes of the longest unique id (§2.2, PP2_TYPE_UNIQUE_ID)."""

Endpoint = tuple[str, int]
"""IP address and port."""

_SIGNATURE_V1, _SIGNATURE_V2 = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
_START_V2 = struct.Struct("!12sBBH")
_TLV = struct.Struct("!BH")
_PORTS = struct.Struct("!HH")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX_STREAM = 0x00, 0x11, 0x21, 0x31
_ADDRESS_SIZE = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}
_CRC32C, _UNIQUE_ID = 0x03, 0x05

Pair = tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]


@dataclass(frozen=True, slots=True)
class Header:
    """One header. `length`: its bytes. `source` and `destination`: the client's connection; None: take the real one's.

    `identity`: the unique id (PP2_TYPE_UNIQUE_ID). By the specification it names one *connection*: it names a client
    only where the proxy in front was told to make it so.
    """

    length: int
    source: Endpoint | None
    destination: Endpoint | None
    identity: bytes | None = None


def parse(data: bytes | bytearray | memoryview) -> Header | None:
    """The header that `data` starts with; None: more bytes are needed. Bytes behind it are not looked at.

    Raises ProtocolError "proxy_protocol" as soon as the bytes can't become a header.
    """
    start = bytes(data[: _START_V2.size])
    if start.startswith(_SIGNATURE_V1):
        return _parse_v1(bytes(data[:LINE_LIMIT]))
    if start.startswith(_SIGNATURE_V2):
        return _parse_v2(start, data)
    if _SIGNATURE_V1.startswith(start) or _SIGNATURE_V2.startswith(start):
        return None
    raise _refused("no header")


def header_v1(source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """A line of version 1. An end that is None or no IP address (a Unix socket) makes it UNKNOWN."""
    pair = _pair(source, destination)
    if source is None or destination is None or pair is None:
        return b"PROXY UNKNOWN\r\n"
    family = "TCP4" if isinstance(pair[0], IPv4Address) else "TCP6"
    return f"PROXY {family} {pair[0]} {pair[1]} {source[1]} {destination[1]}\r\n".encode()


def header_v2(source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """A header of version 2. An end that is None or no IP address (a Unix socket) makes it LOCAL."""
    pair = _pair(source, destination)
    if source is None or destination is None or pair is None:
        return _START_V2.pack(_SIGNATURE_V2, _LOCAL, _UNSPEC, 0)
    family = _TCP4 if isinstance(pair[0], IPv4Address) else _TCP6
    block = pair[0].packed + pair[1].packed + _PORTS.pack(source[1], destination[1])
    return _START_V2.pack(_SIGNATURE_V2, _PROXY, family, len(block)) + block


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) as in RFC 4960, appendix B."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _refused(detail: str) -> ProtocolError:
    return ProtocolError("proxy_protocol", detail)


def _parse_v1(head: bytes) -> Header | None:
    """Reads a line from the first LINE_LIMIT bytes. Nothing is decoded before its CR LF has come (§2.1)."""
    end = head.find(b"\r")
    newline = head.find(b"\n")
    if newline < 0 and end in (-1, len(head) - 1):
        if len(head) == LINE_LIMIT:
            raise _refused("line too long")
        return None
    if newline != end + 1:
        raise _refused("line end")
    words = head[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return Header(newline + 1, None, None)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise _refused("line format")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    source = _address(kind, words[2]), _port(words[4])
    destination = _address(kind, words[3]), _port(words[5])
    return Header(newline + 1, source, destination)


def _address(kind: type[IPv4Address] | type[IPv6Address], word: bytes) -> str:
    try:
        text = word.decode("ascii")
        if "%" in text:
            raise _refused("address")
        return str(kind(text))
    except ValueError:
        raise _refused("address") from None


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or (word[0] == ord("0") and len(word) > 1) or int(word) > 65535:
        raise _refused("port")
    return int(word)


def _parse_v2(start: bytes, data: bytes | bytearray | memoryview) -> Header | None:
    """Reads a header of version 2. LOCAL, and families that name no TCP peer, keep the real connection's addresses."""
    if len(start) < _START_V2.size:
        return None
    _, command, family, size = _START_V2.unpack(start)
    if command not in (_LOCAL, _PROXY):
        raise _refused("version or command")
    if command == _PROXY and (family >> 4 > 3 or family & 0xF > 2):
        raise _refused("address family")
    if size > BLOCK_LIMIT:
        raise _refused("too large")
    if command == _PROXY and size < _ADDRESS_SIZE.get(family, 0):
        raise _refused("address length")
    end = _START_V2.size + size
    if len(data) < end:
        return None
    if command == _LOCAL or family not in _ADDRESS_SIZE:
        return Header(end, None, None)
    header = bytes(data[:end])
    source, destination = _endpoints(header, family)
    return Header(end, source, destination, _identity(header, _START_V2.size + _ADDRESS_SIZE[family]))


def _endpoints(header: bytes, family: int) -> tuple[Endpoint, Endpoint] | tuple[None, None]:
    if family == _UNIX_STREAM:
        return None, None
    kind, width = (IPv4Address, 4) if family == _TCP4 else (IPv6Address, 16)
    at = _START_V2.size
    source_port, destination_port = _PORTS.unpack_from(header, at + 2 * width)
    source = str(kind(header[at : at + width])), source_port
    return source, (str(kind(header[at + width : at + 2 * width])), destination_port)


def _identity(header: bytes, at: int) -> bytes | None:
    """The unique id among the TLVs, which must fill the header from `at` on. A checksum among them is verified."""
    found: dict[int, tuple[int, int]] = {}
    while at < len(header):
        start = at + _TLV.size
        if start > len(header):
            raise _refused("TLV")
        kind, size = _TLV.unpack_from(header, at)
        at = start + size
        if at > len(header) or (kind in (_CRC32C, _UNIQUE_ID) and kind in found):
            raise _refused("TLV")
        found[kind] = start, at
    if _CRC32C in found:
        _verify(header, *found[_CRC32C])
    start, end = found.get(_UNIQUE_ID, (0, 0))
    if end - start > IDENTITY_LIMIT:
        raise _refused("unique id")
    return header[start:end] or None


def _verify(header: bytes, start: int, end: int) -> None:
    """Compares the checksum, which counts its own four bytes as zeros."""
    if end - start != 4 or crc32c(header[:start] + bytes(4) + header[end:]) != int.from_bytes(header[start:end], "big"):
        raise _refused("checksum")


def _pair(source: Endpoint | None, destination: Endpoint | None) -> Pair | None:
    """Both addresses in one family: IPv4 if both can be, else IPv6, where an IPv4 address becomes `::ffff:a.b.c.d`."""
    if source is None or destination is None:
        return None
    try:
        ends = [ip_address(end[0].partition("%")[0]) for end in (source, destination)]
    except ValueError:
        return None
    first, second = (end if isinstance(end, IPv4Address) else end.ipv4_mapped or end for end in ends)
    if isinstance(first, IPv4Address) and isinstance(second, IPv4Address):
        return first, second
    return _as_ipv6(first), _as_ipv6(second)


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv6Address:
    if isinstance(address, IPv6Address):
        return address
    return IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
