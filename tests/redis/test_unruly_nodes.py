"""Slots move, nodes refuse commands for moments, connections break, all the time: what is promised holds.

Each command has one answer in its place. What was answered was done; what was refused was not; nothing is done twice, and
the commands of one client on one key are done in their order.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable

import pytest

from puerta.protocol.slots import slot_of
from tests.redis.nodes import OK, Nodes, Peer, Script, Words
from tests.redis.scripts import ask, moved
from tests.redis.stage import Stage
from tests.redis.wire import Wire, array, decoded

Staged = Callable[..., Stage]

REFUSED = (
    b"-EXECABORT",
    b"-CLUSTERDOWN",
    b"-LOADING",
    b"-READONLY",
    b"-TRYAGAIN",
    b"-ERR too many cluster redirections",
)
LOST = b"-ERR the connection to node"
SECONDS = 1.5
BREAKS = 0.002
"""Of all commands, so many find their connection broken, before or after they were executed."""


class Unruly:
    """What really is where. Each slot has one owner and may be on its way to another; each key is at one of the two."""

    def __init__(self, nodes: Nodes, slots: list[int], seed: int) -> None:
        self.nodes, self.random = nodes, random.Random(seed)
        self.owner = {
            slot: number
            for slot in slots
            for number, place in enumerate(nodes.places)
            for first, last in place.slots
            if first <= slot <= last
        }
        self.target: dict[int, int] = {}
        self.home: dict[bytes, int] = {}
        self.not_ready: dict[int, tuple[int, bytes]] = {}
        self.asking: set[Peer] = set()
        self.queued: dict[Peer, list[Words] | None] = {}
        self.broken = 0
        self.calm = False
        for number, node in enumerate(nodes.all):
            node.script = self.script(number)

    def script(self, number: int) -> Script:
        def answer(peer: Peer, words: Words) -> bytes | None:
            with self.nodes.lock:
                return self.decide(number, peer, words)

        return answer

    def decide(self, number: int, peer: Peer, words: Words) -> bytes | None:
        if words[0] in (b"HELLO", b"READONLY"):
            return None
        if words[0] == b"ASKING":
            self.asking.add(peer)
            return OK
        if words[0] == b"MULTI":
            self.queued[peer] = []  # what ASKING said stays true until EXEC
            return OK
        luck = 1.0 if self.calm else self.random.random()
        if luck < BREAKS:
            self.broken += 1
            raise ConnectionResetError
        reply = self.obey(number, peer, words)
        if peer not in self.queued:
            self.asking.discard(peer)
        if luck < 2 * BREAKS:
            self.broken += 1
            raise ConnectionResetError
        return reply

    def obey(self, number: int, peer: Peer, words: Words) -> bytes:
        """As multi.c and cluster.c do: a transaction is refused as a whole if any part of it was, or if its slot has moved."""
        if words[0] == b"EXEC":
            queued = self.queued.pop(peer)
            if queued is None:
                return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
            refused = [line for each in queued if (line := self.refusal(number, peer, each)) is not None]
            return refused[0] if refused else array([self.execute(number, each) for each in queued])
        line = self.refusal(number, peer, words)
        if peer in self.queued:
            queued = self.queued[peer]
            self.queued[peer] = [*queued, words] if queued is not None and line is None else None
            return line or b"+QUEUED\r\n"
        return line or self.execute(number, words)

    def refusal(self, number: int, peer: Peer, words: Words) -> bytes | None:
        slot = slot_of(words[1])
        left, line = self.not_ready.get(number, (0, b""))
        if left and not self.calm:
            self.not_ready[number] = (left - 1, line)
            return line
        owner, target = self.owner[slot], self.target.get(slot)
        if number not in (owner, target) or (number == target and peer not in self.asking):
            return moved(words[1], self.nodes[owner])
        if number == owner and target is not None and self.home.get(words[1]) != owner:
            return ask(words[1], self.nodes[target])
        return None

    def execute(self, number: int, words: Words) -> bytes:
        if words[0] == b"APPEND":
            self.home[words[1]] = number
        return self.nodes[number].execute(words[0], words)

    def stir(self) -> None:
        """One more change."""
        with self.nodes.lock:
            slot = self.random.choice(list(self.owner))
            owner, target = self.owner[slot], self.target.get(slot)
            if target is None:
                self.target[slot] = self.random.choice([number for number in range(3) if number != owner])
            elif self.random.random() < 0.5:
                for key in [
                    key for key, at in self.home.items() if slot_of(key) == slot and self.random.random() < 0.5
                ]:
                    self.home[key] = target
            else:
                self.home.update({key: target for key in self.home if slot_of(key) == slot})
                self.owner[slot] = self.target.pop(slot)
            if self.random.random() < 0.05:
                line = self.random.choice(
                    [b"-CLUSTERDOWN x\r\n", b"-LOADING x\r\n", b"-READONLY x\r\n", b"-TRYAGAIN x\r\n"]
                )
                self.not_ready[self.random.randrange(3)] = (self.random.randrange(1, 40), line)


class Client(threading.Thread):
    """Marks its own keys, and reads them; remembers what it was told."""

    def __init__(self, wire: Wire, number: int, keys: list[bytes]) -> None:
        super().__init__(daemon=True)
        self.wire, self.keys, self.random, self.mark = wire, keys, random.Random(number), 1
        self.told: dict[bytes, list[tuple[int, bytes, bytes]]] = {key: [] for key in keys}
        self.error: BaseException | None = None
        self.stopping = False

    def run(self) -> None:
        try:
            while not self.stopping:
                self.turn(self.random.choice([1, 3, 30]))
        except BaseException as error:
            self.error = error

    def turn(self, count: int) -> None:
        """One pipeline of reads, writes and transactions."""
        asked: list[list[tuple[bytes | str | int, ...]]] = []
        first = self.mark
        for mark in range(first, first + count):
            key, kind = self.random.choice(self.keys), self.random.randrange(4)
            append = ("APPEND", key, f"{mark};")
            asked.append([("GET", key)] if kind == 0 else [("MULTI",), append, ("EXEC",)] if kind == 1 else [append])
        self.mark += count
        said = iter(self.wire.pipeline([command for step in asked for command in step]))
        for mark, step in enumerate(asked, first):
            replies = [next(said) for _ in step]
            assert replies[:-1] == [b"+OK\r\n", b"+QUEUED\r\n"][: len(step) - 1]
            name, key = step[len(step) // 2][:2]
            reply = replies[-1].removeprefix(b"*1\r\n") if len(step) > 1 else replies[-1]
            self.told[bytes(str(key), "ascii") if not isinstance(key, bytes) else key].append(
                (mark, str(name).encode(), reply)
            )

    def check(self, memory: dict[bytes, bytes]) -> dict[str, int]:
        """How many of each kind of answer there were."""
        kinds = {"done": 0, "refused": 0, "lost": 0}
        for key, told in self.told.items():
            done = marks(memory.get(key, b""))
            assert all(one < other for one, other in itertools.pairwise(done)), (key, done)
            lost = {mark for mark, _, reply in told if reply.startswith(LOST)}
            for mark, name, reply in told:
                where = (key, mark, name, reply)
                if reply.startswith(b"-"):
                    assert reply.startswith((LOST, *REFUSED)), where
                    assert reply.startswith(LOST) or mark not in done, where
                    kinds["lost" if reply.startswith(LOST) else "refused"] += 1
                elif name == b"APPEND":
                    assert mark in done, where
                    assert reply == b":%d\r\n" % len(b"".join(b"%d;" % each for each in done if each <= mark)), where
                    kinds["done"] += 1
                else:
                    seen = marks(decoded(reply) or b"")
                    assert [each for each in seen if each < mark] == [each for each in done if each < mark], where
                    assert {each for each in seen if each > mark} <= lost, where
                    kinds["done"] += 1
        return kinds


def marks(value: bytes) -> list[int]:
    return [int(mark) for mark in value.split(b";")[:-1]]


@pytest.mark.dataplane
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_nodes_do_nothing_is_lost_doubled_or_out_of_order(stage: Staged, seed: int) -> None:
    nodes = Nodes()
    tags = [next(itertools.islice(nodes.keys(node), number, None)) for node in range(3) for number in range(3)]
    unruly = Unruly(nodes, [slot_of(tag) for tag in tags], seed)
    one = stage(nodes)
    clients = [
        Client(
            one.connect(2 + number % 2), number, [b"{%s}%d.%d" % (tag, number, each) for tag in tags for each in (0, 1)]
        )
        for number in range(6)
    ]
    for client in clients:
        client.start()
    began = time.monotonic()
    while time.monotonic() < began + SECONDS or (unruly.broken < 5 and time.monotonic() < began + 20):
        unruly.stir()
        time.sleep(0.004)
    unruly.calm = True
    for client in clients:
        client.stopping = True
        client.join(20)
        assert client.error is None, client.error
    kinds = [client.check(nodes.memory) for client in clients]
    total = {name: sum(each[name] for each in kinds) for name in kinds[0]}
    assert total["done"] > 100 and unruly.broken >= 5, total
    counts = one.info()
    assert min(counts["redirects_moved"], counts["redirects_ask"], counts["retries"]) > 0, counts
