"""An error of ours in one session ends that session, is counted and told, and nobody else notices."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.launch import STEPS
from tests.proxy.peers import Backend, ended, hello, receive, receive_all

pytestmark = pytest.mark.dataplane


@pytest.fixture(scope="module")
def held(backend: Make) -> Backend:
    return backend()


@pytest.fixture(scope="module")
def front(held: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    mongo = route("mongo", held, mode="mongodb")
    with Front(
        tmp_path_factory.mktemp("faulty"), mongo, module="tests.proxy.launch", environ={"FAULTS": "1"}
    ) as running:
        with running.connect("mongo", hello("first")), held.take() as upstream:  # opens the store's connections
            receive(upstream, 1)
        running.quiet("mongo")
        yield running


@pytest.mark.parametrize("step", STEPS)
def test_a_fault_ends_its_session_alone(front: Front, held: Backend, step: str) -> None:
    worker = front.worker(0)
    faults = front.route("mongo")["closed"]["internal_error"]
    descriptors = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    with front.connect("mongo", hello("well")) as well, held.take() as well_upstream:
        receive(well_upstream, len(hello("well")))
        for attempt in range(2):  # the second client of a name is placed without the store
            with front.connect("mongo", hello(f"fail in {step}")) as client:
                if step in ("on_half", "on_end", "summary"):
                    with held.take() as upstream:
                        receive(upstream, len(hello(f"fail in {step}")))
                        client.sendall(b"x")
                        receive(upstream, 1)
                else:
                    ended(client)
            front.counted("mongo", **({} if step == "summary" else {"internal_error": faults + attempt + 1}))
        well.sendall(b"and on")
        assert receive(well_upstream, 6) == b"and on"
        name = named(well)
        well.shutdown(socket.SHUT_WR)
        assert receive_all(well_upstream) == b""
    assert front.access(name)["close_reason"] == "client_closed"
    assert front.quiet("mongo")["backends"][0]["connections"] == 0
    told = [line for line in front.lines() if f"Fault: {step}" in line.get("exception", "")]
    assert {line["level"] for line in told} == {"error"}
    assert len(told) >= 2
    assert front.worker(0) == worker
    wait_for(lambda: len(list(Path(f"/proc/{worker}/fd").iterdir())) <= descriptors, "no descriptor is left open")
