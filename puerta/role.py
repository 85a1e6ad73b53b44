"""What the master hands to a child when it forks it: everything a role needs to know, and nothing it may change."""

import socket
from dataclasses import dataclass, field

from puerta.board import Board
from puerta.config.schema import Config

WORKER, SUPERVISOR, STORE = "worker", "supervisor", "store"


@dataclass(slots=True)
class Listener:
    """One bound, listening, non-blocking socket. Those with SO_REUSEPORT belong to one seat; `seat` -1 is shared by all."""

    route: str
    address: str
    seat: int
    socket: socket.socket


@dataclass(slots=True)
class Role:
    """One child's birth certificate. `row` is its row on the board, `generation` the config epoch it was born with."""

    name: str
    seat: int
    row: int
    generation: int
    config: Config
    config_path: str
    board: Board
    store_url: str
    lifeline: int
    """Read end of a pipe whose write end only the master holds: end of file means that the master is gone."""
    listeners: list[Listener] = field(default_factory=list)
    """Worker: every seat's listeners, so that it can adopt a dead seat's. Supervisor: the admin listeners (route "admin")."""


EXIT_NEVER_BOOTS = 3
"""Exit status by which a child says that trying again is pointless (a bad config, a missing program)."""
