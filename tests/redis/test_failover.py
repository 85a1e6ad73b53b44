"""Masters are lost and the cluster replaces them, while clients go on: one answer to each call, and no write done twice."""

import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from playground.cluster import ClusterNode, ValkeyCluster
from puerta.protocol.slots import slot_of
from tests.harness import Running, free_port, wait_for
from tests.redis.nodes import Nodes
from tests.redis.stage import CONFIG, Stage
from tests.redis.wire import Wire, bulk, decoded

CLIENTS = 8
DEEP = 20
"""Commands in a pipeline."""

LISTS = 24
CONSTANTS = 200

CALL_TIMEOUT = 0.5

GRACE = 1.0
"""Seconds after the cluster's own fail-over within which everything must work again."""


class Client(threading.Thread):
    """Pipelines of writes that leave a mark each, and of reads of which each has one right answer."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(daemon=True)
        self.wire = Wire(port)
        if number % 2:
            self.wire.ask("HELLO", 3)
        self.number, self.random, self.marks = number, random.Random(number), itertools.count()
        self.sent: dict[object, list[tuple[float, int, bytes]]] = {}
        self.errors: set[bytes] = set()
        self.wrong: list[object] = []
        self.stopping = False

    def list_of(self, number: int) -> str:
        return f"list{number}.{self.number}"

    def run(self) -> None:
        try:
            while not self.stopping and not self.wrong:
                self.turn()
        except (OSError, AssertionError) as error:
            self.wrong.append(error)

    def turn(self) -> None:
        """One pipeline. Reads and writes take turns, so that an answer in a wrong place is of a wrong kind."""
        asked: list[tuple[bytes | str | int, ...]] = []
        for _ in range(DEEP // 2):
            asked.append(("APPEND", self.list_of(self.random.randrange(LISTS)), f"{next(self.marks)};"))
            asked.append(("GET", f"constant{self.random.randrange(CONSTANTS)}"))
        began = time.monotonic()
        for command, reply in zip(asked, self.wire.pipeline(asked), strict=True):
            if reply.startswith(b"-"):
                self.errors.add(reply.split()[0])
            elif command[0] == "GET":
                if reply != bulk(f"value of {command[1]!r}"):
                    self.wrong.append((command, reply))
            elif not reply.startswith(b":"):
                self.wrong.append((command, reply))
            if command[0] == "APPEND":
                self.sent.setdefault(command[1], []).append((began, int(str(command[2])[:-1]), reply))

    def check_lists(self, lost_from: float, lost_until: float) -> None:
        """No mark twice, none out of order, none that was not sent; and of those that were answered none is missing, but for
        what the lost master had not passed on when it died."""
        names = [self.list_of(number) for number in range(LISTS)]
        for name, reply in zip(names, self.wire.pipeline([("GET", name) for name in names]), strict=True):
            found = [int(mark) for mark in (decoded(reply) or b"").split(b";")[:-1]]
            assert all(one < other for one, other in itertools.pairwise(found)), (name, found)
            mine = self.sent.get(name, [])
            assert set(found) <= {mark for _, mark, _ in mine}
            sure = {mark for when, mark, said in mine if said[:1] == b":" and not lost_from < when < lost_until}
            assert sure <= set(found), (name, sure - set(found))


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(replicas=1, node_timeout=1000) as found:
        yield found


def key_of(node: ClusterNode, cluster: ValkeyCluster) -> str:
    return next(
        key for key in map("probe{}".format, itertools.count()) if cluster.master_of_slot(slot_of(key.encode())) is node
    )


def first_success(attempt: Callable[[], bool], seconds: float = 20.0) -> float:
    """When it first succeeded."""
    wait_for(attempt, "it works again", seconds)
    return time.monotonic()


def takes_writes(node: ClusterNode, key: str) -> bool:
    try:
        return bool(node.client.set(key, "direct"))
    except RedisError:
        return False


@pytest.mark.parametrize(("number", "freeze"), [(0, False), (1, True)], ids=["killed", "frozen"])
def test_a_lost_master_is_replaced_under_load(
    cluster: ValkeyCluster, tmp_path: Path, number: int, freeze: bool
) -> None:
    victim, heir = cluster.masters[number], cluster.replicas[number]
    key, port = key_of(victim, cluster), free_port()
    config = CONFIG.format(
        port=port,
        seeds=", ".join(cluster.addresses[:3]),
        more=f"limits: {{call_timeout: {CALL_TIMEOUT}s}}" if freeze else "",
    )
    with Running(tmp_path, config) as running, Wire(port) as probe:
        assert probe.ask("FLUSHALL") == b"+OK\r\n"
        names = [f"constant{each}" for each in range(CONSTANTS)]
        assert set(probe.pipeline([("SET", name, f"value of {name!r}") for name in names])) == {b"+OK\r\n"}
        wait_for(lambda: heir.client.dbsize() == victim.client.dbsize(), "the heir has it all")
        clients = [Client(port, each) for each in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(0.5)
        assert not [error for client in clients for error in client.errors]
        died = time.monotonic()
        if freeze:
            victim.signal(signal.SIGSTOP)
        else:
            cluster.kill(victim)
        own: list[float] = []
        watcher = threading.Thread(target=lambda: own.append(first_success(lambda: takes_writes(heir, key))))
        watcher.start()
        back = first_success(lambda: probe.ask("SET", key, "1") == b"+OK\r\n")
        watcher.join()
        time.sleep(0.5)
        for client in clients:
            client.stopping = True
            client.join(20)
        assert not [client.wrong for client in clients if client.wrong]
        grace = GRACE + (2 * CALL_TIMEOUT if freeze else 0)  # of a node that hangs only time tells
        assert back - own[0] < grace, f"{back - died:.2f} s, the cluster itself {own[0] - died:.2f} s"
        for client in clients:
            client.errors.clear()
            client.turn()
            assert not client.errors
            client.check_lists(died - 0.5, back + (1.0 if freeze else 0.0))
            client.wire.close()
        assert "Traceback" not in running.text()
    if freeze:
        victim.signal(signal.SIGCONT)
        wait_for(
            lambda: any("myself,slave" in line[2] for line in victim.known()), "it is told what happened meanwhile"
        )


def test_all_seeds_are_down_at_the_start_and_one_returns(stage: Callable[..., Stage]) -> None:
    nodes = Nodes()
    one = stage(nodes, seeds=f"{nodes[1].address}, {nodes[0].address}", down=True)
    key = next(nodes.keys(0))
    wire = one.connect()
    assert wire.pipeline([("GET", key), ("PING",), ("DBSIZE",)]) == [
        b"-CLUSTERDOWN Hash slot not served\r\n", b"+PONG\r\n", b"-CLUSTERDOWN The cluster is down\r\n"
    ]  # fmt: skip
    for node in (nodes[0], nodes[2]):
        node.start()
    wait_for(lambda: wire.ask("SET", key, "1") == b"+OK\r\n", "the cluster is found", 3)
    assert wire.ask("GET", key) == b"$1\r\n1\r\n"
    assert wire.ask("GET", next(nodes.keys(1))).startswith((b"-CLUSTERDOWN ", b"-ERR the connection to "))
    nodes[1].start()
    wait_for(lambda: wire.ask("GET", next(nodes.keys(1))) == b"$-1\r\n", "the last is found", 3)
