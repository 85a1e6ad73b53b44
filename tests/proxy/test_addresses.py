"""IPv6, mapped IPv4 addresses and Unix sockets, on either side."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from puerta.protocol.identity import affinity_key
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import Backend, SpeaksFirst, echo, ended, free_port, receive, receive_all, reset, say_all

pytestmark = pytest.mark.dataplane


@pytest.fixture(scope="module")
def held(backend: Make, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return backend(path=str(tmp_path_factory.mktemp("held") / "held.sock"))


@pytest.fixture(scope="module")
def frank(backend: Make) -> Backend:
    """Keeps the checks' connections too."""
    return backend(kind=SpeaksFirst)


@pytest.fixture(scope="module")
def front(backend: Make, held: Backend, frank: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    directory = tmp_path_factory.mktemp("addresses")
    unix = backend(echo, path=str(directory / "backend.sock"))
    routes = [
        route("six", backend(echo, host="::1"), listen=f"[::1]:{free_port('::1')}"),
        route("unix", unix, listen=f"unix:{directory}/front.sock"),
        route("unix-held", held, listen=f"unix:{directory}/held.sock"),
        route("unix-out", frank, listen=f"unix:{directory}/out.sock", proxy_protocol={"send": "v1"}),
        route("both", unix, listen=[f"127.0.0.1:{free_port()}", f"unix:{directory}/both.sock"]),
        route("trusting", unix, proxy_protocol={"accept": "127.0.0.1"}),
    ]
    with Front(directory / "server", *routes, workers=2) as running:
        yield running


def unix_client(front: Front, name: str) -> socket.socket:
    listen = front.routes[name]["listen"]
    path = (listen if isinstance(listen, str) else listen[-1]).removeprefix("unix:")
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(path)
    return client


def key(address: str) -> str:
    made = affinity_key(
        "hybrid", address=address, application=None, server_name=None, proxy_identity=None, session_pattern=None
    )
    assert made is not None
    return made.hex()


def test_ipv6_on_both_sides(front: Front) -> None:
    data = os.urandom(1 << 20)
    with front.connect("six") as client:
        name = named(client)
        threading.Thread(target=client.sendall, args=(data,)).start()
        assert receive(client, len(data)) == data
    line = front.access(name)
    assert (line["client"], line["key"], line["backend"]) == (
        name,
        key("::1"),
        front.routes["six"]["backends"][0]["address"],
    )
    assert name.startswith("[::1]:")


@pytest.mark.parametrize("name", ["unix", "both"])
def test_unix_sockets_on_both_sides(front: Front, name: str) -> None:
    data = os.urandom(4 << 20)
    front.marks["unix:0"] = front.log.stat().st_size
    with unix_client(front, name) as client:
        threading.Thread(target=say_all, args=(client, data)).start()
        assert receive_all(client) == data
    line = front.access("unix:0")
    assert (line["key"], line["bytes_in"], line["close_reason"]) == (key("unix"), len(data), "client_closed")


def test_a_route_on_two_addresses_serves_both(front: Front) -> None:
    host, _, port = front.routes["both"]["listen"][0].rpartition(":")
    with socket.create_connection((host, int(port)), 10) as client:
        client.sendall(b"by TCP")
        assert receive(client, 6) == b"by TCP"


def test_ends_and_aborts_pass_unix_sockets(front: Front, held: Backend) -> None:
    with unix_client(front, "unix-held") as client:
        client.sendall(b"x")
        with held.take() as upstream:
            upstream.sendall(b"bye")
            upstream.shutdown(socket.SHUT_WR)
            assert receive_all(client) == b"bye"
            client.sendall(b"y")
            assert receive(upstream, 2) == b"xy"
            client.close()
            assert ended(upstream) == "end"
    with unix_client(front, "unix-held") as client:
        client.sendall(b"x" * 100)
        reset(held.take())  # with bytes unread
        ended(client)


def test_a_unix_client_has_no_address_to_tell(front: Front, frank: Backend) -> None:
    with unix_client(front, "unix-out") as client:
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
        told = [receive_all(frank.take()) for _ in range(2)]
    assert told == [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN\r\nx"], "a check's, and the client's"


def test_a_mapped_address_is_the_address(front: Front) -> None:
    keys = set()
    for number, (kind, source, server) in enumerate(
        [("TCP4", "10.1.2.3", "10.0.0.1"), ("TCP6", "::ffff:10.1.2.3", "::1"), ("TCP6", "::FFFF:0a01:0203", "::1")]
    ):
        header = f"PROXY {kind} {source} {server} {7000 + number} 1\r\n".encode()
        mark = front.log.stat().st_size
        with front.connect("trusting", header + b"x") as client:
            assert receive(client, 1) == b"x"
        names = [f"10.1.2.3:{7000 + number}", f"[::ffff:10.1.2.3]:{7000 + number}", f"[::ffff:a01:203]:{7000 + number}"]
        front.marks |= dict.fromkeys(names, mark)
        front.quiet("trusting")
        front.wait_log(f':{7000 + number}"')
        keys |= {line["key"] for line in front.lines(mark) if line.get("client") in names}
    assert keys == {key("10.1.2.3")}
