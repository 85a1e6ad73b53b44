"""TLS as the first message: hellos of OpenSSL in one record or many, the server name, and hellos that lie."""

import ssl
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puerta.errors import ProtocolError
from puerta.protocol.mongodb import ClientHello, first_message


def refusal(data: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        first_message(data)
    return caught.value.reason


def check_every_split(message: bytes, expected: ClientHello) -> None:
    for cut in range(len(message)):
        assert first_message(message[:cut]) is None
    for kind in (bytes, bytearray, memoryview):
        assert first_message(kind(message)) == expected
        assert first_message(kind(message + b"\xff" * 40)) == expected


def client_hello(name: str | None, protocols: int = 0) -> bytes:
    """A ClientHello of OpenSSL."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols([f"{number:0250}" for number in range(protocols)])
    if name is None:
        context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def handshake(records: bytes) -> bytes:
    """The handshake message that the records carry."""
    message, at = b"", 0
    while at < len(records):
        (size,) = struct.unpack_from("!H", records, at + 3)
        message, at = message + records[at + 5 : at + 5 + size], at + 5 + size
    return message


def records(message: bytes, sizes: list[int]) -> bytes:
    """The handshake message in records of those sizes, then one with the rest."""
    out, at = b"", 0
    for size in [*sizes, len(message)]:
        part = message[at : at + size]
        out += b"\x16\x03\x01" + struct.pack("!H", len(part)) + part if part else b""
        at += len(part)
    return out


@pytest.mark.parametrize("name", [None, "db.example.net", "x" * 60 + ".example"])
def test_a_real_client_hello_at_every_split(name: str | None) -> None:
    message = client_hello(name)
    check_every_split(message, ClientHello(len(message), name.encode() if name else None))


def test_a_client_hello_that_openssl_splits_itself() -> None:
    message = client_hello("db.example.net", protocols=80)
    assert len(message) > 1 << 14
    expected = ClientHello(len(message), b"db.example.net")
    assert first_message(message + b"\x17\x03\x03") == expected
    for cut in [*range(4, 60), *range(16_300, 16_500), len(message) - 1]:
        assert first_message(message[:cut]) is None


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.one_of(st.integers(1, 5), st.integers(1, 300)), max_size=40), version=st.integers(0, 4))
def test_a_client_hello_in_any_records(sizes: list[int], version: int) -> None:
    message = bytearray(records(handshake(client_hello("a.example")), sizes))
    if version or message[3]:
        message[2] = version
    check_every_split(bytes(message), ClientHello(len(message), b"a.example"))


def test_too_many_records_are_refused() -> None:
    message = handshake(client_hello("a.example"))
    fits = records(message, [1] * 63)
    assert first_message(fits) == ClientHello(len(fits), b"a.example")
    assert refusal(records(message, [1] * 64)) == "tls"
    assert refusal(records(message, [1] * 64)[: 64 * 6]) == "tls"


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\x16\x03\x01\x00\x00", "tls"),
        (b"\x16\x03\x01\x40\x01", "tls"),
        (b"\x16\x03\x04\xff\xff", "tls"),
        (b"\x16\x03\x01\x02\x00\x02", "tls"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x00\x10", "tls"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfb", "tls"),
        (b"\x16\x03\x01\x02\x00\x01\x01\x00\x01", "too_large"),
        (b"\x16\x03\x01\x02\x00\x01\xff\xff\xff", "too_large"),
        (b"\x16\x03\x01\x00\x01\x01\x17\x03\x01\x00\x01", "tls"),
        (b"\x16\x03\x01\x00\x01\x01\x16\x02\x01\x00\x01", "tls"),
    ],
)
def test_a_lying_tls_record_is_refused_at_once(start: bytes, reason: str) -> None:
    assert first_message(start[:4]) is None
    assert refusal(start) == reason


def test_records_beyond_the_limit_are_refused_before_they_come() -> None:
    record = b"\x16\x03\x01\x40\x00"
    first = record + b"\x01\x00\xff\xff" + bytes((1 << 14) - 4)
    whole = record + bytes(1 << 14)
    assert first_message(first + whole + whole) is None
    assert refusal(first + whole + whole + record) == "too_large"


def crafted(extensions: bytes, session: bytes = b"\0", compression: bytes = b"\x01\0") -> bytes:
    body = b"\x03\x03" + bytes(32) + session + b"\0\x02\x13\x01" + compression + extensions
    return records(b"\x01" + struct.pack("!I", len(body))[1:] + body, [])


def vector(body: bytes) -> bytes:
    return struct.pack("!H", len(body)) + body


def name_extension(names: bytes) -> bytes:
    return b"\0\0" + vector(names)


def test_a_client_hello_without_extensions_has_no_name() -> None:
    message = crafted(b"")
    check_every_split(message, ClientHello(len(message), None))


GOOD_NAME = name_extension(vector(b"\0" + vector(b"a.example")))


def test_a_crafted_name_is_read() -> None:
    message = crafted(vector(b"\0\x17\0\0" + GOOD_NAME + b"\xff\x01\0\x01\0"), b"\x03abc")
    check_every_split(message, ClientHello(len(message), b"a.example"))


@pytest.mark.parametrize(
    "message",
    [
        crafted(b"", session=b"\xff"),
        crafted(b"", compression=b"\x09\0"),
        crafted(b"\0"),
        crafted(b"\0\x09\0"),
        crafted(vector(GOOD_NAME) + b"\0"),
        crafted(vector(GOOD_NAME[:-1])),
        crafted(vector(GOOD_NAME + GOOD_NAME)),
        crafted(vector(GOOD_NAME + b"\0")),
        crafted(vector(name_extension(b""))),
        crafted(vector(name_extension(vector(b"")))),
        crafted(vector(name_extension(vector(b"\0" + vector(b""))))),
        crafted(vector(name_extension(vector(b"\x01" + vector(b"a"))))),
        crafted(vector(name_extension(vector(b"\0" + vector(b"a" * 256))))),
        crafted(vector(name_extension(vector(b"\0" + vector(b"a") + b"\0")))),
        crafted(vector(name_extension(vector(b"\0" + vector(b"a")) + b"\0"))),
        crafted(vector(name_extension(vector(b"\0\xff\xff" + b"a")))),
    ],
)
def test_a_malformed_client_hello_is_refused(message: bytes) -> None:
    assert refusal(message) == "tls"


def survives(data: bytes) -> None:
    """An answer, or a refusal; and an answer is never taken back."""
    try:
        whole = first_message(data)
    except ProtocolError as error:
        assert error.reason in ("tls", "too_large")
        return
    assert whole is None or whole.length <= len(data)
    for cut in range(0, len(data), 7):
        seen = first_message(data[:cut])
        assert seen is None or seen == whole


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    survives(b"\x16\x03\x01" + vector(data))
    survives(b"\x16\x03\x01" + data)
    survives(crafted(vector(data)))
    survives(crafted(vector(name_extension(data))))


ORIGINALS = [crafted(vector(GOOD_NAME)), records(handshake(client_hello("a.example")), [3, 1, 90])]


@settings(max_examples=200, deadline=None)
@given(
    original=st.sampled_from(ORIGINALS),
    changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes(original: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(original)
    for at, value in changes:
        data[3 + at % (len(data) - 3)] = value
    survives(bytes(data))
