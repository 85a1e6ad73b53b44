"""Two machines that most end-to-end tests share, for starting them takes longer than a test."""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from playground.servers import Server, Valkey, several
from tests.e2e.machines import Machine
from tests.e2e.peers import PASSWORD, USER, Backend, Scripted, client


@pytest.fixture(scope="session")
def mongos() -> Iterator[list[Server]]:
    with several([Backend(), Backend()]) as servers:
        yield servers


@pytest.fixture(scope="session")
def guarded() -> Iterator[list[Server]]:
    """Two servers that demand authentication."""
    with ExitStack() as stack:
        servers = [with_user(stack), with_user(stack)]
        for server in servers:
            server.auth = True
            server.start()
        yield list(servers)


def with_user(stack: ExitStack) -> Backend:
    """A server that has learned its user in a run without authentication, and has stopped.

    A killed one would forget what it has not yet written; one that does not stop when told to is left, and another made.
    """
    for _ in range(3):
        server = Backend()
        stack.callback(server.stop)
        server.start()
        with client(server.port, "provision") as mongo:
            mongo.admin.command("createUser", USER, pwd=PASSWORD, roles=["root"])
        assert server.process is not None
        server.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(10)
            return server
    raise AssertionError("the server does not stop when told to")


@pytest.fixture(scope="session")
def scripted() -> Iterator[list[Scripted]]:
    with Scripted() as one, Scripted() as two, Scripted() as three:
        yield [one, two, three]


@pytest.fixture(scope="session")
def store() -> Iterator[Server]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def machines(
    tmp_path_factory: pytest.TempPathFactory,
    mongos: list[Server],
    guarded: list[Server],
    scripted: list[Scripted],
    store: Server,
) -> Iterator[list[Machine]]:
    """Two machines with one store. The route `crowd` proposes another backend at every turn: there only the store's
    word can make workers agree. On `brief` agreements last two seconds."""
    directory = tmp_path_factory.mktemp("machines")
    three = [each.address for each in scripted]
    routes: dict[str, dict[str, Any]] = {
        "mongo": {"backends": [server.address for server in mongos]},
        "guarded": {"backends": [server.address for server in guarded]},
        "crowd": {"backends": three, "balance": "round-robin"},
        "brief": {"backends": three, "affinity": 'session_pattern: "@(.*)", ttl: 2s'},
    }
    with ExitStack() as stack:
        made = [
            Machine(
                directory / name,
                routes={key: dict(options) for key, options in routes.items()},
                name=name,
                store=f"redis://{store.address}",
            ).start()
            for name in ("east", "west")
        ]
        for machine in made:
            stack.callback(machine.end)
        for machine in made:
            stack.enter_context(machine)
        yield made
