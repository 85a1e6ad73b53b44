"""Where replies and requests end, in whatever pieces they come. hiredis is the oracle for replies."""

from collections.abc import Iterator
from itertools import accumulate
from random import Random
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puerta.protocol import resp, span
from puerta.protocol.request import Request
from puerta.protocol.resp import Scan
from tests.redis.wire import request

pytestmark = pytest.mark.dataplane

MORE, COMPLETE, INLINE, BAD = range(4)

lines = st.binary(max_size=12).map(lambda text: text.replace(b"\r", b".").replace(b"\n", b"."))
simple = st.one_of(
    lines.map(lambda text: b"+%s\r\n" % text),
    lines.map(lambda text: b"-ERR %s\r\n" % text),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda value: b":%d\r\n" % value),
    st.binary(max_size=40).map(lambda text: b"$%d\r\n%s\r\n" % (len(text), text)),
    st.sampled_from([b"$0\r\n\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"$2\r\n\r\n\r\n"]),
    st.sampled_from([b"_\r\n", b"#t\r\n", b"#f\r\n", b",1.5\r\n", b",-inf\r\n", b"(%d\r\n" % 7**90]),
    st.binary(max_size=20).map(lambda text: b"=%d\r\ntxt:%s\r\n" % (len(text) + 4, text)),
)


def aggregates(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    many = st.lists(values, max_size=5)
    return st.one_of(
        many.map(lambda found: b"*%d\r\n%s" % (len(found), b"".join(found))),
        many.map(lambda found: b">%d\r\n%s" % (len(found) + 1, b"+push\r\n" + b"".join(found))),
        st.lists(simple, max_size=5).map(lambda found: b"~%d\r\n%s" % (len(found), b"".join(found))),
        st.lists(st.tuples(lines, values), max_size=4).map(
            lambda found: b"%%%d\r\n%s" % (len(found), b"".join(b"+%s\r\n%s" % pair for pair in found))
        ),
    )


replies = st.recursive(simple, aggregates, max_leaves=20)


def complete(data: bytes) -> bool:
    """For hiredis."""
    reader = hiredis.Reader(notEnoughData=incomplete)
    reader.feed(data)
    return reader.gets() is not incomplete


incomplete: Any = object()


@given(replies, st.binary(max_size=8))
@settings(max_examples=300, deadline=None)
def test_the_end_of_a_reply_is_seen_at_its_last_byte_and_not_before(reply: bytes, more: bytes) -> None:
    assert complete(reply)
    piecewise = Scan()
    for end in range(len(reply)):
        assert Scan().look(reply[:end]) == MORE
        assert piecewise.look(reply[:end]) == MORE
    assert piecewise.look(reply + more) == COMPLETE
    whole = Scan()
    assert whole.look(reply + more) == COMPLETE
    assert whole.length == piecewise.length == len(reply)


@given(st.binary(min_size=1, max_size=30), st.data())
@settings(max_examples=500, deadline=None)
def test_what_hiredis_takes_for_a_reply_is_one(junk: bytes, data: st.DataObject) -> None:
    """And on no bytes at all does the search go astray."""
    kind = data.draw(st.sampled_from([b"$", b"*", b"%", b"~", b">", b"+", b":", b"_", b"#", b"=", b"!", b"|", b""]))
    text = kind + junk
    scan = Scan()
    status = scan.look(text)
    assert status in (MORE, COMPLETE, BAD)
    if status == COMPLETE:
        assert 3 <= scan.length <= len(text)
    try:
        whole = complete(text)
    except hiredis.ProtocolError:
        return  # what is between the length and the line ends is not looked at: it comes from a server
    if kind not in b"|":
        assert (status == COMPLETE) == whole


@given(st.lists(replies, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_replies_one_after_the_other(found: list[bytes]) -> None:
    data = b"".join(found)
    at = 0
    scan = Scan()
    for reply in found:
        assert scan.look(data[at:]) == COMPLETE
        at += scan.length
        assert data[:at].endswith(reply)
    assert at == len(data)


@pytest.mark.parametrize(
    "reply",
    [
        b"|1\r\n+ttl\r\n:3600\r\n$1\r\nx\r\n",
        b"|1\r\n+a\r\n*2\r\n:1\r\n|1\r\n+b\r\n+c\r\n:2\r\n%1\r\n+k\r\n|1\r\n+d\r\n_\r\n+v\r\n",
        b"|0\r\n+OK\r\n",
        b"!22\r\nSYNTAX invalid\r\nsyntax\r\n",
        b"*1\r\n" * 500 + b":1\r\n",
        b"%1\r\n%1\r\n+a\r\n+b\r\n~2\r\n*-1\r\n$-1\r\n",
        b"*3\r\n*-1\r\n*0\r\n_\r\n",
        b"$70000\r\n" + b"\r\n" * 35000 + b"\r\n",
    ],
    ids=lambda reply: repr(reply[:12]),
)
def test_attributes_and_deep_or_odd_replies(reply: bytes) -> None:
    """What hiredis reads otherwise or not at all, by the specification of RESP3."""
    piecewise = Scan()
    for end in range(0, len(reply), max(1, len(reply) // 3000)):
        assert piecewise.look(reply[:end]) == MORE
    assert piecewise.look(reply + b"+more\r\n") == COMPLETE
    assert piecewise.length == len(reply)


@pytest.mark.parametrize(
    "reply",
    [
        b"@\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b"$x\r\n",
        b"*1x\r\n",
        b"*2\r\n:1\r\nxyz\r\n",
        b"$\r\n",
        b"%99999999999999999999\r\n",
    ],
)
def test_what_is_no_reply(reply: bytes) -> None:
    assert Scan().look(reply) == BAD


@given(st.lists(replies, max_size=6))
@settings(max_examples=100, deadline=None)
def test_elements_are_the_values_as_they_stand(found: list[bytes]) -> None:
    assert resp.elements(resp.array(found)) == found


# -- requests

words = st.lists(st.binary(max_size=20), min_size=1, max_size=6)


@given(words, st.binary(max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_request_in_any_pieces(arguments: list[bytes], more: bytes) -> None:
    data = request(*arguments)
    piecewise = Request(1 << 20)
    for end in range(len(data)):
        assert Request(1 << 20).look(data[:end]) == MORE
        assert piecewise.look(data[:end]) == MORE
    assert piecewise.look(data + more) == COMPLETE
    assert piecewise.at == len(data)
    assert piecewise.arguments(data + more) == arguments
    piecewise.__init__(1 << 20)  # type: ignore[misc]
    assert piecewise.look(data) == COMPLETE


@pytest.mark.parametrize("data", [b"*0\r\n", b"*-1\r\n", b"*-7\r\n"])
def test_a_request_of_nothing(data: bytes) -> None:
    asked = Request(1 << 20)
    assert asked.look(data) == COMPLETE
    assert (asked.at, asked.arguments(data)) == (4 if data == b"*0\r\n" else 5, [])


@given(st.text("ab \"'\\x0\t\0é", max_size=20).map(lambda text: text.encode("latin-1")))
@settings(max_examples=300, deadline=None)
def test_an_inline_request_in_any_pieces(line: bytes) -> None:
    data = b"A" + line + b"\r\n"
    piecewise = Request(1 << 20)
    for end in range(len(data)):
        assert piecewise.look(data[:end]) == MORE
    assert piecewise.look(data) == INLINE
    assert piecewise.at == len(data)


@given(st.binary(max_size=60), st.booleans())
@settings(max_examples=500, deadline=None)
def test_no_bytes_lead_a_request_astray(data: bytes, trusted: bool) -> None:
    asked = Request(1 << 20)
    asked.trusted = trusted
    status = asked.look(data)
    assert status in (MORE, COMPLETE, INLINE, BAD)
    if status in (COMPLETE, INLINE):
        assert 0 < asked.at <= len(data)
    assert bool(asked.error) == (status == BAD)


# -- frames that follow others of their shape


@pytest.fixture(autouse=True, scope="module")
def shapes_are_soon_compiled() -> Iterator[None]:
    """Uncompiled, a shape that was met often becomes a regular expression: here, after a few frames."""
    with pytest.MonkeyPatch.context() as patch:
        if span.__file__.endswith(".py"):
            patch.setattr(span, "_OFTEN", 3)
        yield


def same_shape(draw: st.DrawFn, arguments: list[bytes]) -> list[bytes]:
    """The same name, and other arguments of the same lengths."""
    return arguments[:1] + [draw(st.binary(min_size=len(word), max_size=len(word))) for word in arguments[1:]]


@st.composite
def conversations(draw: st.DrawFn) -> list[list[bytes]]:
    """Requests, many of which have the shape of the one before."""
    found = []
    for arguments in draw(st.lists(words, min_size=1, max_size=4)):
        found += [arguments] + [same_shape(draw, arguments) for _ in range(draw(st.integers(0, 9)))]
    return found


@given(conversations(), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_requests_that_follow_others_of_their_shape(said: list[list[bytes]], missing: int) -> None:
    requests = [request(*arguments) for arguments in said]
    whole = b"".join(requests)
    data = whole[:-missing]
    asked = Request(1 << 20)
    at = number = 0
    while asked.follow(data, at) == COMPLETE:
        name = said[number][0]
        asked.most = 5
        assert asked.run <= asked.most
        for _ in range(asked.run):
            assert asked.arguments(data[at:]) == said[number]
            assert said[number][0] == name
            number += 1
            at += asked.at
    assert asked.follow(data, at) == MORE
    assert number == sum(end <= len(data) for end in accumulate(map(len, requests)))
    rest = asked.split()
    assert rest.look(whole[at:]) == COMPLETE
    assert rest.arguments(whole[at:]) == said[number]


@given(st.lists(st.tuples(replies, st.integers(1, 9)), min_size=1, max_size=4), st.randoms())
@settings(max_examples=300, deadline=None)
def test_replies_that_follow_others_of_their_shape(said: list[tuple[bytes, int]], random: Random) -> None:
    expected = []
    for reply, times in said:
        size = random.randrange(20)
        bulks = [b"$%d\r\n%s\r\n" % (size, random.randbytes(size)) for _ in range(times)]
        expected += [reply] * times + random.choice(
            [bulks, [b"*1\r\n" + bulk for bulk in bulks], [b"*2\r\n" + 2 * bulk for bulk in bulks]]
        )
    data = b"".join(expected)
    scan = Scan()
    at = number = 0
    while at < len(data):
        assert scan.look(data[at:]) == COMPLETE
        for _ in range(scan.run):
            assert data[at : at + scan.length] == expected[number]
            number += 1
            at += scan.length
    assert number == len(expected)


FEW = [
    b"+OK\r\n",
    b"_\r\n",
    b":1\r\n",
    b":23\r\n",
    b"$-1\r\n",
    b"$1\r\na\r\n",
    b"-ERR no\r\n",
    b"*1\r\n:1\r\n",
    b"*0\r\n",
]


@given(st.lists(st.sampled_from(FEW), max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=500, deadline=None)
def test_replies_of_few_shapes_in_any_pieces(said: list[bytes], random: Random) -> None:
    """What was remembered of a reply that came in pieces does not count for the next."""
    data = b"".join(said)
    scan, found = Scan(), []
    at = seen = 0
    while seen < len(data):
        seen = min(len(data), seen + random.randint(1, 8))
        while at < seen and scan.look(data[at:seen]) == COMPLETE:
            for _ in range(scan.run):
                found.append(data[at : at + scan.length])
                at += scan.length
    assert found == said


def test_a_long_run_is_seen_as_one() -> None:
    data = request(b"GET", b"key:1") * 100
    asked = Request(1 << 20)
    at = found = calls = 0
    while at < len(data):
        assert asked.follow(data, at) == COMPLETE
        asked.most = 50
        at += asked.at * asked.run
        found += asked.run
        calls += 1
    assert found == 100
    assert calls < 10


def test_who_is_not_trusted_is_not_believed_a_shape_that_others_may_use() -> None:
    data = request(b"SET", b"key", b"x" * 20000)
    asked = Request(1 << 20)
    assert asked.follow(data, 0) == asked.follow(data, 0) == COMPLETE
    asked.trusted = False
    assert asked.follow(data, 0) == BAD
    asked.trusted = True
    assert asked.follow(data, 0) == COMPLETE


@pytest.mark.parametrize(
    "frame", [b"*200\r\n" + b":1\r\n" * 200, b"*40\r\n" + b"$1\r\nx\r\n" * 40, b"+" + b"x" * 1000 + b"\r\n"]
)
def test_what_is_too_long_to_remember_is_looked_at_each_time(frame: bytes) -> None:
    scan = Scan()
    for _ in range(5):
        assert scan.look(frame + frame) == COMPLETE
        assert (scan.length, scan.run) == (len(frame), 1)


def test_whole_numbers_as_the_server_reads_them() -> None:
    good = [b"0", b"7", b"-7", b"9223372036854775807", b"-9223372036854775808"]
    assert [resp.whole(text) for text in good] == [int(text) for text in good]
    for text in (
        b"",
        b"-",
        b"+1",
        b" 1",
        b"1 ",
        b"01",
        b"-0",
        b"9223372036854775808",
        b"1.0",
        b"1e3",
        b"x",
        b"9" * 40,
        b"\xb2",
    ):
        assert resp.whole(text) is None, text
