"""The shared store in trouble: clients are served all the same, those that are there stay where they are."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from playground.servers import Valkey, free_port
from tests.e2e.machines import Machine
from tests.e2e.peers import Raw, Scripted, home_of, key_of
from tests.faults.load import Known, Load
from tests.harness import wait_for
from tests.redis.nodes import Nodes

TIMEOUT = 0.25
"""store.timeout of the machine under test."""

SLACK = 0.35
"""Seconds that a busy test machine may add to anything."""

PERIOD = 1.2
"""The breaker's longest period."""

WORKERS = 2


@pytest.fixture(scope="module")
def scripted() -> Iterator[list[Scripted]]:
    with Scripted() as one, Scripted() as two, Scripted() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def store() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


REDIS = "  - {{name: cache, mode: redis, listen: '127.0.0.1:{port}', cluster: ['{seed}']}}"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, scripted: list[Scripted], store: Valkey) -> Iterator[Machine]:
    """With a Redis route beside: its clients have no place that the store would know of."""
    nodes = Nodes()
    made = Machine(
        tmp_path_factory.mktemp("machine"),
        [each.address for each in scripted],
        store=f"redis://{store.address}",
        store_timeout=f"{TIMEOUT * 1000:g}ms",
        workers=WORKERS,
        beside=REDIS.format(port=free_port(), seed=nodes[0].address),
    )
    with nodes, made:
        yield made
    assert "Traceback" not in made.text(), made.text()


@pytest.fixture
def known(machine: Machine, store: Valkey) -> Iterator[list[Known]]:
    """Clients that were there before; the store is well."""
    wait_for(lambda: machine.status()["store"]["state"] == "up", "the store is up")
    with ExitStack() as stack:
        clients = [Known([machine.port], f"app@known{number}", 6) for number in range(5)]
        for each in clients:
            stack.callback(each.close)
        yield clients


def database(store: Valkey) -> "redis.Redis":
    return redis.Redis(port=store.port, decode_responses=True, socket_timeout=5)


def store_state(machine: Machine) -> str:
    return str(machine.status()["store"]["state"])


def name_in_store(application: str) -> str:
    return f"puerta:affinity:mongo:{key_of(application).hex()}"


def agrees_again(machine: Machine, store: Valkey, name: str) -> float:
    """Seconds until a new client's backend is in the store again."""
    began = time.monotonic()
    wait_for(lambda: store_state(machine) == "up", "all workers see the store again")
    took = time.monotonic() - began
    with Raw(machine.port, f"app@{name}") as raw, database(store) as client:
        assert client.get(name_in_store(f"app@{name}")) == raw.backend
    return took


def settle(load: Load, visits: int) -> None:
    """Wait until so many more clients were served."""
    goal = len(load.visits) + visits
    wait_for(lambda: len(load.visits) >= goal, f"{visits} more clients came")


def test_killed_and_started_again(machine: Machine, store: Valkey, known: list[Known]) -> None:
    with Load([machine.port], name="killed") as load:
        settle(load, 50)
        store.kill()
        wait_for(lambda: store_state(machine) == "down", "the workers miss the store")
        settle(load, 200)
        assert all(each.is_well() for each in known)
        store.start()
        took = agrees_again(machine, store, "after-kill")
        assert all(each.is_well() for each in known)
    print(f"{len(load.visits)} clients, slowest {load.slowest() * 1000:.0f} ms, up again after {took:.1f} s")
    assert not load.failed()
    assert load.slowest() < TIMEOUT + SLACK
    assert took < PERIOD + TIMEOUT + 1


def test_frozen(machine: Machine, store: Valkey, known: list[Known]) -> None:
    """A look-up waits for its timeout once; then nobody waits, however long the store stays like that."""
    with Load([machine.port], name="frozen") as load:
        settle(load, 50)
        frozen = time.monotonic()
        store.signal(signal.SIGSTOP)
        try:
            wait_for(lambda: store_state(machine) == "down", "the workers miss the store")
            noticed = time.monotonic()
            wait_for(lambda: time.monotonic() - noticed > 2 * PERIOD, "the breaker has probed twice")
            assert all(each.is_well() for each in known)
        finally:
            store.signal(signal.SIGCONT)
        took = agrees_again(machine, store, "after-freeze")
        assert all(each.is_well() for each in known)
    waited = load.slow(TIMEOUT * 0.8, since=frozen - TIMEOUT)
    print(
        f"{len(load.visits)} clients, {len(waited)} waited for the timeout, slowest {load.slowest() * 1000:.0f} ms, "
        f"up again after {took:.1f} s"
    )
    assert not load.failed()
    assert load.slowest() < TIMEOUT + SLACK
    assert len(waited) <= len(load.threads) * WORKERS  # each worker has to find out for itself
    assert not load.slow(TIMEOUT * 0.8, since=noticed)
    assert took < PERIOD + TIMEOUT + 1


def test_flushed(machine: Machine, store: Valkey, scripted: list[Scripted], known: list[Known]) -> None:
    """Those who know tell it again, even of a client that is not where its hash would put it."""
    name, addresses = "app@elsewhere", [each.address for each in scripted]
    place = next(address for address in addresses if address != home_of(name, addresses))
    with database(store) as client, Load([machine.port], name="flushed") as load:
        client.set(name_in_store(name), place)
        elsewhere = Known([machine.port], name, 2)
        assert elsewhere.backends == {place}
        settle(load, 50)
        client.flushall()
        flushed = time.monotonic()
        wait_for(lambda: client.get(name_in_store(name)) == place, "the workers tell the store again")
        took = time.monotonic() - flushed
        expected = {name_in_store(each.application): each.held[0].backend for each in known}
        wait_for(lambda: {key: client.get(key) for key in expected} == expected, "of every client")
        assert all(elsewhere.is_well() for _ in range(10))
        assert all(each.is_well() for each in known)
        settle(load, 100)
    elsewhere.close()
    print(f"told again after {took:.1f} s")
    assert took < 2.5
    assert not load.failed()


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (lambda client: client.replicaof("127.0.0.1", free_port()), lambda client: client.replicaof("NO", "ONE")),
        (lambda client: client.config_set("maxmemory", "1"), lambda client: client.config_set("maxmemory", "0")),
    ],
    ids=["read-only", "full"],
)
def test_takes_no_writes(
    machine: Machine,
    store: Valkey,
    known: list[Known],
    spoil: Callable[["redis.Redis"], object],
    mend: Callable[["redis.Redis"], object],
) -> None:
    with database(store) as client, Load([machine.port], name="refused") as load:
        settle(load, 20)
        try:
            spoil(client)
            wait_for(lambda: store_state(machine) == "down", "the workers notice")
            settle(load, 200)
            assert all(each.is_well() for each in known)
        finally:
            mend(client)
        agrees_again(machine, store, f"after-{spoil.__code__.co_firstlineno}")
        assert all(each.is_well() for each in known)
    print(f"{len(load.visits)} clients, slowest {load.slowest() * 1000:.0f} ms")
    assert not load.failed()
    assert load.slowest() < TIMEOUT + SLACK


def test_key_of_a_wrong_type(machine: Machine, store: Valkey, known: list[Known]) -> None:
    """It costs that client the store's word, and nobody else anything."""
    name = "app@spoilt"
    with database(store) as client:
        client.rpush(name_in_store(name), "no", "string")
        spoilt = Known([machine.port], name, 6)
        assert len(spoilt.backends) == 1
        assert spoilt.is_well()
        assert store_state(machine) == "up"
        agrees_again(machine, store, "beside-spoilt")
        assert all(each.is_well() for each in known)
        spoilt.close()
        client.delete(name_in_store(name))


def test_many_clients_come_back_without_a_stampede(machine: Machine, store: Valkey) -> None:
    """A store that restarts empty hears of every live client again, once, over the connections it always has."""
    held = [Raw(machine.port, f"app@many{number}") for number in range(300)]
    with database(store) as client:
        client.flushall()
    store.kill()
    wait_for(lambda: store_state(machine) == "down", "the workers miss the store")
    store.start()
    with database(store) as client:
        wait_for(lambda: len(client.keys("puerta:affinity:mongo:*")) == len(held), "every client is known again")
        wait_for(lambda: store_state(machine) == "up", "all workers see it")
        claims = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        connections = client.info("stats")["total_connections_received"]
    print(f"{claims} claims for {len(held)} clients, {connections} connections")
    assert len(held) <= claims <= 3 * len(held)
    assert connections < 20
    for raw in held:
        assert raw.again() == raw.backend
        raw.close()


def test_start_without_a_store(tmp_path: Path, scripted: list[Scripted]) -> None:
    store = Valkey()
    machine = Machine(tmp_path, [each.address for each in scripted], store=f"redis://{store.address}", workers=1)
    with machine:
        client = Known([machine.port], "app@early", 3)
        assert client.is_well()
        assert client.backends == {home_of("app@early", [each.address for each in scripted])}
        wait_for(lambda: store_state(machine) == "down", "the workers miss the store")
        with store:
            agrees_again(machine, store, "later")
            assert client.is_well()
        client.close()
