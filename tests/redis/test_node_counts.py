"""What /status and /metrics say of each node is what the nodes themselves saw, over all workers."""

import os
import signal
from typing import Any

import pytest

from puerta.board import Board
from puerta.proxy.redis_cluster import Node
from puerta.proxy.redis_tally import NodeCells
from tests.harness import wait_for
from tests.redis.scripted import ScriptedFront, ScriptedNode
from tests.redis.wire import Wire, request, until

pytestmark = pytest.mark.dataplane

WORKERS = 2


def told(scripted: ScriptedFront, field: str) -> list[Any]:
    """Of each node, in the order of their ports."""
    found = {each["id"]: each[field] for each in scripted.status()["backends"]}
    return [found[name] for name in sorted(found, key=lambda name: int(name.rpartition(":")[2]))]


def by_port(nodes: list[ScriptedNode]) -> list[ScriptedNode]:
    return sorted(nodes, key=lambda node: node.port)


def test_commands_and_error_replies(scripted: ScriptedFront, nodes: list[ScriptedNode]) -> None:
    nodes[0].answers[b"GET"] = b"-ERR no\r\n"
    for number in range(60):
        scripted.ask(*(("SET", f"key{number}", "v") if number % 2 else ("GET", f"key{number}")))
    heard = [len(node.heard) for node in by_port(nodes)]
    assert sum(heard) == 60 and min(heard) > 0
    wait_for(lambda: told(scripted, "commands_total") == heard, "all are counted")
    errors = [sum(node is nodes[0] and words[0] == b"GET" for words in node.heard) for node in by_port(nodes)]
    assert max(errors) > 0 and told(scripted, "errors_total") == errors
    name = (
        f'puerta_redis_node_commands_total{{backend="127.0.0.1:{nodes[0].port}",route="cache"}} {len(nodes[0].heard)}.0'
    )
    assert name.encode() in scripted.metrics()


def test_connections_are_nodes_times_workers_for_each_protocol(scripted: ScriptedFront) -> None:
    wait_for(
        lambda: scripted.status()["upstreams"]["shared"] == {"resp2": 2 * WORKERS, "resp3": 0}, "ahead of their use"
    )
    wait_for(lambda: told(scripted, "connections_total") == [WORKERS] * 2, "they stand")
    assert told(scripted, "connections") == [WORKERS] * 2

    def speak() -> Any:
        for key in "bar", "foo":
            with Wire(scripted.port) as wire:
                wire.pipeline([("HELLO", 3), ("GET", key)])
        return scripted.status()["upstreams"]["shared"]["resp3"] == 2 * WORKERS

    wait_for(speak, "both workers have both nodes twice")
    assert told(scripted, "connections") == [2 * WORKERS] * 2
    assert scripted.status()["upstreams"]["connections"] == 4 * WORKERS
    assert b'puerta_redis_shared_connections{protocol="resp3",route="cache"} 4.0' in scripted.metrics()


def test_calls_in_flight_and_lost_connections(scripted: ScriptedFront, nodes: list[ScriptedNode]) -> None:
    wait_for(lambda: told(scripted, "connections") == [WORKERS] * 2, "all are connected")
    nodes[0].answers[b"SET"] = nodes[1].answers[b"SET"] = b""
    with Wire(scripted.port) as wire:
        wire.send(b"".join(request("SET", f"key{number}", "v") for number in range(40)))
        until(lambda: sum(len(node.heard) for node in nodes) == 40, "the nodes have them")
        heard = [len(node.heard) for node in by_port(nodes)]
        wait_for(lambda: told(scripted, "in_flight") == heard, "they are in flight")
        nodes[0].hang_up()
        lost = [WORKERS * (node is nodes[0]) for node in by_port(nodes)]
        wait_for(lambda: told(scripted, "connections_lost_total") == lost, "they were lost")
        still = [len(node.heard) * (node is nodes[1]) for node in by_port(nodes)]
        wait_for(lambda: told(scripted, "in_flight") == still, "the rest is in flight")
        nodes[1].hang_up()
        assert {frame[:17] for frame in wire.frames(40)} == {b"-ERR the connecti"}
    wait_for(lambda: told(scripted, "in_flight") == [0, 0], "none is in flight")
    assert told(scripted, "connect_failures_total") == [0, 0]


def test_a_killed_worker_leaves_its_counts_but_no_connections(
    scripted: ScriptedFront, nodes: list[ScriptedNode]
) -> None:
    for number in range(20):
        scripted.ask("GET", f"key{number}")
    counts = [len(node.heard) for node in by_port(nodes)]
    wait_for(lambda: told(scripted, "commands_total") == counts, "all are counted")
    for seat in range(WORKERS):
        os.kill(scripted.running.worker(seat), signal.SIGKILL)
    wait_for(lambda: told(scripted, "connections_total") == [2 * WORKERS] * 2, "new workers are connected")
    wait_for(lambda: told(scripted, "connections") == [WORKERS] * 2, "the old ones are not")
    assert told(scripted, "commands_total") == counts


def test_a_node_that_left_takes_its_connections_with_it(scripted: ScriptedFront, nodes: list[ScriptedNode]) -> None:
    wait_for(lambda: told(scripted, "connections") == [WORKERS] * 2, "all are connected")
    nodes[0].slots = (0, 16383)
    nodes[0].nodes = nodes[1].nodes = [nodes[0]]
    nodes[1].close()
    nodes[1].hang_up()
    wait_for(lambda: len(scripted.status()["backends"]) == 1, "one is left")
    wait_for(lambda: told(scripted, "connections") == [WORKERS], "with its own connections")
    wait_for(lambda: scripted.status()["upstreams"]["connections"] == WORKERS, "and nobody else's")
    before = told(scripted, "commands_total")[0]
    for number in range(20):
        assert scripted.ask("GET", f"key{number}") == b":%d\r\n" % nodes[0].port
    wait_for(lambda: told(scripted, "commands_total") == [before + 20], "it has all commands")


def test_cells_of_a_node_that_got_others_or_left() -> None:
    board = Board()
    board.lay_out([], ["cache"])
    cells, node = NodeCells(board, "cache", 3), Node("10.0.0.1", 7000)

    def shown(cell: int) -> tuple[int, ...]:
        return tuple(board.node("cache", cell).get(3, name) for name in ("connections", "in_flight", "commands_total"))

    node.cell, node.connections, node.in_flight, node.tally.calls = 5, 2, 1, 7
    cells.write([node])
    assert shown(5) == (2, 1, 7)
    node.cell, node.tally.calls = 6, 3
    cells.write([node])
    assert (shown(5), shown(6)) == ((0, 0, 10), (2, 1, 0))
    other = Node("10.0.0.2", 7000)
    other.cell, other.connections, node.tally.calls = 6, 4, 2
    cells.write([other, Node("10.0.0.3", 7000)])
    assert shown(6) == (4, 0, 2)
    node.tally.calls = 9  # it is no node of the cluster any more
    cells.write([other])
    cells.write([])
    assert shown(6) == (0, 0, 2)
    assert board.node("cache", 5).sum("commands_total") == 10
