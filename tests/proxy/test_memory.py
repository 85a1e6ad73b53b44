"""What a client costs while nobody talks: in a worker, in the store, and as an idle connection."""

import gc
import hashlib
import socket
import tracemalloc
from collections.abc import Iterator

import pytest
import redis

from playground.servers import Valkey
from puerta.board import Board
from puerta.proxy.affinity import Affinity
from puerta.proxy.backend import Backend
from puerta.proxy.store import CLAIM
from puerta.reactor import native
from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, route
from tests.proxy.peers import echo, hello, receive

pytestmark = pytest.mark.dataplane

BINDINGS = 65536
BINDING_MOST = 200
STORED_MOST = 250
CONNECTION_MOST = 4096
"""Bytes. A connection's is without the kernel's."""


def test_an_idle_binding_is_small() -> None:
    """The key, the binding and its place in the table, for as many as a worker remembers by default."""
    backend = Backend("mongo", "127.0.0.1:27101", 1, Board(1 << 20), 0)
    backend.endpoint = native.Endpoint("127.0.0.1", 27101)
    affinity = Affinity("mongo", [backend], "rendezvous", 1800.0, BINDINGS, None)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(BINDINGS):
            key = hashlib.sha256(number.to_bytes(4, "big")).digest()[:16]
            affinity.place(key, (), lambda backend, how: None)
            if not number % 1000:
                affinity.tick(native.now())
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(affinity.idle) == BINDINGS
    assert used / BINDINGS <= BINDING_MOST, f"{used / BINDINGS:.0f} bytes"


@pytest.fixture(scope="module")
def store() -> Iterator[redis.Redis]:
    with Valkey() as server, redis.Redis(port=server.port) as client:
        yield client


def test_a_binding_in_the_store_is_small(store: redis.Redis) -> None:
    """10,000 of them, with the key's name, its value and its expiry."""
    claim = store.register_script(CLAIM)
    names = []
    before = store.info("memory")["used_memory"]
    for start in range(0, 10_000, 1000):
        with store.pipeline(transaction=False) as pipeline:
            for number in range(start, start + 1000):
                names.append(f"puerta:affinity:mongo:{hashlib.sha256(number.to_bytes(4, 'big')).hexdigest()[:32]}")
                claim(keys=[names[-1]], args=["127.0.0.1:27101", "1800000", "", "puerta:events", ""], client=pipeline)
            assert all(reply[1] == 1 for reply in pipeline.execute())
    grown = (store.info("memory")["used_memory"] - before) / len(names)
    with store.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.memory_usage(name)
        mean = sum(pipeline.execute()) / len(names)
    assert mean <= STORED_MOST and grown <= STORED_MOST + 50, f"{mean:.0f} by key, {grown:.0f} in all"


@pytest.fixture(scope="module")
def front(backend: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    routes = [route("mongo", backend(echo), mode="mongodb"), route("echo", backend(echo))]
    with Front(tmp_path_factory.mktemp("memory"), *routes) as running:
        yield running


def test_an_idle_connection_is_small(front: Front) -> None:
    """400 connections of 40 clients, each after a request and its answer."""

    def clients(count: int) -> list[socket.socket]:
        made = [front.connect("mongo", hello(f"client {number % 40}")) for number in range(count)]
        for number, client in enumerate(made):
            receive(client, len(hello(f"client {number % 40}")))
        return made

    warm = clients(40)
    before = front.memory()
    many = clients(400)
    wait_for(lambda: front.route("mongo")["connections"] == 440, "all are in")
    used = (front.memory() - before) / len(many)
    for client in (*warm, *many):
        client.close()
    assert used <= CONNECTION_MOST, f"{used:.0f} bytes"


def test_memory_comes_back(front: Front) -> None:
    """Rounds of 200 connections each cost nothing that stays."""

    def round_of_clients() -> int:
        clients = [front.connect("echo", b"x") for _ in range(200)]
        for client in clients:
            receive(client, 1)
            client.close()
        front.quiet("echo")
        return front.memory()

    round_of_clients()
    first = round_of_clients()
    for _ in range(3):
        last = round_of_clients()
    assert last - first < 128 << 10
