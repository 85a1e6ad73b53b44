"""A MongoDB client until it is known: its first message in any pieces, and everything that is none."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import bson
import pytest

from puerta.protocol.identity import affinity_key
from puerta.protocol.mongodb import FIRST_MESSAGE_LIMIT
from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import (
    HEADER,
    OP_MSG,
    Backend,
    ended,
    hello,
    message,
    op_msg,
    op_query,
    receive,
    receive_all,
    reset,
)

pytestmark = pytest.mark.dataplane

MIB = 1 << 20
HASTE = 3.0
"""Seconds within which a refusal must have come; the handshake's deadline is later."""


@pytest.fixture(scope="module")
def backends(backend: Make) -> list[Backend]:
    return [backend() for _ in range(3)]


@pytest.fixture(scope="module")
def brisk(backend: Make) -> Backend:
    return backend()


@pytest.fixture(scope="module")
def front(backends: list[Backend], brisk: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    routes = [
        route("mongo", *backends, mode="mongodb"),
        route("brisk", brisk, mode="mongodb", limits={"handshake_timeout": "1s"}),
    ]
    with Front(tmp_path_factory.mktemp("first"), *routes, log={"format": "json", "level": "debug"}) as running:
        yield running


def taken(backends: list[Backend]) -> tuple[int, socket.socket]:
    """Who got the next client, and its connection."""

    def find() -> tuple[int, socket.socket] | None:
        return next(((index, each.take()) for index, each in enumerate(backends) if not each.waiting.empty()), None)

    found: tuple[int, socket.socket] = wait_for(find, "a backend got the client")
    return found


def served(backends: list[Backend]) -> int:
    return sum(each.served for each in backends)


# -- pieces ------------------------------------------------------------------------------------------------------------


def send_in_pieces(front: Front, data: bytes, cuts: list[int]) -> socket.socket:
    client = front.connect("mongo")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        client.sendall(data[start:end])
        time.sleep(0.002 if len(cuts) < 50 else 0.0002)
    return client


def test_a_hello_in_pieces_is_the_same_client_and_arrives_once(front: Front, backends: list[Backend]) -> None:
    data = hello("orders@host:17")
    name = data.index(b"orders@host")
    cuts = [[], [1], [3], [4], [15], [16], [20], [21], [25], [name + 4], [len(data) - 1], [4, 16, name, name + 9]]
    homes = set()
    for cut in [*cuts, list(range(1, len(data)))]:
        with send_in_pieces(front, data, cut) as client:
            home, upstream = taken(backends)
            homes.add(home)
            with upstream:
                assert receive(upstream, len(data)) == data
                upstream.sendall(b"answer")
                assert receive(client, 6) == b"answer"
                client.shutdown(socket.SHUT_WR)
                assert upstream.recv(1) == b"", "more came than was sent"
            line = front.access(named(client))
            assert line["bytes_in"] == len(data)
    assert len(homes) == 1


@pytest.mark.parametrize("behind", [0, 1000, 200 << 10])
def test_an_end_right_behind_the_hello_is_passed_on(front: Front, backends: list[Backend], behind: int) -> None:
    data = hello("brief") + os.urandom(behind)
    with front.connect("mongo", data) as client:
        client.shutdown(socket.SHUT_WR)
        with taken(backends)[1] as upstream:
            assert receive_all(upstream) == data
            upstream.sendall(b"answer")
            upstream.shutdown(socket.SHUT_WR)
            assert receive_all(client) == b"answer"


@pytest.mark.parametrize("behind", [1, 16, 1000, 32 << 10, 96 << 10, 300 << 10])
def test_what_follows_the_hello_in_one_segment_is_kept_in_order(
    front: Front, backends: list[Backend], behind: int
) -> None:
    data = hello("pipelined") + os.urandom(behind)
    with front.connect("mongo", data), taken(backends)[1] as upstream:
        assert receive(upstream, len(data)) == data


def test_every_spelling_of_a_hello_names_the_same_client(front: Front, backends: list[Backend]) -> None:
    body = {"client": {"application": {"name": "spelled"}, "driver": {"name": "d"}}}
    spellings = [
        hello("spelled"),
        hello("spelled", "isMaster"),
        hello("spelled", "ismaster", compression=["zstd"], saslSupportedMechs="admin.bob"),
        op_query({"ismaster": 1, **body}),
        op_query({"isMaster": 1, "helloOk": True, **body}),
        op_msg({"hello": 1, "$db": "admin", **body}),
        op_msg(
            {"hello": 1, "client": {"driver": {"name": "d|wrapper"}, "application": {"name": "spelled"}}}, flags=0x10000
        ),
    ]
    keys = set()
    for data in spellings:
        with front.connect("mongo", data) as client, taken(backends)[1] as upstream:
            assert receive(upstream, len(data)) == data
            name = named(client)
        keys.add(front.access(name)["key"])
    mine = affinity_key(
        "hybrid",
        address="127.0.0.1",
        application=b"spelled",
        server_name=None,
        proxy_identity=None,
        session_pattern=None,
    )
    assert mine is not None and keys == {mine.hex()}


def test_the_longest_first_message_is_taken(front: Front, backends: list[Backend]) -> None:
    token = FIRST_MESSAGE_LIMIT - len(hello("oidc", speculativeAuthenticate={"payload": b""}))
    data = hello("oidc", speculativeAuthenticate={"payload": os.urandom(token)})
    assert len(data) == FIRST_MESSAGE_LIMIT
    with front.connect("mongo", data), taken(backends)[1] as upstream:
        assert receive(upstream, len(data)) == data


# -- no MongoDB client -------------------------------------------------------------------------------------------------


def lies() -> dict[str, bytes]:
    """Hellos that don't tell the truth about a length, or break off."""
    data = hello("liar")
    document = 21

    def with_int(at: int, value: int) -> bytes:
        return data[:at] + struct.pack("<i", value) + data[at + 4 :]

    text = data.index(b"liar") - 4
    return {
        "document of 0": with_int(document, 0),
        "document of 4": with_int(document, 4),
        "document longer than the message": with_int(document, len(data)),
        "document of -1": with_int(document, -1),
        "document of 2 GiB": with_int(document, 2**31 - 1),
        "text of 0": with_int(text, 0),
        "text of -1": with_int(text, -1),
        "text of 2 GiB": with_int(text, 2**31 - 1),
        "unknown element": data[: document + 4] + b"\x42" + data[document + 5 :],
        "no end": data[:-1] + b"\x01",
        "two bodies": message(OP_MSG, data[16:] + data[20:]),
        "no body": message(OP_MSG, bytes(4)),
        "unknown required flag": data[:16] + struct.pack("<I", 4) + data[20:],
        "10,000 nested documents": message(OP_MSG, bytes(5) + nested(5000)),
    }


def nested(depth: int) -> bytes:
    """A document whose innermost part breaks off, `depth` levels down in the client's name."""
    inner = struct.pack("<i", 2**30)
    for _ in range(depth):
        inner = struct.pack("<i", len(inner) + 8) + b"\x03a\0" + inner + b"\0"
    return bson.encode({"hello": 1, "client": {"application": {}}})[:-1] + b"\x03x\0" + inner


GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: puerta\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "Redis inline": b"PING\r\n",
    "PROXY 1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + hello(),
    "PROXY 2": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" + hello(),
    "TLS record that is no ClientHello": b"\x16\x03\x01\x00\x05\x02\0\0\x01\0",
    "TLS alert": b"\x15\x03\x01\x00\x02\x01\0",
    **{f"length {size}": HEADER.pack(size, 1, 0, OP_MSG) for size in (0, 15, -1, -(2**31), 2**31 - 1, 48_000_001)},
    "length of 48 MB": HEADER.pack(48_000_000, 1, 0, OP_MSG),
    "length just too large": HEADER.pack(FIRST_MESSAGE_LIMIT + 1, 1, 0, OP_MSG),
    "a reply": HEADER.pack(36, 1, 0, 1) + bytes(20),
    **lies(),
}


def test_what_is_no_hello_is_refused_at_once(front: Front, backends: list[Backend]) -> None:
    before, memory, count = served(backends), front.memory(), front.route("mongo")["closed"]["protocol_error"]
    names = {}
    for kind, data in GARBAGE.items():
        began = time.monotonic()
        with front.connect("mongo", data) as client:
            names[kind] = named(client)
            ended(client)
        assert time.monotonic() - began < HASTE, kind
    for kind, name in names.items():
        line = front.access(name)
        assert (line["close_reason"], line["backend"], line["key"]) == ("protocol_error", None, None), kind
    front.counted("mongo", protocol_error=count + len(GARBAGE))
    assert served(backends) == before
    assert front.memory() - memory < MIB


# -- clients that don't say enough -------------------------------------------------------------------------------------


def test_silent_clients_are_closed_in_time_and_are_in_nobodys_way(front: Front, brisk: Backend) -> None:
    began, before = time.monotonic(), brisk.served
    silent = [front.connect("brisk") for _ in range(400)]
    with front.connect("brisk", hello("busy")) as client, brisk.take() as upstream:
        assert receive(upstream, 16) == hello("busy")[:16]
        upstream.sendall(b"!")
        assert receive(client, 1) == b"!"
        for sock in silent:
            assert ended(sock) == "end"
            sock.close()
        assert 0.9 < time.monotonic() - began < HASTE + 1.0
        client.sendall(b"still here")
        assert receive(upstream, len(hello("busy")) - 16 + 10).endswith(b"still here")
    front.counted("brisk", handshake_timeout=400)
    assert brisk.served == before + 1


def test_a_client_that_drips_has_the_same_deadline(front: Front, brisk: Backend) -> None:
    before, count = brisk.served, front.route("brisk")["closed"]["handshake_timeout"]
    with front.connect("brisk") as client:
        name, began = named(client), time.monotonic()
        client.settimeout(0.05)
        for byte in hello("slow" * 20):
            client.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                assert client.recv(1) == b""
                break
        assert 0.9 < time.monotonic() - began < HASTE
    assert front.access(name)["close_reason"] == "handshake_timeout"
    front.counted("brisk", handshake_timeout=count + 1)
    assert brisk.served == before


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_a_client_that_leaves_before_it_is_known(front: Front, backends: list[Backend], pause: float) -> None:
    before = served(backends)
    for leave, reason in ((socket.socket.close, "client_closed"), (reset, "client_reset")):
        client = front.connect("mongo", hello()[:50])
        name, began = named(client), time.monotonic()
        time.sleep(pause)
        leave(client)
        assert front.access(name)["close_reason"] == reason
        assert time.monotonic() - began < HASTE
    assert served(backends) == before


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_no_name_and_no_password_reaches_the_log(front: Front, backends: list[Backend]) -> None:
    authentication = {"saslStart": 1, "mechanism": "PLAIN", "payload": b"\0bob\0topsecret-payload"}
    for data in (
        hello("topsecret-name", speculativeAuthenticate=authentication, saslSupportedMechs="admin.topsecret-user"),
        hello("topsecret-name\n\x1b[31m" + "é" * 20),
    ):
        with front.connect("mongo", data) as client, taken(backends)[1] as upstream:
            receive(upstream, len(data))
            upstream.sendall(b"topsecret-reply")
            receive(client, 15)
            name = named(client)
        front.access(name)
    broken = hello("topsecret-broken", payload=b"topsecret-bytes")
    with front.connect("mongo", broken[:-1] + b"\x01") as client:
        ended(client)
        name = named(client)
    front.access(name)
    assert "topsecret" not in front.text()
    assert "\x1b" not in front.text()
