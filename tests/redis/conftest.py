"""A real cluster with Puerta before it, and a single server of the same binary to compare with."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from playground.cluster import ValkeyCluster
from playground.servers import Valkey
from tests.harness import Running, free_port
from tests.redis.nodes import Nodes
from tests.redis.scripted import ScriptedFront, ScriptedNode, scripted_cluster
from tests.redis.stage import Stage
from tests.redis.wire import Wire, request, until

PASSWORD = "open sesame"

CONFIG = """
workers: 1
log: {{access: false}}
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
  - name: narrow
    mode: redis
    listen: 127.0.0.1:{narrow}
    cluster: [{seeds}]
    limits: {{buffer: 128KiB, pending: 16}}
"""


class Front:
    """Puerta with three routes to one cluster: `port` is open, `guarded` wants PASSWORD, `narrow` holds little."""

    def __init__(self, running: Running, cluster: ValkeyCluster, ports: dict[str, int]) -> None:
        self.running, self.cluster = running, cluster
        self.port, self.guarded, self.narrow = ports["port"], ports["guarded"], ports["narrow"]

    def connect(self, port: int | None = None) -> Wire:
        return Wire(port or self.port)

    def info(self) -> dict[str, str]:
        """What INFO says of the open route."""
        with self.connect() as wire:
            text = wire.ask("INFO").decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


@pytest.fixture(scope="session")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as found:
        yield found


@pytest.fixture(scope="session")
def front(cluster: ValkeyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    directory: Path = tmp_path_factory.mktemp("puerta")
    ports = {name: free_port() for name in ("port", "guarded", "narrow")}
    running = Running(directory, CONFIG.format(seeds=", ".join(cluster.addresses), password=PASSWORD, **ports))
    running.start().wait_ready()
    with running:
        yield Front(running, cluster, ports)
        assert "session failed" not in running.text() and "Traceback" not in running.text(), running.text()


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
    """Opens connections to Puerta that end with the test, as do their sessions; no key is left from tests before."""
    opened: list[Wire] = []

    def make(port: int | None = None) -> Wire:
        opened.append(front.connect(port))
        return opened[-1]

    with front.connect() as wire:
        wire.send(request("FLUSHALL"))
        assert wire.frame() == b"+OK\r\n"
    yield make
    for wire in opened:
        wire.close()
    until(lambda: front.info()["connected_clients"] == "1", "all sessions have ended")


@pytest.fixture
def wire(connect: Callable[..., Wire]) -> Wire:
    """One connection to Puerta."""
    return connect()


@pytest.fixture
def client(front: Front, wire: Wire) -> Iterator["redis.Redis[bytes]"]:
    """redis-py, in RESP2."""
    with redis.Redis(port=front.port, protocol=2, socket_timeout=20) as made:
        yield made


# -- without servers


@pytest.fixture
def nodes() -> Iterator[list[ScriptedNode]]:
    """A cluster of two nodes."""
    made = scripted_cluster()
    yield made
    for node in made:
        node.close()


@pytest.fixture
def scripted(tmp_path: Path, nodes: list[ScriptedNode]) -> Iterator[ScriptedFront]:
    """Puerta before them, and another cluster."""
    strangers = scripted_cluster()
    made = ScriptedFront(tmp_path, nodes, strangers)
    with made.running:
        yield made
        assert "Traceback" not in made.running.text(), made.running.text()
    for node in strangers:
        node.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Starts Puerta before a cluster of the test's own that does as it is told; once in a test."""
    with contextlib.ExitStack() as stack:

        def make(nodes: Nodes | None = None, more: str = "", **options: Any) -> Stage:
            return stack.enter_context(Stage(tmp_path, nodes or Nodes(), more, **options))

        yield make


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Puerta before such a cluster for all tests of a module; to be had as `calm`."""
    with Stage(tmp_path_factory.mktemp("shared"), Nodes()) as found:
        yield found


@pytest.fixture
def calm(shared: Stage) -> Iterator[Stage]:
    """For tests after which all nodes are where they were; what the worker learned of their slots is not for the next."""
    yield shared
    for wire in shared.wires:
        wire.close()
    shared.nodes.reset()
