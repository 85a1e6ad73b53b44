"""Nodes that the cluster names by host names: looked up before anybody needs them."""

import json
from types import SimpleNamespace
from typing import Any

from puerta.board import Board
from puerta.config.schema import Address, RedisRoute
from puerta.proxy.redis_route import RedisRouteRunner
from tests.reactor.sockets import Turned


def test_a_worker_is_ready_when_it_knows_where_the_nodes_are() -> None:
    known: dict[str, str] = {}
    asked: list[str] = []

    def resolve(host: str) -> str | None:
        asked.append(host)
        return known.get(host)

    board = Board()
    board.lay_out([], ["cache"])
    config = RedisRoute("cache", "redis", (Address("127.0.0.1", 1),), (Address("127.0.0.1", 2),))
    loop, access = Turned().loop, SimpleNamespace()
    runner = RedisRouteRunner(config, board, 3, loop, access, lambda seconds, function: None, resolve)  # type: ignore[arg-type]
    assert not runner.ready()
    master: dict[str, Any] = {"id": "m", "host": "one.example", "port": 9, "up": True, "cell": 0}
    spare = {"id": "s", "host": "two.example", "port": 9, "up": True, "cell": 1}
    layout = {"masters": [master | {"slots": [[0, 16383]], "replicas": []}], "spares": [spare], "uncovered": 0}
    board.topology("cache").publish(json.dumps(layout).encode())
    runner.take_layout()
    assert {"one.example", "two.example"} <= set(asked), "a node may get slots that has none yet"
    assert not runner.ready()
    known["one.example"] = "127.0.0.1"
    assert runner.ready(), "for one that is not in office nobody waits"
    runner.cluster.close()
    loop.end_turn()
