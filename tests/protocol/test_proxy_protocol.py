"""PROXY protocol 1 and 2, against an independent implementation (`proxy-protocol`, `crc32c`) and the specification."""

import struct
from ipaddress import ip_address
from socket import SOCK_STREAM
from typing import Any

import crc32c as oracle_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal, ProxyResultUnix
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from puerta.errors import ProtocolError
from puerta.protocol.proxy_protocol import (
    BLOCK_LIMIT,
    IDENTITY_LIMIT,
    LINE_LIMIT,
    Endpoint,
    Header,
    crc32c,
    header_v1,
    header_v2,
    parse,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PORTS = st.integers(0, 65535)
V4 = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
V6 = st.tuples(st.ip_addresses(v=6).map(str).filter(lambda text: not text.startswith("::ffff:")), PORTS)


def refused(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(data)
    assert caught.value.reason == "proxy_protocol"


def check_every_split(data: bytes, expected: Header) -> None:
    for cut in range(len(data)):
        assert parse(data[:cut]) is None
    for kind in (bytes, bytearray, memoryview):
        assert parse(kind(data)) == expected
        assert parse(kind(data + b"\r\nPROXY ")) == expected


def v2(family: int = 0x11, block: bytes = b"", command: int = 0x21, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if size is None else size) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


BLOCK4 = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 1000, 27017)
SOURCE, DESTINATION = ("192.0.2.1", 1000), ("192.0.2.2", 27017)


# Against the other implementation


@settings(max_examples=50, deadline=None)
@given(ends=st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)))
def test_what_is_built_is_understood_by_both(ends: tuple[Endpoint, Endpoint]) -> None:
    for data, oracle in ((header_v1(*ends), ProxyProtocolV1()), (header_v2(*ends), ProxyProtocolV2())):
        theirs: Any = oracle.unpack(data)
        assert [(str(end[0]), end[1]) for end in (theirs.source, theirs.dest)] == list(ends)
        check_every_split(data, Header(len(data), *ends))


@settings(max_examples=50, deadline=None)
@given(ends=st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)), unique=st.none() | st.binary(min_size=1, max_size=128))
def test_what_the_other_builds_is_understood(ends: tuple[Endpoint, Endpoint], unique: bytes | None) -> None:
    result: Any = ProxyResultIPv6 if ":" in ends[0][0] else ProxyResultIPv4
    tlvs = ProxyProtocolTLV(unique_id=unique, alpn=b"mongodb", authority="db.example", auto_crc32c=True)
    theirs = result(*((ip_address(host), port) for host, port in ends), protocol=SOCK_STREAM, tlv=tlvs)
    data = ProxyProtocolV2().pack(theirs)
    assert b"\x03\x00\x04" in data
    check_every_split(data, Header(len(data), *ends, unique))
    line = ProxyProtocolV1().pack(theirs)
    check_every_split(line, Header(len(line), *ends))


def test_unix_and_local_of_the_other_keep_the_real_addresses() -> None:
    tlvs = ProxyProtocolTLV(unique_id=b"u", auto_crc32c=True)
    unix: Any = ProxyResultUnix("/run/a.sock", "/run/b.sock", protocol=SOCK_STREAM, tlv=tlvs)
    for result, identity in ((unix, b"u"), (ProxyResultLocal(), None)):
        data = ProxyProtocolV2().pack(result)
        check_every_split(data, Header(len(data), None, None, identity))


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_crc32c(data: bytes) -> None:
    assert crc32c(data) == oracle_crc32c.crc32c(data)
    assert crc32c(b"123456789") == 0xE3069283


# Version 1


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 27017\r\n", SOURCE, DESTINATION),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", ("0.0.0.0", 0), ("255.255.255.255", 65535)),
        (b"PROXY TCP6 2001:DB8:0:0::1 ::1 1 2\r\n", ("2001:db8::1", 1), ("::1", 2)),
        (b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
         (":".join(["ffff"] * 8), 65535), (":".join(["ffff"] * 8), 65535)),
        (b"PROXY UNKNOWN\r\n", None, None),
        (b"PROXY UNKNOWN anything at  all\0\xff\r\n", None, None),
        (b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n", None, None),
    ],
)  # fmt: skip
def test_lines(line: bytes, source: Endpoint | None, destination: Endpoint | None) -> None:
    check_every_split(line, Header(len(line), source, destination))


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01000 27017\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 -1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 +1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 1_0\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 \xb2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 27017 \r\n",
        b"PROXY TCP4 192.0.2.1  192.0.2.2 1000 27017\r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1000 27017\r\n",
        b"PROXY TCP4\t192.0.2.1 192.0.2.2 1000 27017\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1000 27017\r\n",
        b"PROXY TCP4 192.0.2 192.0.2.2 1000 27017\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 1000 27017\r\n",
        b"PROXY TCP4 ::1 ::1 1000 27017\r\n",
        b"PROXY TCP4 192.0.2.1 ::1 1000 27017\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1000 27017\r\n",
        b"PROXY TCP6 ::1 fe80::1%eth0 1000 27017\r\n",
        b"PROXY TCP6 ::1 \xff 1000 27017\r\n",
        b"PROXY TCP6 ::1::2 ::1 1000 27017\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1000 27017\r\n",
        b"PROXY tcp4 192.0.2.1 192.0.2.2 1000 27017\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN\n\r\n",
        b"PROXY UNKNOWN\rx",
        b"PROXY UNKNOWN\r\r\n",
        b"PROXY UNKNOWN" + b" " * LINE_LIMIT,
        b"PROXY UNKNOWN" + b" " * (LINE_LIMIT - 14) + b"\r",
        b"PROXY UNKNOWN" + b" " * (LINE_LIMIT - 14) + b"\r\n",
    ],
)
def test_bad_lines(line: bytes) -> None:
    refused(line)
    assert parse(line[:6]) is None


# Version 2


def test_the_bytes_of_a_header() -> None:
    assert header_v2(SOURCE, DESTINATION) == v2(0x11, BLOCK4)
    assert v2(0x11, BLOCK4) == bytes.fromhex("0d0a0d0a000d0a515549540a2111000cc0000201c000020203e86989")


@pytest.mark.parametrize(
    "data",
    [
        v2(0x00, b"", 0x20),
        v2(0x11, BLOCK4, 0x20),
        v2(0xFF, b"any junk", 0x20),
        v2(0x00, b""),
        v2(0x00, b"any junk"),
        v2(0x01, BLOCK4),
        v2(0x10, BLOCK4),
        v2(0x12, BLOCK4),
        v2(0x22, bytes(36)),
        v2(0x32, bytes(216)),
        v2(0x31, bytes(216)),
        v2(0x00, bytes(BLOCK_LIMIT)),
    ],
)
def test_local_and_other_families_keep_the_real_addresses(data: bytes) -> None:
    assert parse(data[:-1]) is None
    assert parse(data) == Header(len(data), None, None)


@pytest.mark.parametrize("command", [0x00, 0x01, 0x11, 0x22, 0x2F, 0x31, 0xFF])
def test_other_versions_and_commands_are_refused(command: int) -> None:
    refused(v2(0x11, BLOCK4, command))


@pytest.mark.parametrize("family", [0x40, 0x41, 0x13, 0x03, 0x1F, 0xF1])
def test_unassigned_families_are_refused(family: int) -> None:
    refused(v2(family, BLOCK4))


@pytest.mark.parametrize(
    ("family", "size"), [(0x11, 11), (0x21, 35), (0x31, 215), (0x11, BLOCK_LIMIT + 1), (0x00, 65535)]
)
def test_lying_lengths_are_refused_at_the_sixteenth_byte(family: int, size: int) -> None:
    header = v2(family, b"", size=size)
    assert parse(header[:15]) is None
    refused(header)


@pytest.mark.parametrize(
    ("tlvs", "identity"),
    [
        (b"", None),
        (tlv(5, b"client"), b"client"),
        (tlv(5, b""), None),
        (tlv(5, b"x" * IDENTITY_LIMIT), b"x" * IDENTITY_LIMIT),
        (tlv(4, b"") + tlv(0xE0, b"abc") + tlv(5, b"\0\xff") + tlv(4, bytes(9)) + tlv(4, b""), b"\0\xff"),
    ],
)
def test_the_unique_id_among_the_tlvs(tlvs: bytes, identity: bytes | None) -> None:
    data = v2(0x11, BLOCK4 + tlvs)
    check_every_split(data, Header(len(data), SOURCE, DESTINATION, identity))


@pytest.mark.parametrize(
    "tlvs",
    [
        b"\0",
        b"\x04\0",
        b"\x04\0\x01",
        b"\x04\xff\xff" + bytes(100),
        tlv(5, b"a") + b"\0",
        tlv(5, b"a") + tlv(5, b"a"),
        tlv(5, b"x" * (IDENTITY_LIMIT + 1)),
        tlv(3, b""),
        tlv(3, bytes(3)),
        tlv(3, bytes(5)),
        tlv(3, bytes(4)),
    ],
)
def test_bad_tlvs_are_refused(tlvs: bytes) -> None:
    refused(v2(0x11, BLOCK4 + tlvs))


@settings(max_examples=50, deadline=None)
@given(after=st.binary(max_size=20), flip=st.integers(0, 10_000))
def test_the_checksum_covers_the_whole_header(after: bytes, flip: int) -> None:
    zeroed = v2(0x11, BLOCK4 + tlv(3, bytes(4)) + tlv(0xE0, after))
    at = 16 + 12 + 3
    good = bytearray(zeroed)
    good[at : at + 4] = struct.pack("!I", oracle_crc32c.crc32c(zeroed))
    assert parse(bytes(good)) == Header(len(good), SOURCE, DESTINATION)
    place = 16 + flip % 12 if flip % 2 else at + flip % 4
    good[place] ^= 1 << flip % 8
    refused(bytes(good))
    doubled = v2(0x11, BLOCK4 + tlv(3, bytes(4)) * 2)
    refused(doubled)


# Building


@pytest.mark.parametrize(
    ("source", "destination", "line"),
    [
        (SOURCE, DESTINATION, b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 27017\r\n"),
        (("::1", 1), ("2001:DB8::0", 2), b"PROXY TCP6 ::1 2001:db8:: 1 2\r\n"),
        (("::ffff:192.0.2.1", 1000), DESTINATION, b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 27017\r\n"),
        (("192.0.2.1", 1), ("::1", 2), b"PROXY TCP6 ::ffff:c000:201 ::1 1 2\r\n"),
        (("fe80::1%eth0", 1), ("192.0.2.1", 2), b"PROXY TCP6 fe80::1 ::ffff:c000:201 1 2\r\n"),
        (None, DESTINATION, b"PROXY UNKNOWN\r\n"),
        (SOURCE, None, b"PROXY UNKNOWN\r\n"),
        (("/run/a.sock", 0), DESTINATION, b"PROXY UNKNOWN\r\n"),
        (("unix", 0), ("", 0), b"PROXY UNKNOWN\r\n"),
    ],
)
def test_both_versions_say_the_same(source: Endpoint | None, destination: Endpoint | None, line: bytes) -> None:
    assert header_v1(source, destination) == line
    told, binary = parse(line), parse(header_v2(source, destination))
    assert told is not None and binary is not None
    assert (told.source, told.destination) == (binary.source, binary.destination)
    if b"UNKNOWN" in line:
        assert header_v2(source, destination) == v2(0x00, b"", 0x20)


# Anything at all


@pytest.mark.parametrize("start", [b"GET / HTTP", b"\x16\x03\x01", b"PROXX", b"proxy ", b"\r\n\r\n\r\n", b"\0", b"Q"])
def test_what_is_no_header_is_refused_at_its_first_wrong_byte(start: bytes) -> None:
    seen = [cut for cut in range(1, len(start) + 1) if not could_become_a_header(start[:cut])]
    assert seen == list(range(seen[0], len(start) + 1))
    for cut in range(seen[0]):
        assert parse(start[:cut]) is None
    refused(start[: seen[0]])


def could_become_a_header(start: bytes) -> bool:
    return b"PROXY ".startswith(start) or SIGNATURE.startswith(start)


def survives(data: bytes) -> None:
    """An answer, or ProtocolError; and an answer is never taken back."""
    try:
        whole = parse(data)
    except ProtocolError as error:
        assert error.reason == "proxy_protocol"
        return
    assert whole is None or whole.length <= len(data)
    for cut in range(len(data)):
        assert parse(data[:cut]) in (None, whole)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80), family=st.integers(0, 255))
def test_random_bytes(data: bytes, family: int) -> None:
    survives(data)
    survives(b"PROXY " + data)
    survives(b"PROXY TCP4 " + data + b"\r\n")
    survives(SIGNATURE + data)
    survives(v2(family, data))
    survives(v2(0x11, BLOCK4 + data))


ORIGINALS = [
    v2(0x11, BLOCK4 + tlv(5, b"client") + tlv(4, b"xx")),
    header_v2(("::1", 1), ("::2", 2)),
    header_v1(SOURCE, DESTINATION),
    header_v1(("2001:db8::1", 1), ("::2", 2)),
]


@settings(max_examples=200, deadline=None)
@given(
    original=st.sampled_from(ORIGINALS),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_bytes(original: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(original)
    for at, value in changes:
        data[at % len(data)] = value
    survives(bytes(data))
