"""The calls under the loop: connect, accept, send, close; and the buffer that bytes wait in."""

import errno
import os
import select
import socket
import time
from pathlib import Path

import pytest

from puerta.reactor import native
from tests.reactor.sockets import adopt, pair

pytestmark = pytest.mark.dataplane


# -- the buffer --------------------------------------------------------------------------------------------------------


def test_a_buffer_gives_back_what_was_appended() -> None:
    buffer = native.Buffer()
    assert (buffer.size(), buffer.take()) == (0, b"")
    for piece in (b"one", b"", b"two" * 1000, b"three"):
        buffer.append(piece)
    assert buffer.size() == 3008
    assert buffer.take() == b"one" + b"two" * 1000 + b"three"
    assert buffer.size() == 0


def test_a_buffer_fills_from_a_socket_and_drains_into_one() -> None:
    mine, fd = pair()
    buffer = native.Buffer()
    assert buffer.fill(fd, 100) == -errno.EAGAIN
    mine.sendall(b"0123456789")
    assert buffer.fill(fd, 4) == 4
    assert buffer.fill(fd, 100) == 6
    assert buffer.drain(fd) == 10
    assert mine.recv(100) == b"0123456789"
    mine.shutdown(socket.SHUT_WR)
    assert buffer.fill(fd, 100) == 0
    native.close_fd(fd)
    assert mine.recv(1) == b""
    mine.close()


def test_a_buffer_keeps_what_a_full_socket_did_not_take() -> None:
    mine, fd = pair()
    buffer, data = native.Buffer(), os.urandom(32 << 20)
    buffer.append(data)
    sent = buffer.drain(fd)
    assert 0 < sent < len(data)
    assert buffer.size() == len(data) - sent
    assert buffer.drain(fd) == -errno.EAGAIN
    received = bytearray()
    while buffer.size():
        received += mine.recv(1 << 20)
        buffer.drain(fd)
    mine.settimeout(0.5)
    while len(received) < len(data):
        received += mine.recv(1 << 20)
    assert received == data
    native.close_fd(fd)
    mine.close()


def test_a_buffer_splits_off_what_it_holds() -> None:
    buffer = native.Buffer()
    buffer.append(b"x" * 100_000)
    other = buffer.split()
    assert (buffer.size(), other.size()) == (0, 100_000)
    buffer.append(b"new")
    assert (buffer.take(), other.take()) == (b"new", b"x" * 100_000)


def test_a_buffer_moves_up_instead_of_growing() -> None:
    """As many bytes as one likes pass through a buffer that holds few of them."""
    mine, fd = pair("unix")
    buffer = native.Buffer()
    buffer.append(b"?" * 7)
    for number in range(2000):
        buffer.append(bytes([number & 255]) * 1000)
        while buffer.size() > 7:
            buffer.drain(fd)
            mine.recv(1 << 20)
        buffer.append(b"?" * 7)
    native.close_fd(fd)
    mine.close()


def test_errors_of_a_broken_socket_are_errnos() -> None:
    mine, fd = pair()
    native.send_bytes(fd, b"unread")
    mine.close()
    buffer = native.Buffer()
    buffer.append(b"x")
    select.select([fd], [], [], 1)
    assert buffer.fill(fd, 10) == -errno.ECONNRESET
    assert buffer.drain(fd) == -errno.EPIPE
    assert native.send_bytes(fd, b"x") == -errno.EPIPE
    native.close_fd(fd)


def option(fd: int, level: int, name: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as seen:
        return seen.getsockopt(level, name)


# -- connecting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connect_and_accept(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.setblocking(False)
        native.tune_listener(listener.fileno())
        assert native.accept(listener.fileno()) is None
        fd = native.Endpoint(host, listener.getsockname()[1]).connect()
        assert fd >= 0
        select.select([listener], [fd], [], 5)
        assert native.connect_error(fd) == 0
        accepted = native.accept(listener.fileno())
        assert isinstance(accepted, tuple)
        theirs, peer, port = accepted
        assert (peer, port) == native.local_address(fd)
        assert native.local_address(theirs) == listener.getsockname()[:2]
        for each in (fd, theirs):
            assert not os.get_blocking(each)
            assert not os.get_inheritable(each)
        assert option(fd, socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not option(fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        native.keep_alive(fd, 0)
        for each in (fd, theirs):
            assert option(each, socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert option(each, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert 0 < option(each, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 120
            assert option(each, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        native.keep_alive(fd)
        assert option(fd, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30000
        native.close_fd(fd)
        native.close_fd(theirs)
        if not native.COMPILED:
            native._handles.pop(listener.fileno()).detach()


def test_connect_and_accept_by_a_path(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    endpoint = native.Endpoint("", 0, path)
    assert endpoint.connect() == -errno.ENOENT
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert endpoint.connect() == -errno.ECONNREFUSED
        listener.listen()
        listener.setblocking(False)
        native.tune_listener(listener.fileno())
        fd = endpoint.connect()
        accepted = native.accept(listener.fileno())
        assert isinstance(accepted, tuple)
        assert accepted[1:] == ("unix", 0)
        assert native.local_address(accepted[0]) == ("unix", 0)
        native.close_fd(fd)
        native.close_fd(accepted[0])
        if not native.COMPILED:
            native._handles.pop(listener.fileno()).detach()


def test_a_refused_connect_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        fd = native.Endpoint("127.0.0.1", unused.getsockname()[1]).connect()
        if fd >= 0:
            select.select([], [fd], [], 5)
            assert native.connect_error(fd) == errno.ECONNREFUSED
            native.close_fd(fd)
        else:
            assert fd == -errno.ECONNREFUSED


@pytest.mark.parametrize("host", ["localhost", "", "256.0.0.1", "1.2.3", "::g", "127.0.0.1 "])
def test_an_endpoint_is_an_address(host: str) -> None:
    with pytest.raises(ValueError):
        native.Endpoint(host, 1)


def test_a_path_has_a_length() -> None:
    native.Endpoint("", 0, "/" + "x" * 106)
    with pytest.raises(ValueError):
        native.Endpoint("", 0, "/" + "x" * 107)
    with pytest.raises(ValueError):
        native.Endpoint("", 0, "/" + "ä" * 60)


# -- closing -----------------------------------------------------------------------------------------------------------


def test_an_aborted_connection_is_reset() -> None:
    mine, fd = pair()
    native.abort_fd(fd)
    with pytest.raises(ConnectionResetError):
        mine.recv(1)
    mine.close()


def test_a_shut_down_connection_still_reads() -> None:
    mine, fd = pair()
    assert native.shutdown_write(fd) == 0
    assert mine.recv(1) == b""
    mine.sendall(b"x")
    buffer = native.Buffer()
    select.select([fd], [], [], 1)
    assert buffer.fill(fd, 10) == 1
    native.close_fd(fd)
    mine.close()


def test_the_clock_does_not_go_back() -> None:
    times = [native.now() for _ in range(1000)]
    assert times == sorted(times)
    assert abs(native.now() - time.monotonic()) < 1.0


def test_accepting_on_what_is_no_listener_is_an_error() -> None:
    fd = adopt(socket.socket())
    assert native.accept(fd) == -errno.EINVAL
    native.close_fd(fd)
