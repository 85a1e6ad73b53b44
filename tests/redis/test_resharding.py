"""A thousand slots change their owners while clients work on all their keys: nobody notices."""

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.cluster import ClusterNode, ValkeyCluster
from playground.servers import wait_until
from puerta.protocol.slots import slot_of
from tests.harness import Running, free_port
from tests.redis.stage import CONFIG
from tests.redis.wire import Wire, decoded

CLIENTS = 6
SLOTS = 500
"""From each of two nodes."""

BATCH = 50
"""Slots that are on their way at one time."""

KEYS = 2
"""In each slot, for each client."""

DEEP = 40
"""Commands in a pipeline."""


class Client(threading.Thread):
    """Pipelines of single-key commands on keys of its own, whose replies it knows in advance."""

    def __init__(self, port: int, number: int, keys: list[str]) -> None:
        super().__init__(daemon=True)
        self.wire = Wire(port)
        if number % 2:
            self.wire.ask("HELLO", 3)
        self.random = random.Random(number)
        self.keys = keys
        self.counts = dict.fromkeys(keys, 0)
        self.texts = dict.fromkeys(keys, b"")
        self.done = 0
        self.wrong: list[object] = []
        self.stopping = False

    def run(self) -> None:
        while not self.stopping and not self.wrong:
            asked = [self.step(self.random.choice(self.keys)) for _ in range(DEEP)]
            try:
                said = self.wire.pipeline([command for command, _ in asked])
            except (OSError, AssertionError) as error:
                self.wrong.append(error)
                return
            self.wrong = [each for each in zip(asked, said, strict=True) if each[0][1] != each[1]]
            self.done += len(said)

    def step(self, key: str) -> tuple[tuple[bytes | str | int, ...], bytes]:
        """A command on one of the two values of the key, and its reply."""
        kind = self.random.randrange(4)
        if kind == 0:
            self.counts[key] += 1
            return ("INCR", f"{key}n"), b":%d\r\n" % self.counts[key]
        if kind == 1:
            count = b"%d" % self.counts[key]
            return ("GETRANGE", f"{key}n", 0, -1), self.bulk(count if self.counts[key] else b"")
        if kind == 2 and len(self.texts[key]) < 200:
            self.texts[key] += b"%d;" % self.done
            return ("APPEND", f"{key}t", b"%d;" % self.done), b":%d\r\n" % len(self.texts[key])
        return ("GETRANGE", f"{key}t", 0, -1), self.bulk(self.texts[key])

    @staticmethod
    def bulk(value: bytes) -> bytes:
        return b"$%d\r\n%s\r\n" % (len(value), value)


def tags(first: int, count: int) -> list[list[str]]:
    """Of each of the slots from `first`, hash tags: one for each key of each client."""
    found: dict[int, list[str]] = {slot: [] for slot in range(first, first + count)}
    for number in itertools.count():
        tag = f"{{{number}}}"
        mine = found.get(slot_of(tag.encode()))
        if mine is not None and len(mine) < CLIENTS * KEYS:
            mine.append(tag)
            if len(mine) == CLIENTS * KEYS and all(len(each) == CLIENTS * KEYS for each in found.values()):
                return list(found.values())
    raise AssertionError


def tell(node: ClusterNode, commands: list[tuple[str | int, ...]]) -> list[object]:
    """All in one go; a redis-py pipeline would be one of named methods."""
    with Wire(node.port) as wire:
        said = [decoded(frame) for frame in wire.pipeline(commands)]
    assert not [reply for reply in said if isinstance(reply, Exception)], said
    return said


def reshard(cluster: ValkeyCluster, slots: range, owner: ClusterNode, to: ClusterNode) -> None:
    """As `redis-cli --cluster reshard` does it, but many slots at a time: each is half moved for a while, and seen so."""
    here, there = owner.id, to.id
    tell(to, [("CLUSTER", "SETSLOT", slot, "IMPORTING", here) for slot in slots])
    tell(owner, [("CLUSTER", "SETSLOT", slot, "MIGRATING", there) for slot in slots])
    while True:
        found = tell(owner, [("CLUSTER", "GETKEYSINSLOT", slot, 8) for slot in slots])
        batches = [keys for keys in found if keys]
        if not batches:
            break
        tell(owner, [("MIGRATE", to.host, to.port, "", 0, 5000, "KEYS", *keys) for keys in batches])  # type: ignore[misc]
    for node in [to, owner, *(other for other in cluster.masters if other not in (owner, to))]:
        tell(node, [("CLUSTER", "SETSLOT", slot, "NODE", there) for slot in slots])
    wait_until(lambda: len({node.view() for node in cluster.masters}) == 1, 20, "one view")


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as found:
        yield found


def test_a_thousand_slots_move_under_load(cluster: ValkeyCluster, tmp_path: Path) -> None:
    first, second, third = cluster.masters
    moves = [(100, first, second), (5600, second, third)]
    slots = [keys for start, _, _ in moves for keys in tags(start, SLOTS)]
    port = free_port()
    with Running(tmp_path, CONFIG.format(port=port, seeds=first.address, more="")):
        clients = [Client(port, n, [tag for keys in slots for tag in keys[n::CLIENTS]]) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        for at in range(0, SLOTS, BATCH):
            for start, owner, to in moves:
                reshard(cluster, range(start + at, start + at + BATCH), owner, to)
        for client in clients:
            client.stopping = True
            client.join(20)
        assert not [client.wrong[:3] for client in clients if client.wrong]
        assert all(client.done >= 1000 for client in clients), [client.done for client in clients]
        with Wire(port) as wire:
            text = decoded(wire.ask("INFO", "puerta")).decode()
            counts = dict(line.split(":") for line in text.split("\r\n") if ":" in line)
            for client in clients:
                said = wire.pipeline([("GETRANGE", f"{key}t", 0, -1) for key in client.keys])
                assert said == [client.bulk(client.texts[key]) for key in client.keys]
                client.wire.close()
        assert int(counts["redirects_moved"]) > 100 and int(counts["redirects_ask"]) > 100, text
