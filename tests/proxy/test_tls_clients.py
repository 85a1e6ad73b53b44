"""TLS clients of a MongoDB route: passed through unread, told apart by address and server name.

The peers use anonymous Diffie-Hellman: a real handshake that needs no certificate.
"""

import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from puerta.protocol.identity import affinity_key
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import receive

pytestmark = pytest.mark.dataplane


def anonymous(purpose: int) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH:@SECLEVEL=0")
    return context


def shout(sock: socket.socket) -> None:
    """A TLS server that answers in capitals."""
    with anonymous(ssl.PROTOCOL_TLS_SERVER).wrap_socket(sock, server_side=True, suppress_ragged_eofs=True) as tls:
        while data := tls.recv(65536):
            tls.sendall(data.upper())


@pytest.fixture(scope="module")
def front(backend: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with Front(
        tmp_path_factory.mktemp("tls"), route("mongo", *(backend(shout) for _ in range(3)), mode="mongodb")
    ) as running:
        yield running


def talk(front: Front, server_name: str | None) -> dict[str, object]:
    """One TLS client; returns its line of the access log."""
    with front.connect("mongo") as sock:
        name = named(sock)
        with anonymous(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(sock, server_hostname=server_name) as tls:
            tls.sendall(b"hello" * 10_000)
            assert receive(tls, 50_000) == b"HELLO" * 10_000
    return front.access(name)


def key(server_name: bytes | None) -> str:
    made = affinity_key(
        "hybrid",
        address="127.0.0.1",
        application=None,
        server_name=server_name,
        proxy_identity=None,
        session_pattern=None,
    )
    assert made is not None
    return made.hex()


def test_a_tls_client_is_passed_through_and_known_by_its_server_name(front: Front) -> None:
    lines = [talk(front, name) for name in ("orders.example", "ORDERS.example", "billing.example", None)]
    assert [line["key"] for line in lines] == [key(b"orders.example")] * 2 + [key(b"billing.example"), key(None)]
    assert lines[0]["backend"] == lines[1]["backend"]
    assert {line["close_reason"] for line in lines} <= {
        "client_closed",
        "backend_closed",
        "client_reset",
        "backend_reset",
    }


def test_a_client_hello_in_pieces(front: Front) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = anonymous(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(incoming, outgoing, server_hostname="orders.example")
    with front.connect("mongo") as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = named(sock)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    sock.sendall(bytes([byte]))
                    time.sleep(0.0002)
                incoming.write(sock.recv(65536))
        sock.sendall(outgoing.read())
    assert front.access(name)["key"] == key(b"orders.example")
