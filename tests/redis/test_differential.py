"""Random programs give the same replies through Puerta, over three nodes, as from one server of the same binary."""

import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from playground.cluster import SLOTS, ClusterNode, ValkeyCluster
from playground.servers import Valkey
from puerta.protocol.slots import slot_of
from tests.harness import Running, free_port
from tests.redis.compare import check, run, run_apart
from tests.redis.conftest import Front
from tests.redis.programs import TAGS, Programs, Step
from tests.redis.stage import CONFIG
from tests.redis.wire import Wire

AT_ONCE = 8

BATCHES_BEFORE, BATCHES_AFTER = 5, 5
"""... a master is killed, and when the cluster has another."""

NOT_OF_ONE_NODE = (
    "SCRIPT", "FUNCTION", "FCALL", "EVALSHA", "PUBLISH", "PUBSUB", "WAIT", " 0", "#values", "LOLWUT",
)  # fmt: skip

Compare = Callable[..., None]


@pytest.fixture
def compare(front: Front, server: Valkey) -> Iterator[Compare]:
    """Runs up to AT_ONCE programs on both sides, each on a connection of its own, all sharing Puerta's."""
    ours = [front.connect() for _ in range(AT_ONCE)]
    theirs = [Wire(server.port) for _ in range(AT_ONCE)]
    for wires in (ours, theirs):
        assert wires[0].ask("FLUSHALL") == b"+OK\r\n"

    def both(programs: list[list[Step]], name: str, apart: bool = False) -> None:
        wires = ours[: len(programs)]
        got = run_apart(wires, programs) if apart else run(wires, programs, random.Random(name))
        wanted = run(theirs[: len(programs)], programs)
        for number, steps in enumerate(programs):
            check(steps, got[number], wanted[number], f"{name}, program {number}")

    yield both
    for wire in (*ours, *theirs):
        wire.close()


def batches(seed: int, count: int, length: int) -> Iterator[tuple[str, list[list[Step]]]]:
    """`count` times AT_ONCE programs."""
    programs = Programs(seed)
    for batch in range(count):
        name = f"seed {seed}, batch {batch}"
        yield name, [programs.program(f"p{batch}.{number}.", length) for number in range(AT_ONCE)]


class Migrations(threading.Thread):
    """Moves slots of the programs under way to other nodes, until it is stopped: each once, as nodes need time to agree."""

    def __init__(self, cluster: ValkeyCluster, seed: int) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.random = random.Random(seed)
        self.names: list[str] = []
        self.moved: set[int] = set()
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            slots = {slot_of(b"{%s%d}" % (name.encode(), tag)) for name in self.names for tag in range(TAGS)}
            if slots <= self.moved:
                time.sleep(0.001)
                continue
            slot = self.random.choice(sorted(slots - self.moved))
            owner = self.cluster.master_of_slot(slot)
            others = [node for node in self.cluster.masters if node is not owner]
            self.cluster.migrate_slot(slot, self.random.choice(others))
            self.moved.add(slot)

    def stop(self) -> None:
        self.stopping = True
        self.join()


@pytest.mark.dataplane
def test_a_few_programs(compare: Compare) -> None:
    for name, programs in batches(1, 10, 40):
        compare(programs, name)


@pytest.mark.parametrize("seed", range(100, 104))
def test_many_small_programs(compare: Compare, seed: int) -> None:
    for name, programs in batches(seed, 75, 40):
        compare(programs, name)


def test_long_pipelines(compare: Compare) -> None:
    for name, programs in batches(200, 3, 1000):
        compare(programs, name)


def test_programs_that_look_at_all_keys(compare: Compare) -> None:
    programs = Programs(300)
    for number in range(150):
        compare([[Step((b"FLUSHALL",)), *programs.program(f"w{number}.", 40, whole=True)]], f"program {number}")


def test_programs_while_slots_migrate(compare: Compare, cluster: ValkeyCluster) -> None:
    """Nothing of it is to be seen, except by WATCH (for which a key that moved has changed) and in encodings.

    Without SPUBLISH: a transaction that has one is executed by a node that has not all of its keys any more (cluster.c,
    getNodeByQuery counts no missing keys then).
    """
    programs = Programs(400, without=("OBJECT ENCODING", "XINFO STREAM", "SPUBLISH"))
    migrations = Migrations(cluster, 400)
    migrations.start()
    try:
        for batch in range(12):
            migrations.names = [f"m{batch}.{number}." for number in range(AT_ONCE)]
            steps = [programs.program(name, 150, watches=False) for name in migrations.names]
            compare(steps, f"batch {batch}, {len(migrations.moved)} slots moved", apart=True)
    finally:
        migrations.stop()
    assert len(migrations.moved) > 20


def is_master(node: ClusterNode) -> bool:
    return any("myself" in line[2] and "master" in line[2] for line in node.known())


def test_programs_while_a_master_is_killed(server: Valkey, tmp_path: Path) -> None:
    """What is on other nodes goes on as if nothing were; of the lost one all is right again when a replica has its place.

    Without subscribers: who listens on a node that is lost is disconnected, as it may have missed something.
    """
    programs, seen, port = Programs(500, without=NOT_OF_ONE_NODE), Counter[bytes](), free_port()
    with ValkeyCluster(replicas=1, node_timeout=1000, options=("--cluster-require-full-coverage", "no")) as cluster:
        victim, heir = cluster.masters[1], cluster.replicas[1]
        lost = range(SLOTS // 3, 2 * SLOTS // 3)
        config = CONFIG.format(port=port, seeds=", ".join(cluster.addresses[:3]), more="")
        with Running(tmp_path, config), contextlib.ExitStack() as stack:
            ours = [stack.enter_context(Wire(port)) for _ in range(AT_ONCE)]
            theirs = [stack.enter_context(Wire(server.port)) for _ in range(AT_ONCE)]

            def batch(number: int, lost: Collection[int] = (), kill: bool = False) -> None:
                """Those `lost` may be answered by errors."""
                steps = [programs.program(f"k{number}.{each}.", 300, subscribes=False) for each in range(AT_ONCE)]
                killer = threading.Timer(0.01, cluster.kill, [victim])
                if kill:
                    killer.start()
                got = run(ours, steps, random.Random(number))
                wanted = run(theirs, steps)
                for each, program in enumerate(steps):
                    seen.update(check(program, got[each], wanted[each], f"batch {number}, program {each}", lost))
                if kill:
                    killer.join()

            numbers = itertools.count()
            for number in itertools.islice(numbers, BATCHES_BEFORE):
                batch(number)
            batch(next(numbers), lost, kill=True)
            assert any(error.startswith(b"-ERR the connection to node ") for error in seen), "none was under way"
            key = next(b"%d" % number for number in itertools.count() if slot_of(b"%d" % number) in lost)
            with Wire(port) as probe:
                while probe.ask("SET", key, "x") != b"+OK\r\n":
                    batch(next(numbers), lost)
            assert is_master(heir)
            for number in itertools.islice(numbers, BATCHES_AFTER):
                batch(number)
