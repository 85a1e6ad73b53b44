"""PROXY protocol, both ways: who a client is, told by a proxy in front of us, and by us to a backend."""

import ipaddress
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from puerta.protocol.identity import affinity_key
from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import Backend, ended, free_port, hello, receive, receive_all

pytestmark = pytest.mark.dataplane

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TRUSTED = "127.0.0.2"
UNIQUE_ID, AUTHORITY = 0x05, 0x02


def v1(source: str, port: int, server: str = "192.0.2.80", server_port: int = 27017) -> bytes:
    kind = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {kind} {source} {server} {port} {server_port}\r\n".encode()


def v2(source: str, port: int, server: str = "192.0.2.80", server_port: int = 27017, tlvs: bytes = b"") -> bytes:
    ends = [ipaddress.ip_address(each).packed for each in (source, server)]
    block = b"".join(ends) + struct.pack("!HH", port, server_port) + tlvs
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x21 if ":" in source else 0x11, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


LOCAL = SIGNATURE + b"\x20\0\0\0"
UNKNOWN = b"PROXY UNKNOWN\r\n"


@pytest.fixture(scope="module")
def held(backend: Make) -> Backend:
    return backend()


@pytest.fixture(scope="module")
def three(backend: Make) -> list[Backend]:
    return [backend() for _ in range(3)]


@pytest.fixture(scope="module")
def front(held: Backend, three: list[Backend], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    accept = {"accept": ["127.0.0.2/32", "::1"]}
    limits = {"handshake_timeout": "1s"}
    routes = [
        route("in", held, proxy_protocol=accept, limits=limits),
        route("mongo-in", held, mode="mongodb", proxy_protocol=accept, limits=limits),
        route("three", *three, mode="mongodb", proxy_protocol={"send": "v2"}),
        route("in-six", held, proxy_protocol=accept, listen=f"[::1]:{free_port('::1')}"),
    ]
    for send in ("v1", "v2"):
        routes += [
            route(f"out-{send}", held, proxy_protocol={"send": send}),
            route(f"mongo-out-{send}", held, mode="mongodb", proxy_protocol={"send": send}),
            route(f"through-{send}", held, proxy_protocol={**accept, "send": send}),
        ]
    with Front(tmp_path_factory.mktemp("headers"), *routes) as running:
        yield running


def key(address: str, application: bytes | None = None) -> str:
    made = affinity_key(
        "hybrid", address=address, application=application, server_name=None, proxy_identity=None, session_pattern=None
    )
    assert made is not None
    return made.hex()


# -- in ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (v1("198.51.100.7", 4711), "198.51.100.7:4711"),
        (v1("2001:db8::7", 4711, "2001:db8::1"), "[2001:db8::7]:4711"),
        (v2("198.51.100.7", 4711), "198.51.100.7:4711"),
        (v2("2001:db8::7", 4711, "2001:db8::1"), "[2001:db8::7]:4711"),
        (v2("198.51.100.7", 4711, tlvs=tlv(AUTHORITY, b"x" * 500) + tlv(UNIQUE_ID, b"\0id")), "198.51.100.7:4711"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 1000])
def test_a_trusted_header_says_who_the_client_is(
    front: Front, held: Backend, header: bytes, client: str, pieces: int
) -> None:
    data = header + b"payload"
    size = -(-len(data) // pieces)
    with front.connect("in", source=TRUSTED) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        front.marks[client] = front.marks[named(sock)]
        for start in range(0, len(data), size):
            sock.sendall(data[start : start + size])
            time.sleep(0.0005)
        with held.take() as upstream:
            assert receive(upstream, 7) == b"payload"
            upstream.sendall(b"answer")
            assert receive(sock, 6) == b"answer"
    line = front.access(client)
    assert line["key"] == key(client.rpartition(":")[0].strip("[]"))


def test_a_header_and_a_hello_in_one_segment(front: Front, held: Backend) -> None:
    data = hello("behind")
    client = "203.0.113.9:99"
    front.marks[client] = front.log.stat().st_size
    with front.connect("mongo-in", v1("203.0.113.9", 99) + data + b"more", TRUSTED), held.take() as upstream:
        assert receive(upstream, len(data) + 4) == data + b"more"
    assert front.access(client)["key"] == key("203.0.113.9", b"behind")


def test_an_end_right_behind_the_header_is_passed_on(front: Front, held: Backend) -> None:
    with front.connect("in", v2("198.51.100.7", 4711) + b"payload", TRUSTED) as client:
        client.shutdown(socket.SHUT_WR)
        with held.take() as upstream:
            assert receive_all(upstream) == b"payload"


def test_the_unique_id_names_a_connection_and_no_client(front: Front, held: Backend) -> None:
    keys = set()
    for number in range(4):
        client = f"203.0.113.10:{1000 + number}"
        front.marks[client] = front.log.stat().st_size
        header = v2("203.0.113.10", 1000 + number, tlvs=tlv(UNIQUE_ID, f"connection {number}".encode()))
        with front.connect("in", header + b"x", TRUSTED), held.take() as upstream:
            receive(upstream, 1)
        keys.add(front.access(client)["key"])
    assert keys == {key("203.0.113.10")}


@pytest.mark.parametrize("header", [UNKNOWN, b"PROXY UNKNOWN what ever 1 2\r\n", LOCAL, LOCAL[:-2] + b"\0\3abc"])
def test_a_header_without_a_client_leaves_the_real_address(front: Front, held: Backend, header: bytes) -> None:
    with front.connect("in", header + b"payload", TRUSTED) as sock:
        name = named(sock)
        with held.take() as upstream:
            assert receive(upstream, 7) == b"payload"
    assert front.access(name)["key"] == key(TRUSTED)


BAD = {
    "none": b"payload",
    "a hello": hello(),
    "v1 too long": b"PROXY TCP4 " + b"1" * 200,
    "v1 without CR": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
    "v1 with a name": b"PROXY TCP4 localhost 192.0.2.2 1 2\r\n",
    "v1 with a bad port": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    "v1 of another family": b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    "v2 of version 3": SIGNATURE + b"\x31\x11\0\x0c" + bytes(12),
    "v2 of 64 KiB": SIGNATURE + b"\x21\x11\xff\xff" + bytes(100),
    "v2 too short": SIGNATURE + b"\x21\x11\0\x04" + bytes(4),
    "v2 with a TLV that is too long": v2("192.0.2.1", 1, tlvs=b"\x05\xff\xff"),
    "almost a signature": SIGNATURE[:-1] + b"X",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_trusted_sender_must_send_a_header(front: Front, held: Backend, kind: str) -> None:
    before, began = held.served, time.monotonic()
    with front.connect("in", BAD[kind], TRUSTED) as sock:
        name = named(sock)
        ended(sock)
        assert time.monotonic() - began < 0.9
    assert front.access(name)["close_reason"] == "protocol_error"
    assert held.served == before


def test_a_trusted_sender_that_stays_silent_is_closed(front: Front, held: Backend) -> None:
    before = held.served
    clients = [front.connect("in", data, TRUSTED) for data in (b"", b"PROXY TCP4 192.0.2.1", SIGNATURE)]
    for client in clients:
        name = named(client)
        assert ended(client) == "end"
        client.close()
        assert front.access(name)["close_reason"] == "handshake_timeout"
    assert held.served == before


def test_a_header_from_somebody_else_is_not_believed(front: Front, held: Backend) -> None:
    header = v1("198.51.100.7", 4711)
    with front.connect("in", header + b"payload", "127.0.0.3") as sock:
        name = named(sock)
        with held.take() as upstream:
            assert receive(upstream, len(header) + 7) == header + b"payload"
    assert front.access(name)["key"] == key("127.0.0.3")
    with front.connect("mongo-in", header + hello(), "127.0.0.3") as sock:
        name = named(sock)
        ended(sock)
    assert front.access(name)["close_reason"] == "protocol_error"


def test_trust_by_an_ipv6_network(front: Front, held: Backend) -> None:
    client = "[2001:db8::9]:5"
    front.marks[client] = front.log.stat().st_size
    with front.connect("in-six", v1("2001:db8::9", 5, "2001:db8::1") + b"x"), held.take() as upstream:
        receive(upstream, 1)
    assert front.access(client)["key"] == key("2001:db8::9")


# -- out ---------------------------------------------------------------------------------------------------------------


def expected(send: str, client: socket.socket) -> bytes:
    (source, port), (server, server_port) = client.getsockname()[:2], client.getpeername()[:2]
    return (v1 if send == "v1" else v2)(source, port, server, server_port)


@pytest.mark.parametrize("send", ["v1", "v2"])
def test_the_backend_is_told_first_and_before_the_client_says_anything(front: Front, held: Backend, send: str) -> None:
    with front.connect(f"out-{send}", source="127.0.0.5") as client, held.take() as upstream:
        header = expected(send, client)
        assert receive(upstream, len(header)) == header
        upstream.settimeout(0.1)
        with pytest.raises(TimeoutError):
            upstream.recv(1)
        client.sendall(b"payload")
        upstream.settimeout(5)
        assert receive(upstream, 7) == b"payload"


@pytest.mark.parametrize("send", ["v1", "v2"])
def test_a_hello_follows_the_header_and_both_arrive_once(front: Front, held: Backend, send: str) -> None:
    data = hello("told") + bytes(200_000)
    with front.connect(f"mongo-out-{send}", data) as client, held.take() as upstream:
        header = expected(send, client)
        assert receive(upstream, len(header) + len(data)) == header + data


@pytest.mark.parametrize("send", ["v1", "v2"])
@pytest.mark.parametrize("source", ["198.51.100.7", "2001:db8::7"])
def test_what_we_were_told_is_passed_on(front: Front, held: Backend, send: str, source: str) -> None:
    server = "2001:db8::1" if ":" in source else "192.0.2.80"
    incoming = v2(source, 4711, server, tlvs=tlv(UNIQUE_ID, b"id"))
    with front.connect(f"through-{send}", incoming + b"payload", TRUSTED), held.take() as upstream:
        header = (v1 if send == "v1" else v2)(source, 4711, server)
        assert receive(upstream, len(header) + 7) == header + b"payload"


@pytest.mark.parametrize("send", ["v1", "v2"])
@pytest.mark.parametrize("incoming", [UNKNOWN, LOCAL])
def test_without_a_client_in_the_header_the_backend_is_told_of_the_real_connection(
    front: Front, held: Backend, send: str, incoming: bytes
) -> None:
    with front.connect(f"through-{send}", incoming + b"payload", TRUSTED) as client, held.take() as upstream:
        header = expected(send, client)
        assert receive(upstream, len(header) + 7) == header + b"payload"


# -- clients behind a load balancer ------------------------------------------------------------------------------------


def test_load_balanced_clients_are_spread_and_announced(front: Front, three: list[Backend]) -> None:
    """`loadBalanced: true` keeps its own cursors on one connection: no affinity, the fewest connections, a PROXY header."""
    clients, taken, names = [], [], []
    data = hello("same name", loadBalanced=True)
    for _ in range(30):
        client = front.connect("three", data)
        clients.append(client)
        names.append(named(client))
        wait_for(lambda: any(each.waiting.qsize() for each in three), "a backend got it")
        upstream = next(each.take() for each in three if not each.waiting.empty())
        assert receive(upstream, len(expected("v2", client)) + len(data)) == expected("v2", client) + data
        taken.append(upstream)
    assert [each.served for each in three] == [10, 10, 10]
    for sock in (*clients, *taken):
        sock.close()
    lines = [front.access(name) for name in names]
    assert {(line["key"], line["found"]) for line in lines} == {(None, "none")}
