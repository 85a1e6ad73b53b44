"""A worker's listeners: when it lets go of them, their numbers are others' from then on."""

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from puerta.board import Board
from puerta.proxy.acceptors import Acceptors
from puerta.reactor.native import Endpoint, close_fd
from puerta.role import Listener
from tests.reactor.sockets import Turned

pytestmark = pytest.mark.dataplane


def test_who_gets_the_number_of_a_listener_that_was_let_go_keeps_it() -> None:
    """A descriptor is closed once, by the reactor: later it is that of a client."""
    accepted: list[int] = []
    loop, board = Turned().loop, Board()
    route = SimpleNamespace(
        name="open", config=SimpleNamespace(mode="tcp"), full=lambda: False, count=lambda column: None
    )
    with socket.create_server(("127.0.0.1", 0)) as kept, socket.create_connection(kept.getsockname()):
        copy = kept.dup()
        copy.setblocking(False)
        number = copy.fileno()
        role: Any = SimpleNamespace(listeners=[Listener("open", "", 0, copy)], seat=0, row=0, board=board)
        sessions: Any = {"tcp": lambda route, fd, host, port: accepted.append(fd)}
        acceptors = Acceptors(loop, role, [route], sessions)
        acceptors.serve("tcp")
        loop.turn(5.0)
        assert len(accepted) == 1
        acceptors.close()
        acceptors.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        upstreams = [Endpoint("127.0.0.1", kept.getsockname()[1]).connect()]
        while upstreams[-1] < number:  # the lowest number that is free is given
            upstreams.append(Endpoint("127.0.0.1", kept.getsockname()[1]).connect())
        assert number in upstreams
        del acceptors, role, copy
        for fd in (*upstreams, *accepted):
            os.fstat(fd)
            close_fd(fd)
