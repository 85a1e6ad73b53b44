"""A real cluster with Puerta before it, and a single server of the same binary to compare with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from playground.cluster import ValkeyCluster
from playground.servers import Valkey
from tests.harness import Running, free_port
from tests.redis.wire import Wire, request

PASSWORD = "open sesame"

CONFIG = """
workers: 1
routes:
  - name: cache
    mode: redis
    listen: 127.0.0.1:{port}
    cluster: [{seeds}]
  - name: guarded
    mode: redis
    listen: 127.0.0.1:{guarded}
    cluster: [{seeds}]
    client_auth: {{password: "{password}"}}
"""


class Front:
    """Puerta with two routes to the same cluster: `port` is open, `guarded` wants PASSWORD."""

    def __init__(self, running: Running, port: int, guarded: int, cluster: ValkeyCluster) -> None:
        self.running, self.port, self.guarded, self.cluster = running, port, guarded, cluster

    def connect(self, guarded: bool = False) -> Wire:
        return Wire(self.guarded if guarded else self.port)


@pytest.fixture(scope="session")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as found:
        yield found


@pytest.fixture(scope="session")
def front(cluster: ValkeyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    directory: Path = tmp_path_factory.mktemp("puerta")
    port, guarded = free_port(), free_port()
    seeds = ", ".join(cluster.addresses)
    running = Running(directory, CONFIG.format(port=port, guarded=guarded, seeds=seeds, password=PASSWORD))
    running.start().wait_ready()
    with running:
        yield Front(running, port, guarded, cluster)


@pytest.fixture(scope="session")
def server() -> Iterator[Valkey]:
    """One that is no cluster, and open to all."""
    with Valkey() as found:
        assert isinstance(found, Valkey)
        yield found


@pytest.fixture(scope="session")
def guarded_server() -> Iterator[Valkey]:
    with Valkey(options=("--requirepass", PASSWORD)) as found:
        assert isinstance(found, Valkey)
        yield found


@pytest.fixture
def connect(front: Front) -> Iterator[Callable[..., Wire]]:
    """Opens connections to Puerta that end with the test; no key is left from tests before."""
    opened: list[Wire] = []

    def make(guarded: bool = False, port: int | None = None) -> Wire:
        opened.append(Wire(port) if port is not None else front.connect(guarded))
        return opened[-1]

    with front.connect() as wire:
        wire.send(request("FLUSHALL"))
        assert wire.frame() == b"+OK\r\n"
    yield make
    for wire in opened:
        wire.close()


@pytest.fixture
def wire(connect: Callable[..., Wire]) -> Wire:
    """One connection to Puerta."""
    return connect()


@pytest.fixture
def client(front: Front, wire: Wire) -> Iterator["redis.Redis[bytes]"]:
    """redis-py, in RESP2."""
    with redis.Redis(port=front.port, protocol=2, socket_timeout=20) as made:
        yield made
