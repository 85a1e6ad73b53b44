"""The first message: real hellos of a real driver at every split point, and everything that lies about itself."""

import datetime
import struct
import sys
from collections.abc import Callable
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo import message as driver_messages
from pymongo.driver_info import DriverInfo

from puerta.errors import ProtocolError
from puerta.protocol.mongodb import FIRST_MESSAGE_LIMIT, Hello, first_message

REASONS = {"length", "too_large", "not_mongodb", "opcode", "flags", "section", "bson"}
MESSAGE, QUERY, COMPRESSED = 2013, 2004, 2012


def element(name: str, value: object) -> bytes:
    return bson.encode({name: value})[4:-1]


def document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def embedded(name: bytes, *elements: bytes) -> bytes:
    return b"\x03" + name + b"\0" + document(*elements)


def packed(opcode: int, body: bytes, request: int = 1) -> bytes:
    return struct.pack("<iiii", 16 + len(body), request, 0, opcode) + body


def op_msg(body: bytes, flags: int = 0, before: bytes = b"", after: bytes = b"", request: int = 1) -> bytes:
    checksum = b"\x01\x02\x03\x04" if flags & 1 else b""
    return packed(MESSAGE, struct.pack("<I", flags) + before + b"\0" + body + after + checksum, request)


def op_query(body: bytes, collection: bytes = b"admin.$cmd") -> bytes:
    return packed(QUERY, struct.pack("<i", 4) + collection + b"\0" + struct.pack("<ii", 0, -1) + body)


def sequence(name: bytes, *documents: bytes) -> bytes:
    body = name + b"\0" + b"".join(documents)
    return b"\x01" + struct.pack("<i", 4 + len(body)) + body


def application(name: bytes) -> bytes:
    """A client element whose application name is those bytes, UTF-8 or not."""
    text = b"\x02name\0" + struct.pack("<i", len(name) + 1) + name + b"\0"
    return embedded(b"client", embedded(b"application", text), embedded(b"driver", element("name", "PyMongo|c")))


def hello_document(name: bytes | None = b"orders@host:42", command: str = "hello") -> bytes:
    client = [] if name is None else [application(name)]
    return document(element(command, 1), element("helloOk", True), *client, element("$db", "admin"))


def refusal(data: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        first_message(data)
    assert caught.value.reason in REASONS
    return caught.value.reason


def check_every_split(message: bytes, expected: Hello) -> None:
    for cut in range(len(message)):
        assert first_message(message[:cut]) is None
    for kind in (bytes, bytearray, memoryview):
        assert first_message(kind(message)) == expected
        assert first_message(kind(message + b"\xff" * 40)) == expected


# Hellos of a real driver

Metadata = Callable[[], dict[str, Any]]


def driver_hello(opcode: int, command: dict[str, Any], flags: int = 0) -> bytes:
    """What pymongo sends: OP_MSG encoded by itself, OP_QUERY as its older versions sent it."""
    if opcode == QUERY:
        return op_query(bson.encode(command))
    encoded = driver_messages._op_msg(flags, dict(command), "admin", None, bson.DEFAULT_CODEC_OPTIONS)[1]
    return bytes(encoded)


def driver_commands(name: str | None) -> dict[str, dict[str, Any]]:
    """First commands of one client's connections: monitor, RTT, pool (compressing, authenticating), after an append."""
    client: MongoClient[dict[str, Any]] = MongoClient(connect=False, appname=name)
    first = client.options.pool_options.metadata
    client.append_metadata(DriverInfo("Mongoengine", "0.29", "a platform"))
    later = client.options.pool_options.metadata
    assert first != later
    start = {"hello": 1, "helloOk": True, "backpressure": "2"}
    sasl = {"saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": b"n,,n=bob,r=nonce", "autoAuthorize": 1, "db": "x"}
    return {
        "monitor": {"ismaster": 1, "helloOk": True, "backpressure": "2", "client": first},
        "old name": {"isMaster": 1, "client": first},
        "pool": {**start, "client": first, "compression": ["snappy", "zlib", "zstd"]},
        "appended": {**start, "client": later, "compression": []},
        "auth": {**start, "client": later, "saslSupportedMechs": "admin.bob", "speculativeAuthenticate": sasl},
        "auth first": {"hello": 1, "speculativeAuthenticate": sasl, "loadBalanced": False, "client": later},
    }


@pytest.mark.parametrize("opcode", [MESSAGE, QUERY])
@pytest.mark.parametrize("name", [None, "orders", "n" * 128, "größe@höst"])
def test_every_connection_of_a_real_driver_gives_the_same_name(opcode: int, name: str | None) -> None:
    for command in driver_commands(name).values():
        message = driver_hello(opcode, command)
        expected = Hello(len(message), None if name is None else name.encode(), False)
        check_every_split(message, expected)


def test_a_driver_that_is_told_of_a_load_balancer_is_known() -> None:
    command = {"hello": 1, "loadBalanced": True, "client": driver_commands("a")["pool"]["client"]}
    for opcode in (MESSAGE, QUERY):
        message = driver_hello(opcode, command)
        check_every_split(message, Hello(len(message), b"a", True))


def test_the_exact_bytes_that_pymongo_starts_with() -> None:
    start = bytes.fromhex("4a01000067458b6b00000000dd0700000000000000350100001069736d617374657200")
    known = [element("ismaster", 1), element("helloOk", True), application(b"orders")]
    padding = 309 - len(document(*known, element("$db", "admin"), element("pad", "")))
    message = op_msg(document(*known, element("pad", "x" * padding), element("$db", "admin")), request=1804289383)
    assert message.startswith(start)
    check_every_split(message, Hello(330, b"orders", False))


def test_a_message_of_790_bytes_looks_like_tls_and_is_none() -> None:
    known = [element("hello", 1), application(b"orders")]
    padding = 790 - len(op_msg(document(*known, element("pad", ""))))
    message = op_msg(document(*known, element("pad", "x" * padding)))
    assert message[:4] == b"\x16\x03\0\0"
    check_every_split(message, Hello(790, b"orders", False))


# Shapes that the protocol allows

EVERY_TYPE: list[bytes] = [
    element("double", 1.5), element("string", "\0 inside"), element("document", {"a": {"b": [1, {}]}}),
    element("array", [1, "2", [3]]), element("binary", bson.Binary(b"\0\x01", 128)), b"\x06undefined\0",
    element("id", bson.ObjectId()), element("true", True), element("false", False),
    element("date", datetime.datetime(2024, 1, 1)), element("null", None), element("regex", bson.Regex("a.*", "i")),
    b"\x0cpointer\0" + struct.pack("<i", 4) + b"a.b\0" + bytes(12), element("code", bson.Code("f()")),
    b"\x0esymbol\0" + struct.pack("<i", 2) + b"s\0", element("scope", bson.Code("f()", {"x": 1})),
    element("int32", 7), element("timestamp", bson.Timestamp(1, 2)), element("int64", bson.Int64(1 << 40)),
    element("decimal", bson.Decimal128("1.5")), element("max", bson.MaxKey()), element("min", bson.MinKey()),
    element("loadBalanced", 1), element("application", "not here"), element("empty", b""), element("", ""),
]  # fmt: skip


def test_the_list_of_every_type_is_complete() -> None:
    types = {each[0] for each in EVERY_TYPE}
    assert types == {*range(0x01, 0x14), 0x7F, 0xFF}


@settings(max_examples=60, deadline=None)
@given(
    command=st.sampled_from(["hello", "isMaster", "ismaster"]),
    name=st.one_of(st.none(), st.binary(min_size=1, max_size=128)),
    balanced=st.booleans(),
    extra=st.lists(st.sampled_from(EVERY_TYPE), max_size=6),
    shuffle=st.randoms(use_true_random=False),
    opcode=st.sampled_from([MESSAGE, QUERY]),
    flags=st.sampled_from([0, 1, 1 << 16, 1 | 1 << 16, 1 << 30]),
    sequences=st.tuples(st.booleans(), st.booleans()),
)
def test_names_are_found_in_any_order_among_anything(
    command: str,
    name: bytes | None,
    balanced: bool,
    extra: list[bytes],
    shuffle: Any,
    opcode: int,
    flags: int,
    sequences: tuple[bool, bool],
) -> None:
    elements = [*extra, element("$db", "admin")]
    elements += [application(name)] if name is not None else []
    elements += [element("loadBalanced", True)] if balanced else []
    shuffle.shuffle(elements)
    body = document(element(command, 1), *elements)
    before, after = (sequence(b"docs", document(), document(element("x", 1))) * wanted for wanted in sequences)
    message = op_msg(body, flags, before, after) if opcode == MESSAGE else op_query(body)
    check_every_split(message, Hello(len(message), name, balanced))


@pytest.mark.parametrize("each", EVERY_TYPE, ids=lambda each: hex(each[0]))
def test_a_value_of_every_type_is_skipped_and_not_believed_beyond_its_document(each: bytes) -> None:
    whole = op_msg(document(element("hello", 1), each, application(b"a")))
    assert first_message(whole) == Hello(len(whole), b"a", False)
    for cut in range(1, len(each)):
        assert refusal(op_msg(document(element("hello", 1), each[:-cut]))) == "bson"


@pytest.mark.parametrize(
    "client",
    [
        element("client", None),
        element("client", "orders"),
        element("client", {}),
        element("client", {"application": "orders"}),
        element("client", {"application": {}}),
        element("client", {"application": {"name": None}}),
        element("client", {"application": {"name": b"orders"}}),
        element("client", {"application": {"name": ""}}),
        element("client", {"application": {"name": "n" * 129}}),
        element("client", {"driver": {"application": {"name": "orders"}}}),
        b"",
    ],
)
def test_without_a_usable_name_there_is_none(client: bytes) -> None:
    message = op_msg(document(element("hello", 1), client))
    assert first_message(message) == Hello(len(message), None, False)


def test_the_first_of_two_names_counts() -> None:
    body = document(element("hello", 1), application(b"first"), application(b"second"))
    assert first_message(op_msg(body)) == Hello(len(op_msg(body)), b"first", False)


@pytest.mark.parametrize("command", ["ping", "saslStart", "find", "Hello", "HELLO", "", "client"])
def test_another_first_command_is_let_through_without_a_name(command: str) -> None:
    for message in (
        op_msg(document(element(command, 1), application(b"a"), element("loadBalanced", True))),
        op_query(document(element(command, 1), application(b"a"))),
    ):
        check_every_split(message, Hello(len(message), None, False))


def test_a_query_of_a_collection_is_let_through_without_a_name() -> None:
    message = op_query(hello_document(), b"admin.system.users")
    check_every_split(message, Hello(len(message), None, False))


def test_a_command_of_any_database_is_a_command() -> None:
    message = op_query(hello_document(b"a"), b"test.$cmd")
    check_every_split(message, Hello(len(message), b"a", False))


def test_a_compressed_message_is_let_through_without_a_name() -> None:
    message = packed(COMPRESSED, struct.pack("<iiB", MESSAGE, 30, 2) + b"anything")
    check_every_split(message, Hello(len(message), None, False))


def test_the_largest_message_fits_and_one_byte_more_does_not() -> None:
    padding = FIRST_MESSAGE_LIMIT - len(op_msg(document(element("hello", 1), application(b"a"), element("p", b""))))
    message = op_msg(document(element("hello", 1), application(b"a"), element("p", b"x" * padding)))
    assert first_message(message) == Hello(FIRST_MESSAGE_LIMIT, b"a", False)
    assert first_message(message[:-1]) is None
    assert refusal(struct.pack("<i", FIRST_MESSAGE_LIMIT + 1)) == "too_large"


# Lies


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not_mongodb"),
        (b"POST", "not_mongodb"),
        (b"HTTP/1.0 400 Bad", "not_mongodb"),
        (b"SSH-2.0-OpenSSH_9", "not_mongodb"),
        (b"*1\r\n$4\r\nPING\r\n", "not_mongodb"),
        (b"PING\r\n", "not_mongodb"),
        (b"PROXY TCP4 1.2.3.4", "not_mongodb"),
        (b"\r\n\r\n\0\r\nQUIT\n", "not_mongodb"),
        (b"\x80\x2e\x01\x03", "not_mongodb"),
        (b"\x15\x03\x01\x00", "too_large"),
    ],
)
def test_other_protocols_are_refused_on_four_bytes(start: bytes, reason: str) -> None:
    assert first_message(start[:3]) is None
    for end in range(4, len(start) + 1):
        assert refusal(start[:end]) == reason


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (0, "length"),
        (15, "length"),
        (-1, "length"),
        (-(2**31), "length"),
        (FIRST_MESSAGE_LIMIT + 1, "too_large"),
        (48_000_000, "too_large"),
        (48_000_001, "not_mongodb"),
        (2**31 - 1, "not_mongodb"),
    ],
)
def test_a_lying_message_length_is_refused_at_once(length: int, reason: str) -> None:
    assert refusal(struct.pack("<i", length)) == reason


@pytest.mark.parametrize(("opcode", "least"), [(MESSAGE, 26), (QUERY, 34), (COMPRESSED, 25)])
def test_a_message_too_short_for_its_kind_is_refused_at_its_header(opcode: int, least: int) -> None:
    assert refusal(struct.pack("<iiii", least - 1, 1, 0, opcode)) == "length"
    assert first_message(struct.pack("<iiii", least, 1, 0, opcode)) is None


@pytest.mark.parametrize("opcode", [0, 1, 1000, 2001, 2002, 2005, 2006, 2007, 2010, 2011, 2014, -1, 0x20544547])
def test_an_unknown_operation_is_refused_at_the_header(opcode: int) -> None:
    header = struct.pack("<iiii", 300, 1, 0, opcode)
    assert first_message(header[:15]) is None
    assert refusal(header) == "opcode"


@pytest.mark.parametrize("flags", [1 << bit for bit in range(2, 16)])
def test_an_unknown_required_flag_is_refused(flags: int) -> None:
    assert refusal(op_msg(hello_document(), flags)) == "flags"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (sequence(b"documents", document()), "section"),
        (b"\0" + hello_document() + b"\0" + hello_document(), "section"),
        (b"\x02" + hello_document(), "section"),
        (b"\xff" + hello_document(), "section"),
        (b"\0" + hello_document() + b"\x01", "section"),
        (b"\0" + hello_document() + b"\x01" + struct.pack("<i", 0), "section"),
        (b"\0" + hello_document() + b"\x01" + struct.pack("<i", 100) + b"a\0", "section"),
        (b"\x01" + struct.pack("<i", -1) + b"\0" + hello_document(), "section"),
        (b"\0" + hello_document() + b"\0", "section"),
        (b"\0" + document() + bytes(4), "section"),
        (b"\0" + document(), "bson"),
        (b"\0" + hello_document()[:-1], "bson"),
    ],
)
def test_sections_must_be_one_body_and_whole_sequences(body: bytes, reason: str) -> None:
    assert refusal(packed(MESSAGE, bytes(4) + body)) == reason


def test_a_query_without_an_end_of_its_name_is_refused() -> None:
    assert refusal(packed(QUERY, bytes(4) + b"x" * 40)) == "bson"
    assert refusal(packed(QUERY, bytes(4) + b"x" * 30 + b".$cmd\0" + bytes(4))) == "bson"


@pytest.mark.parametrize("opcode", [MESSAGE, QUERY])
@pytest.mark.parametrize("lie", [0, 1, 4, -1, -(2**31), 2**31 - 1, 2**24, "+1", "-1"])
def test_every_length_on_the_way_to_the_name_is_checked(opcode: int, lie: int | str) -> None:
    message = (op_msg if opcode == MESSAGE else op_query)(hello_document(b"orders@host:42"))
    places = [
        message.index(b"\x10hello\0") - 4,
        message.index(b"client\0") + 7,
        message.index(b"application\0") + 12,
        message.index(b"name\0") + 5,
        message.index(b"$db\0") + 4,
    ]
    for at in places:
        (true,) = struct.unpack_from("<i", message, at)
        value = true + int(lie) if isinstance(lie, str) else lie
        shorter_body = opcode == MESSAGE and at == places[0] and lie == "-1"
        reason = "section" if shorter_body else "bson"
        assert refusal(message[:at] + struct.pack("<i", value) + message[at + 4 :]) == reason


def test_unknown_element_types_are_refused() -> None:
    for kind in {*range(256)} - {each[0] for each in EVERY_TYPE}:
        assert refusal(op_msg(document(element("hello", 1), bytes([kind]) + b"x\0" + bytes(20)))) == "bson"


def test_a_name_without_an_end_is_refused() -> None:
    assert refusal(op_msg(document(b"\x10" + b"x" * 40))) == "bson"
    assert refusal(op_msg(document(element("hello", 1), b"\x0bregex\0pattern\0options"))) == "bson"
    assert refusal(op_msg(document(element("hello", 1), b"\x0bregex\0pattern"))) == "bson"


# Steps: counted, so that no clock decides


def steps(data: bytes) -> int:
    """Lines of Python that one look at `data` runs."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        first_message(data)
    except ProtocolError:
        pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("each", [element("x", None), element("client", {}), sequence(b"")], ids=["null", "doc", "seq"])
def test_work_grows_with_the_message_and_no_faster(each: bytes) -> None:
    def message(copies: int) -> bytes:
        if each[0] == 1:
            return op_msg(hello_document(), before=each * copies)
        return op_msg(document(element("hello", 1), each * copies))

    small, large = steps(message(200)), steps(message(1600))
    assert small < large < 9 * small


def test_nesting_costs_nothing() -> None:
    def bomb(depth: int) -> bytes:
        inner = b"".join(b"\x03a\0" + struct.pack("<i", 8 * (depth - level) + 5) for level in range(depth))
        deep = embedded(b"bomb", inner + b"\x0aab\0" + b"\0" * depth)
        return op_msg(document(element("hello", 1), deep, application(b"a")))

    assert first_message(bomb(4000)) == Hello(len(bomb(4000)), b"a", False)
    assert steps(bomb(4000)) == steps(bomb(10))


def test_an_incomplete_message_costs_a_look_at_its_header() -> None:
    message = op_msg(document(element("hello", 1), *[element("x", None)] * 10_000))
    assert steps(message[:-1]) == steps(message[:17]) < 40


# Anything at all


def survives(data: bytes) -> None:
    """An answer, or ProtocolError; and a refusal of a prefix is never taken back."""
    try:
        whole = first_message(data)
    except ProtocolError as error:
        assert error.reason in REASONS
        return
    assert whole is None or whole.length <= len(data)
    for cut in range(0, len(data), 7):
        seen = first_message(data[:cut])
        assert seen is None or seen == whole


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    survives(data)
    survives(struct.pack("<iiii", 16 + len(data), 1, 0, MESSAGE) + data)
    survives(struct.pack("<iiii", 16 + len(data), 1, 0, QUERY) + data)
    survives(op_msg(document(element("hello", 1), data)))
    survives(op_msg(document(element("hello", 1), b"\x03client\0" + data)))


ORIGINALS = [
    op_msg(document(element("hello", 1), *EVERY_TYPE, application(b"orders")), before=sequence(b"d", document())),
    op_query(document(element("ismaster", 1), application(b"orders"), *EVERY_TYPE)),
]


@settings(max_examples=300, deadline=None)
@given(
    original=st.sampled_from(ORIGINALS),
    changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes(original: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(original)
    for at, value in changes:
        data[at % len(data)] = value
    survives(bytes(data))
