"""Affinity keys: one client, one key over all its connections; two kinds of key never meet."""

import itertools
import re
import struct
from hashlib import sha256
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puerta.protocol.identity import affinity_key, normal_address, session_name
from puerta.protocol.mongodb import Hello, first_message

KINDS = ["address", "fingerprint", "session", "hybrid"]
PATTERN = re.compile(r"@(\w+:\d+)$")
TEXT = st.binary(min_size=1, max_size=40)


def key(
    by: str = "hybrid",
    address: str = "192.0.2.1",
    application: bytes | None = None,
    server_name: bytes | None = None,
    proxy_identity: bytes | None = None,
    pattern: re.Pattern[str] | None = PATTERN,
) -> bytes:
    found = affinity_key(
        by,
        address=address,
        application=application,
        server_name=server_name,
        proxy_identity=proxy_identity,
        session_pattern=pattern,
    )
    assert found is not None and len(found) == 16
    return found


def expected(*parts: bytes) -> bytes:
    """The digest spelled out: workers of two versions must agree on it."""
    text = b"puerta affinity" + b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return sha256(text).digest()[:16]


# What each kind is made of

APPLICATION = b"orders@host:42"


@pytest.mark.parametrize(
    ("by", "given_values", "parts"),
    [
        ("address", {}, (b"address", b"192.0.2.1")),
        ("address", {"application": b"a", "server_name": b"s", "proxy_identity": b"p"}, (b"address", b"192.0.2.1")),
        ("fingerprint", {"application": APPLICATION}, (b"application", b"192.0.2.1", APPLICATION)),
        ("fingerprint", {"application": b"a", "server_name": b"s"}, (b"application", b"192.0.2.1", b"a")),
        ("fingerprint", {"server_name": b"DB.Example"}, (b"server_name", b"192.0.2.1", b"db.example")),
        ("fingerprint", {"application": b""}, (b"address", b"192.0.2.1")),
        ("fingerprint", {"proxy_identity": b"p"}, (b"address", b"192.0.2.1")),
        ("session", {"application": APPLICATION}, (b"session", b"host:42")),
        ("session", {"application": b"orders"}, (b"application", b"192.0.2.1", b"orders")),
        ("session", {"application": APPLICATION, "pattern": None}, (b"application", b"192.0.2.1", APPLICATION)),
        ("session", {"server_name": b"x@host:42"}, (b"server_name", b"192.0.2.1", b"x@host:42")),
        ("session", {}, (b"address", b"192.0.2.1")),
        ("session", {"proxy_identity": b"p"}, (b"address", b"192.0.2.1")),
        ("hybrid", {"application": APPLICATION, "proxy_identity": b"p"}, (b"proxy", b"p")),
        ("hybrid", {"application": APPLICATION, "proxy_identity": b""}, (b"session", b"host:42")),
        ("hybrid", {"application": b"orders"}, (b"application", b"192.0.2.1", b"orders")),
        ("hybrid", {"server_name": b"s"}, (b"server_name", b"192.0.2.1", b"s")),
        ("hybrid", {}, (b"address", b"192.0.2.1")),
    ],
)
def test_what_a_key_is_made_of(by: str, given_values: dict[str, Any], parts: tuple[bytes, ...]) -> None:
    assert key(by, **given_values) == expected(*parts)


def test_none_has_no_key_and_an_unknown_kind_is_a_mistake() -> None:
    values: dict[str, Any] = {
        "address": "192.0.2.1",
        "application": b"a",
        "server_name": b"s",
        "proxy_identity": b"p",
        "session_pattern": PATTERN,
    }
    assert affinity_key("none", **values) is None
    with pytest.raises(ValueError, match="port"):
        affinity_key("port", **values)


# Addresses


@pytest.mark.parametrize(
    ("spelling", "normal"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%2", "fe80::1"),
        ("::1", "::1"),
        ("unix", "unix"),
        ("", "unix"),
        ("/run/client.sock", "unix"),
        ("\0abstract", "unix"),
    ],
)
def test_one_spelling_for_one_host(spelling: str, normal: str) -> None:
    assert normal_address(spelling) == normal
    for by in KINDS:
        for name in (None, b"orders"):
            assert key(by, spelling, name) == key(by, normal, name)


@settings(deadline=None)
@given(address=st.ip_addresses(v=4))
def test_a_mapped_ipv4_address_is_the_ipv4_address(address: Any) -> None:
    assert key(address=f"::ffff:{address}") == key(address=str(address))


@settings(deadline=None)
@given(first=st.ip_addresses(), second=st.ip_addresses())
def test_two_hosts_have_two_keys(first: Any, second: Any) -> None:
    same = normal_address(str(first)) == normal_address(str(second))
    for by in KINDS:
        assert (key(by, str(first), b"orders") == key(by, str(second), b"orders")) is same


# Sessions


def test_a_session_has_no_address() -> None:
    keys = {key(by, host, APPLICATION) for by in ("session", "hybrid") for host in ("192.0.2.1", "2001:db8::1", "unix")}
    assert len(keys) == 1
    assert key("session", application=b"billing@host:42") in keys
    assert key("session", application=b"orders@host:43") not in keys


@pytest.mark.parametrize(
    ("pattern", "name", "session"),
    [
        (r"@(\w+:\d+)$", b"orders@host:42", b"host:42"),
        (r"@\w+:\d+$", b"orders@host:42", b"@host:42"),
        (r"^", b"orders", None),
        (r"orders(@.+)?", b"orders", None),
        (r"orders(.*)", b"orders", None),
        (r"(a)|(b)", b"b", None),
        (r"pid=(.+)", b"pid=\xff\xfe\xc3", b"\xff\xfe\xc3"),
        (r"pid=(.)", "pid=ñ".encode(), "ñ".encode()),
        (r"pid=(.)", b"pid=\xc3\x28", b"\xc3"),
        (r"pid", b"", None),
        (r"pid", None, None),
    ],
)
def test_what_the_pattern_names(pattern: str, name: bytes | None, session: bytes | None) -> None:
    assert session_name(name, re.compile(pattern)) == session


@settings(deadline=None)
@given(name=st.binary(max_size=128))
def test_a_pattern_meets_any_bytes(name: bytes) -> None:
    assert session_name(name, re.compile(r"(?s).+")) == (name or None)
    key("hybrid", application=name)


# Kinds never meet


@settings(max_examples=100, deadline=None)
@given(text=TEXT, other=TEXT)
def test_the_same_text_in_another_role_is_another_key(text: bytes, other: bytes) -> None:
    everything = re.compile(r"(?s).+")
    keys = [
        key("address"),
        key("fingerprint", application=text),
        key("fingerprint", server_name=text),
        key("session", application=text, pattern=everything),
        key("hybrid", proxy_identity=text),
        key("hybrid", proxy_identity=b"192.0.2.1"),
        key("session", application=b"192.0.2.1", pattern=everything),
    ]
    roles = [("s", text), ("p", text), ("p", b"192.0.2.1"), ("s", b"192.0.2.1")]
    assert len(set(keys)) == 3 + len(set(roles))
    assert (key("fingerprint", application=text) == key("fingerprint", application=other)) is (text == other)


def test_no_text_can_move_between_address_and_name() -> None:
    hosts, names = ("1.1.1.1", "1.1.1.11"), (b"1", b"11", b"1.1.1.1", b"")
    keys = {key("fingerprint", host, name) for host, name in itertools.product(hosts, names)}
    assert len(keys) == len(hosts) * len(names)


# One client


def connection(command: dict[str, Any], opcode: int) -> bytes:
    """The key of a connection that starts with that command."""
    prefix = struct.pack("<IB", 0, 0) if opcode == 2013 else struct.pack("<i", 0) + b"admin.$cmd\0" + bytes(8)
    body = prefix + bson.encode(command)
    hello = first_message(struct.pack("<iiii", 16 + len(body), 7, 0, opcode) + body)
    assert isinstance(hello, Hello)
    return key(application=hello.application, pattern=None)


@settings(max_examples=50, deadline=None)
@given(name=st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)))
def test_all_connections_of_one_client_share_its_key(name: str | None) -> None:
    client: dict[str, Any] = {"driver": {"name": "PyMongo|c", "version": "4.20.0|"}, "os": {"type": "Linux"}}
    client |= {} if name is None else {"application": {"name": name}}
    appended = {**client, "driver": {"name": "PyMongo|c|Mongoengine", "version": "4.20.0||1"}, "platform": "CPython|x"}
    sasl = {"saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": b"n,,n=bob,r=nonce"}
    commands: list[dict[str, Any]] = [
        {"ismaster": 1, "helloOk": True, "client": client},
        {"isMaster": 1, "client": client, "compression": []},
        {"hello": 1, "client": client, "compression": ["zstd"], "saslSupportedMechs": "admin.bob"},
        {"hello": 1, "speculativeAuthenticate": sasl, "$db": "admin", "client": appended},
    ]
    keys = {connection(command, opcode) for command in commands for opcode in (2004, 2013)}
    assert len(keys) == 1
