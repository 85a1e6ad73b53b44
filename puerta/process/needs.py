"""What a configuration asks of the machine: workers, addresses, descriptors, room on the board."""

from puerta.board import Board
from puerta.config.schema import Address, Config, RedisRoute, TcpRoute
from puerta.process.listener import MOST_SEATS
from puerta.process.unix import usable_cores

_DESCRIPTORS_BESIDES = 256
"""Listeners, upstreams, the log, the store: what a worker has open beside its sessions."""


def worker_count(config: Config) -> int:
    return min(config.workers or usable_cores(), MOST_SEATS)


def addresses(*configs: Config) -> list[Address]:
    """Everything the routes listen on, once each."""
    return list(dict.fromkeys(address for config in configs for route in config.routes for address in route.listen))


def lay_out(board: Board, config: Config) -> None:
    """Make room for every route and backend before a fork. Raises BoardFull."""
    relayed = [route for route in config.routes if isinstance(route, TcpRoute)]
    redis = [route.name for route in config.routes if isinstance(route, RedisRoute)]
    board.lay_out(((route.name, [backend.id for backend in route.backends]) for route in relayed), redis)


def open_files(config: Config) -> int:
    """Descriptors of one worker that has all of its routes' clients: two a relayed session, one a Redis client."""
    sessions = sum(route.limits.connections * (1 if isinstance(route, RedisRoute) else 2) for route in config.routes)
    return sessions + _DESCRIPTORS_BESIDES
