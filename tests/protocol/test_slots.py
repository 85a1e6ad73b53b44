"""Hash slots, against a real server's own arithmetic, and redirections."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puerta.protocol.slots import SLOTS, parse_redirect, slot_of
from puerta.protocol.span import key_slot
from tests.protocol.conftest import Node

TAGGED = [
    b"", b"{", b"}", b"{}", b"{}x", b"{}{a}", b"a}{b}", b"{a}{b}", b"{{a}}", b"{a}}", b"{a", b"a{b", b"x{a}y", b"x{}{a}y", b"}{",
    b"foo{}{bar}", b"foo{{bar}}zap", b"foo{bar}{zap}", b"{\0}x", b"\xff{\xfe}\xfd", b"{\r\n}", b"a" * 70000,
    b"{%s}b" % (b"x" * 70000),
]  # fmt: skip

keys = st.one_of(st.binary(max_size=40), st.text("{}ab", max_size=12).map(str.encode))


@pytest.mark.parametrize("key", TAGGED, ids=lambda key: repr(key[:16]))
def test_hash_tags_as_the_server_reads_them(valkey: Node, key: bytes) -> None:
    assert slot_of(key) == valkey.call(b"CLUSTER", b"KEYSLOT", key)


@given(keys)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_key_has_the_servers_slot(valkey: Node, key: bytes) -> None:
    assert slot_of(key) == valkey.call(b"CLUSTER", b"KEYSLOT", key)


def test_figures_of_the_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"foo") == 12182
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers") == slot_of(b"user1000")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"-MOVED 3999 127.0.0.1:6381\r\n", ("MOVED", 3999, "127.0.0.1", 6381)),
        (b"-ASK 0 127.0.0.1:1\r\n", ("ASK", 0, "127.0.0.1", 1)),
        (b"MOVED 16383 a.b-c_d.example:65535", ("MOVED", 16383, "a.b-c_d.example", 65535)),
        (b"-MOVED 1 :6380\r\n", ("MOVED", 1, "", 6380)),
        (b"-MOVED 1 ::1:6380\r\n", ("MOVED", 1, "::1", 6380)),
        (b"-MOVED 1 [::1]:6380\r\n", ("MOVED", 1, "::1", 6380)),
        (b"-MOVED 1 fe80::1%eth0:6380\r\n", ("MOVED", 1, "fe80::1%eth0", 6380)),
        (b"-MOVED 1 ?:6380\r\n", None),
        (b"-MOVED 16384 h:1\r\n", None),
        (b"-MOVED -1 h:1\r\n", None),
        (b"-MOVED 1 h:0\r\n", None),
        (b"-MOVED 1 h:65536\r\n", None),
        (b"-MOVED 1 h:\r\n", None),
        (b"-MOVED 1 h\r\n", None),
        (b"-MOVED 1\r\n", None),
        (b"-MOVED 1 h:1 x\r\n", None),
        (b"-MOVED 1 h h:1\r\n", None),
        (b"-MOVED 1 h/../x:1\r\n", None),
        (b"-MOVED 1 \x1b[31m:1\r\n", None),
        (b"-MOVED 1 []:1\r\n", None),
        (b"-MOVED 1 [h]:1\r\n", None),
        (b"-MOVED 1 %s:1\r\n" % (b"h" * 256), None),
        (b"-MOVED \xb2 h:1\r\n", None),
        (b"-MOVED %s h:1\r\n" % (b"1" * 5000), None),
        (b"-moved 1 h:1\r\n", None),
        (b"-MOVEDX 1 h:1\r\n", None),
        (b"+MOVED 1 h:1\r\n", None),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n", None),
        (b"", None),
    ],
)
def test_redirections(line: bytes, found: tuple[str, int, str, int] | None) -> None:
    assert parse_redirect(line) == found


rests = st.text(" :[]?0123456789abMOVEDASK-\r\n", max_size=40)


@given(st.one_of(st.binary(max_size=60), rests.map(lambda rest: b"-MOVED 1 " + rest.encode())))
@settings(max_examples=300)
def test_anything_else_is_no_redirection(line: bytes) -> None:
    found = parse_redirect(line)
    if found is not None:
        kind, slot, host, port = found
        assert kind in ("MOVED", "ASK") and 0 <= slot < SLOTS and 0 < port < 65536
        assert len(host) < 256 and not set(host) & set(" []?\r\n\0/")


def test_a_key_within_a_buffer() -> None:
    """Every length, as bytes are taken several at once, with and without a hash tag."""
    choose = random.Random(5)
    for length in [*range(70)] * 10:
        key = choose.randbytes(length)
        tagged = key[: length // 3] + b"{" + key + b"}" + key
        for each in (key, tagged):
            data = b"before" + each + b"behind"
            assert key_slot(data, 6, len(each)) == slot_of(each)
