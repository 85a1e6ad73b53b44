import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puerta.config.schema import Address
from puerta.health.checks import TcpCheck
from puerta.health.dial import PROXY_LOCAL
from puerta.health.mongodb import MAX_REPLY, BareHelloCheck, MongodbCheck
from puerta.resolve import lowest


def nothing() -> None:
    """For checks whose news nobody waits for."""


def check_of(address: Address, timeout: float = 1.0, expect: str = "any", lost: Callable[[], None] = nothing) -> Any:
    return MongodbCheck(address, timeout, expect, lost)


def local(server: Any) -> Address:
    return Address(*server.address)


def test_a_server_that_lives_dies_and_returns(mongo: Any) -> None:
    check = check_of(local(mongo))
    first = check.check()
    assert (first.ok, first.drain, first.error, first.warnings) == (True, False, "", ())
    assert 0 < first.latency < 1
    client = check.client
    assert check.check().ok
    assert check.client is client  # made once and kept
    mongo.kill()
    for _ in range(3):
        started = time.monotonic()
        result = check.check()
        assert (result.ok, result.drain) == (False, False)
        assert result.error.lower() in ("connection refused", "connection closed", "connection reset by peer")
        assert time.monotonic() - started < 0.5
    mongo.start()
    assert check.check().ok  # at once: no back-off is left from the bad days
    check.close()


def test_death_is_noticed_between_checks(mongo: Any) -> None:
    lost = threading.Event()
    check = check_of(local(mongo), lost=lost.set)
    assert check.check().ok
    assert not lost.wait(0.3)
    mongo.kill()
    assert lost.wait(5)
    check.close()


def test_closing_is_no_news(mongo: Any) -> None:
    lost = threading.Event()
    check = check_of(local(mongo), lost=lost.set)
    assert check.check().ok
    check.close()
    assert not lost.wait(0.7)


def test_frozen_server_fails_by_timeout_and_thaws(mongo: Any) -> None:
    check = check_of(local(mongo), timeout=0.3)
    assert check.check().ok
    mongo.freeze()
    for _ in range(3):
        started = time.monotonic()
        result = check.check()
        assert (result.ok, result.error) == (False, "timed out")
        assert time.monotonic() - started < 2
    mongo.thaw()
    assert check.check().ok
    check.close()


def test_mongos_is_demanded(mongo: Any, scripted: Any) -> None:
    check = check_of(local(mongo), expect="mongos")
    result = check.check()
    assert not result.ok
    assert "not a mongos" in result.error
    check.close()
    check = check_of(scripted().address, expect="mongos")
    assert check.check().ok
    check.close()


def test_quiesce_is_a_drain_seen_by_old_and_new_clients(scripted: Any) -> None:
    peer = scripted()
    served = dict(peer.reply)
    check = check_of(peer.address, expect="mongos")
    assert check.check().ok
    peer.reply = {"ok": 0.0, "code": 91, "codeName": "ShutdownInProgress", "errmsg": "quiesce mode"}
    for _ in range(2):  # the kept client meets it in its command, the next one in its first handshake
        started = time.monotonic()
        result = check.check()
        assert (result.ok, result.drain, result.error) == (False, True, "shutting down (code 91)")
        assert time.monotonic() - started < 0.5
    peer.reply = served
    assert check.check().ok
    check.close()


def test_other_refusals_are_failures(scripted: Any) -> None:
    peer = scripted()
    peer.reply = {"ok": 0.0, "code": 13, "errmsg": "not for you"}
    check = check_of(peer.address)
    result = check.check()
    assert (result.ok, result.drain) == (False, False)
    assert "code 13" in result.error
    check.close()


@pytest.mark.parametrize("extra", [{"setName": "rs0"}, {"hosts": ["10.0.0.1:27017"]}])
def test_a_replica_set_member_earns_a_warning(scripted: Any, extra: dict[str, Any]) -> None:
    peer = scripted()
    peer.reply |= {"setName": "rs0", "hosts": ["10.0.0.1:27017"], **extra}
    check = check_of(peer.address)
    result = check.check()
    assert result.ok
    assert "bypass" in result.warnings[0]
    check.close()


def test_silence_and_noise(scripted: Any) -> None:
    peer = scripted()
    peer.reply = None
    check = check_of(peer.address, timeout=0.2)
    assert check.check().error == "timed out"
    check.close()


def test_unix_sockets(scripted: Any, tmp_path: Path) -> None:
    kept = check_of(scripted(str(tmp_path / "mongos.sock")).address, expect="mongos")
    assert kept.check().ok
    kept.close()
    gone = check_of(Address("", 0, str(tmp_path / "gone.sock")))
    assert gone.check().error == "no such file or directory"
    assert TcpCheck(scripted(str(tmp_path / "any")).address, 1.0, None).check().ok


def test_no_thread_stays_behind(mongo: Any) -> None:
    before = threading.active_count()
    for _ in range(5):
        check = check_of(local(mongo))
        assert check.check().ok
        check.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


@pytest.mark.parametrize("send", ["v1", "v2"])
def test_a_header_goes_before_hello_where_backends_demand_it(scripted: Any, send: str) -> None:
    peer = scripted()
    peer.swallow = len(PROXY_LOCAL[send])
    check = BareHelloCheck(peer.address, 1.0, "mongos", send)
    result = check.check()
    assert result.ok
    assert result.latency > 0
    assert peer.first == [PROXY_LOCAL[send]]
    peer.reply = {"ok": 0.0, "code": 354, "errmsg": "load balancer"}
    assert check.check().ok
    peer.reply = {"ok": 0.0, "code": 91}
    assert check.check().drain
    peer.reply = None
    assert BareHelloCheck(peer.address, 0.2, "mongos", send).check().error == "timed out"


def test_bare_hello_with_a_real_server(mongo: Any) -> None:
    assert BareHelloCheck(local(mongo), 1.0, "any", None).check().ok
    assert not BareHelloCheck(local(mongo), 1.0, "mongos", None).check().ok


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xff\xff\x7f" + b"\1\0\0\0" * 2 + b"\xdd\7\0\0" + b"\0" * 64,
        (MAX_REPLY + 1).to_bytes(4, "little") + b"\1\0\0\0" * 2 + b"\xdd\7\0\0",
        b"\x20\0\0\0" + b"\1\0\0\0" * 2 + b"\xdd\7\0\0" + b"\0" * 5 + b"\xff" * 11,
        b"\x1a\0\0\0" + b"\1\0\0\0" * 2 + b"\xdd\7\0\0" + b"\0" * 5 + b"\5\0\0\0\0",
        b"",
    ],
)
def test_garbage_is_a_failed_check(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        result = BareHelloCheck(Address(*listener.getsockname()), 1.0, "any", None).check()
        assert not result.ok
        assert result.error


def test_tcp(scripted: Any) -> None:
    peer = scripted()
    address = peer.address
    result = TcpCheck(address, 1.0, None).check()
    assert result.ok
    assert result.latency > 0
    peer.swallow = len(PROXY_LOCAL["v2"])
    assert TcpCheck(address, 1.0, "v2").check().ok
    deadline = time.monotonic() + 5
    while PROXY_LOCAL["v2"] not in peer.first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert PROXY_LOCAL["v2"] in peer.first
    peer.close()
    assert TcpCheck(address, 1.0, None).check().error == "connection refused"


def test_of_a_name_s_addresses_the_one_is_checked_that_workers_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a backend would be up whose only other address answers, and every client's connect would fail."""
    plain = socket.getaddrinfo
    names = {"two.example": ["127.0.0.9", "127.0.0.10", "::1"], "six.example": ["fe80::2%1", "fe80::1%1"]}

    def resolve(host: str, port: int | None, *arguments: Any, **options: Any) -> Any:
        if host not in names:
            return plain(host, port, *arguments, **options)
        return [(0, 0, 0, "", (address, port)) for address in reversed(names[host])]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert [lowest(host) for host in ("two.example", "six.example", "::1")] == ["127.0.0.9", "fe80::1", "::1"]
    with socket.create_server(("127.0.0.10", 0)) as server:
        port = server.getsockname()[1]
        assert TcpCheck(Address("127.0.0.10", port), 1.0, None).check().ok
        assert TcpCheck(Address("two.example", port), 1.0, None).check().error == "connection refused"
        assert check_of(Address("two.example", port)).check().error == "connection refused"
