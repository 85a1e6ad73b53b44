"""The access log: one line for each connection, the same fields in both formats."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from puerta.board import CLOSE_REASONS, FOUND
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import ended, hello, receive, receive_all

pytestmark = pytest.mark.dataplane

FIELDS = [
    "pid", "route", "client", "key", "found", "backend", "queue_ms", "connect_ms", "first_byte_ms", "duration_ms",
    "bytes_in", "bytes_out", "close_reason",
]  # fmt: skip
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def greet(sock: socket.socket) -> None:
    sock.sendall(b"12345")
    receive_all(sock)


@pytest.fixture(scope="module")
def front(backend: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    keyless = route("keyless", backend(greet), mode="mongodb", affinity={"by": "none"})
    with Front(tmp_path_factory.mktemp("lines"), route("mongo", backend(greet), mode="mongodb"), keyless) as running:
        yield running


def talk(front: Front, application: str = "x", name: str = "mongo") -> str:
    with front.connect(name, hello(application)) as client:
        assert receive(client, 5) == b"12345"
        return named(client)


def test_a_line_of_json(front: Front) -> None:
    line = front.access(talk(front))
    assert list(line) == ["time", "level", *FIELDS]
    assert re.fullmatch(TIME, line["time"])
    assert (line["pid"], line["route"]) == (front.worker(0), "mongo")
    assert line["backend"] == front.routes["mongo"]["backends"][0]["address"]
    assert re.fullmatch("[0-9a-f]{32}", line["key"])
    assert (line["bytes_in"], line["bytes_out"], line["close_reason"]) == (len(hello("x")), 5, "client_closed")
    steps = [line[name] for name in ("queue_ms", "connect_ms", "first_byte_ms")]
    assert min(steps) >= 0 and sum(steps) <= line["duration_ms"] + 0.3


def test_how_a_backend_was_found(front: Front) -> None:
    before = front.route("mongo")["found"]
    assert [front.access(talk(front, "found"))["found"] for _ in range(3)] == ["claimed", "hit", "hit"]
    after = front.route("mongo")["found"]
    assert {name: after[name] - before[name] for name in FOUND} == {
        "hit": 2,
        "claimed": 1,
        "moved": 0,
        "hash": 0,
        "none": 0,
    }
    assert set(front.route("mongo")["closed"]) == set(CLOSE_REASONS)


def test_a_client_without_affinity_has_no_key(front: Front) -> None:
    line = front.access(talk(front, name="keyless"))
    assert (line["found"], line["key"]) == ("none", None)


def test_lines_of_text_and_a_store_that_is_down(backend: Make, tmp_path: Path) -> None:
    mongo, store = route("mongo", backend(greet), mode="mongodb"), {"url": "redis://127.0.0.1:1"}
    with Front(tmp_path, mongo, log={"format": "text"}, store=store) as front:
        served = talk(front)
        with front.connect("mongo", b"GET / HTTP/1.1\r\n\r\n") as client:
            refused = named(client)
            ended(client)
        front.wait_log("close_reason=", 2)
    lines = [line for line in front.text().splitlines() if " access  " in line]
    first, second = (next(line for line in lines if f"client={each} " in line) for each in (served, refused))
    for line in (first, second):
        stamp, level, *fields = line.split()
        assert re.fullmatch(TIME, stamp) and level == "access"
        assert [field.partition("=")[0] for field in fields] == FIELDS
    assert " found=hash " in first
    assert f" bytes_in={len(hello('x'))} bytes_out=5 close_reason=client_closed" in first
    assert " key=- found=none backend=- queue_ms=- connect_ms=- first_byte_ms=- " in second
    assert second.endswith(" close_reason=protocol_error")


def test_the_access_log_can_be_off(backend: Make, tmp_path: Path) -> None:
    log = {"access": False, "format": "json"}
    with Front(tmp_path, route("mongo", backend(greet), mode="mongodb"), log=log) as front:
        for _ in range(3):
            talk(front)
        assert front.quiet("mongo")["connections_total"] == 3
    assert "client_closed" not in front.text()


def test_lines_of_the_last_moment_are_written(backend: Make, tmp_path: Path) -> None:
    with Front(tmp_path, route("mongo", backend(greet), mode="mongodb")) as front:
        with front.connect("mongo", hello("x")) as client:
            receive(client, 5)
            name = named(client)
            front.stop()
        assert front.access(name)["close_reason"] in ("drained", "stopped")
