"""A Redis route as a worker runs it, in this process and without a socket: for what a published layout does to it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from puerta.board import Board
from puerta.config.schema import Address, RedisRoute
from puerta.proxy.redis_route import RedisRouteRunner
from tests.reactor.sockets import Turned


@contextmanager
def runner_with(layout: dict[str, Any], resolve: Callable[[str], str | None]) -> Iterator[RedisRouteRunner]:
    """It has taken over the layout; `resolve` gives a host's address, or None as long as that is not known."""
    board = Board()
    board.lay_out([], ["cache"])
    config = RedisRoute("cache", "redis", (Address("127.0.0.1", 1),), (Address("127.0.0.1", 2),))
    loop, access = Turned().loop, SimpleNamespace()
    runner = RedisRouteRunner(config, board, 3, loop, access, lambda seconds, function: None, resolve)  # type: ignore[arg-type]
    assert not runner.ready()
    board.topology("cache").publish(json.dumps({"seeds": ["127.0.0.1:2"], **layout}).encode())
    runner.take_layout()
    try:
        yield runner
    finally:
        runner.cluster.close()
        loop.end_turn()


def entry(host: str, **more: Any) -> dict[str, Any]:
    """A node as a layout lists it."""
    return {"id": host, "host": host, "port": 9, "up": True, "cell": -1} | more


def master(host: str, first: int, last: int, *replicas: dict[str, Any]) -> dict[str, Any]:
    return entry(host, slots=[[first, last]], replicas=list(replicas))
