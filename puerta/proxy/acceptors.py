"""A worker's listeners, and on which of them it accepts: those of its own seat, shared ones, those of seats that it adopts."""

import resource
from collections.abc import Iterable, Mapping
from typing import Any

from puerta.proxy.acceptor import Acceptor
from puerta.proxy.route import SessionFactory
from puerta.role import Role

RESERVED_DESCRIPTORS = 64
"""What a worker has open beside listeners and the sockets on its loop; more clients than the rest allows are closed at once."""

SHARED = -1
"""The seat of a listener that all workers accept on."""


class Acceptors:
    """All of a worker's acceptors. `open` are the modes whose routes are served; clients of others wait in their queues."""

    def __init__(self, loop: Any, role: Role, routes: Iterable[Any], sessions: Mapping[str, SessionFactory]) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS - len(role.listeners)
        by_name = {route.name: route for route in routes}
        self.loop, self.role, self.open = loop, role, set[str]()
        self.all = [
            Acceptor(
                loop,
                listener.socket.fileno(),
                by_name[listener.route],
                listener.seat,
                sessions[by_name[listener.route].config.mode],
                most,
            )
            for listener in role.listeners
            if listener.route in by_name
        ]

    def serve(self, *modes: str) -> None:
        """From now on routes of these modes, too."""
        self.open.update(modes)
        self.settle()

    def settle(self) -> None:
        """Begin and end accepting as the master's adoptions say."""
        for acceptor in self.all:
            if acceptor.route.config.mode in self.open and self.is_ours(acceptor.seat):
                if not acceptor.accepting and not acceptor.paused_until:
                    acceptor.start()
            elif acceptor.accepting:
                acceptor.stop()

    def is_ours(self, seat: int) -> bool:
        return seat in (SHARED, self.role.seat) or (
            self.role.board.adoptions.get(seat, "row_plus_one") == self.role.row + 1
        )

    def tick(self, now: float) -> None:
        self.settle()
        for acceptor in self.all:
            acceptor.tick(now)

    def close(self) -> None:
        """Accept no more, and let go of the sockets: the master keeps its own, unless nobody is to be served there any more.

        Not to be called within a turn of the loop: it is the reactor that closes the descriptors, once and now.
        """
        self.open.clear()
        for acceptor in self.all:
            acceptor.stop()
            acceptor.close()
        self.all.clear()
        for listener in self.role.listeners:
            listener.socket.detach()
        self.loop.bury()
