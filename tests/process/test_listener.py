"""The listening sockets, in one process."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from puerta.config.schema import Address
from puerta.errors import BootError
from puerta.log import logger
from puerta.process.listener import MOST_SEATS, SHARED, SPARE, Listeners, resolve
from tests.harness import free_port, is_listening


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.close()


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def test_one_socket_a_seat_and_some_to_spare(listeners: Listeners) -> None:
    address = Address("127.0.0.1", free_port())
    listeners.open([address], 2)
    listeners.go_live(2)
    assert listeners.bound == len(listeners.sockets) == 2 + SPARE
    assert [listens(listeners.sockets[str(address), seat]) for seat in range(3)] == [True, True, False]
    listeners.open([address], MOST_SEATS)
    assert listeners.bound == MOST_SEATS
    sock = listeners.sockets[str(address), 0]
    assert not sock.getblocking() and sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def test_a_spare_socket_that_a_child_inherited_serves_once_it_listens(listeners: Listeners) -> None:
    address = Address("127.0.0.1", free_port())
    listeners.open([address], 1)
    go, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        spare = listeners.sockets[str(address), 1]
        spare.setblocking(True)
        spare.accept()
        os._exit(7)
    listeners.live = 1  # seat 0 never listens here, so that every connection is for the spare one
    listeners.go_live(2)
    with socket.create_connection(("127.0.0.1", address.port), 5):
        os.write(tell, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    os.close(go)
    os.close(tell)


def test_all_or_nothing(listeners: Listeners) -> None:
    good, taken = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    with (
        socket.create_server(("127.0.0.1", taken.port)),
        pytest.raises(BootError, match=f"can't listen on {taken}: address already in use"),
    ):
        listeners.open([good, taken], 2)
    assert not listeners.sockets and listeners.bound == 0
    listeners.open([good], 2)


def test_a_new_address_listens_for_the_seats_that_are_live(listeners: Listeners) -> None:
    first, second = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    listeners.open([first], 2)
    listeners.go_live(2)
    listeners.open([first, second], 2)
    assert [listens(listeners.sockets[str(second), seat]) for seat in range(3)] == [True, True, False]


def test_a_second_group_is_found_by_the_probe(listeners: Listeners) -> None:
    address = Address("127.0.0.1", free_port())
    listeners.open([address], 2)
    listeners.go_live(2)
    with pytest.raises(BootError, match="is another instance running"):
        Listeners().open([address], 2)


def test_two_names_of_one_address(listeners: Listeners) -> None:
    port = free_port()
    with pytest.raises(BootError, match="are the same address"):
        listeners.open([Address("127.0.0.1", port), Address("127.1", port)], 1)
    assert not listeners.sockets
    listeners.open([Address("127.1", port)], 1)


def test_both_families_on_one_port(listeners: Listeners) -> None:
    port = free_port("::")
    listeners.open([Address("::", port), Address("0.0.0.0", port)], 1)
    listeners.go_live(1)
    assert is_listening(port, "::1") and is_listening(port)


def test_unknown_host(listeners: Listeners) -> None:
    with pytest.raises(BootError, match=r"can't listen on nobody\.invalid:80"):
        listeners.open([Address("nobody.invalid", 80)], 1)


def test_a_host_name_is_logged(listeners: Listeners) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        port = free_port()
        listeners.open([Address("localhost", port)], 1)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert lines in ([f"localhost:{port} is 127.0.0.1"], [f"localhost:{port} is ::1"])


def test_prune_waits_for_the_last_child(listeners: Listeners) -> None:
    stays, goes = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    listeners.open([stays, goes], 1)
    listeners.go_live(1)
    held = {(str(goes), 0)}
    listeners.prune([stays], held)
    assert is_listening(goes.port)
    listeners.prune([stays], set())
    assert not is_listening(goes.port)
    assert {name for name, _ in listeners.sockets} == {str(stays)}


def test_unix_sockets(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    address = Address("", 0, str(path))
    listeners.open([address], 4)
    assert list(listeners.sockets) == [(f"unix:{path}", SHARED)]
    assert path.stat().st_mode & 0o777 == 0o660
    listeners.open([address], 4)
    with pytest.raises(BootError, match="is in use"):
        listeners.go_live(1)
        Listeners().open([address], 1)
    listeners.prune([], set())
    assert not path.exists()


def test_a_unix_socket_listens_from_the_start(listeners: Listeners, tmp_path: Path) -> None:
    address = Address("", 0, str(tmp_path / "a.sock"))
    listeners.open([address], 1)
    listeners.go_live(1)
    assert listens(listeners.sockets[str(address), SHARED])
    other = Address("", 0, str(tmp_path / "b.sock"))
    listeners.open([address, other], 1)
    assert listens(listeners.sockets[str(other), SHARED])


def test_stale_unix_socket_is_replaced_but_no_other_file(listeners: Listeners, tmp_path: Path) -> None:
    stale, file = tmp_path / "stale", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    file.write_text("precious")
    listeners.open([Address("", 0, str(stale))], 1)
    with pytest.raises(BootError, match="is no socket"):
        listeners.open([Address("", 0, str(file))], 1)
    assert file.read_text() == "precious"


def test_a_successors_unix_socket_is_not_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first = Listeners()
    first.open([Address("", 0, str(path))], 1)
    path.unlink()
    second = Listeners()
    second.open([Address("", 0, str(path))], 1)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_admin(listeners: Listeners, tmp_path: Path) -> None:
    port = free_port()
    listeners.open_admin(str(tmp_path / "puerta.sock"), Address("127.0.0.1", port))
    assert [(entry.route, entry.seat) for entry in listeners.admin] == [("admin", SHARED)] * 2
    assert (tmp_path / "puerta.sock").stat().st_mode & 0o777 == 0o600
    assert is_listening(port)
    with pytest.raises(BootError, match=f"can't listen on 127.0.0.1:{port}"):
        Listeners().open_admin(str(tmp_path / "other.sock"), Address("127.0.0.1", port))


def test_another_interface_of_a_port_that_is_ours(listeners: Listeners) -> None:
    """As when a reload makes 0.0.0.0 of 127.0.0.1: the one is served until the other is."""
    narrow = Address("127.0.0.1", free_port())
    wide = Address("0.0.0.0", narrow.port)
    listeners.open([narrow], 2)
    listeners.go_live(2)
    listeners.open([wide], 2)
    assert is_listening(narrow.port)
    listeners.prune([wide], set())
    with socket.create_connection(("127.0.0.2", wide.port), 5):
        pass
    other = Listeners()
    with pytest.raises(BootError, match="is another instance running"):
        other.open([narrow], 1)


def test_another_spelling_of_an_address_that_is_open(listeners: Listeners) -> None:
    port = free_port()
    listeners.open([Address("localhost", port)], 1)
    with pytest.raises(BootError, match=r"is open already as localhost:.*keep that spelling"):
        listeners.open([Address(resolve(Address("localhost", port))[1][0], port)], 1)
