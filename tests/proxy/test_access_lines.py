"""The access log: one line for each connection, the same fields in both formats."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from puerta.board import CLOSE_REASONS, FOUND
from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import ended, hello, receive, receive_all

pytestmark = pytest.mark.dataplane

FIELDS = [
    "pid", "route", "client", "key", "found", "backend", "queue_ms", "connect_ms", "first_byte_ms", "duration_ms",
    "bytes_in", "bytes_out", "close_reason",
]  # fmt: skip
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def start(backend: Make, tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """A server with these options, in front of one backend that answers 5 bytes."""
    running: list[Front] = []

    def begin(*, affinity: dict[str, Any] | None = None, **top: Any) -> Front:
        greet = backend(lambda sock: (sock.sendall(b"12345"), receive_all(sock)))
        entry = route("mongo", greet, mode="mongodb", **({"affinity": affinity} if affinity else {}))
        front = Front(tmp_path, entry, **top)
        running.append(front.__enter__())
        return running[-1]

    yield begin
    for front in running:
        front.__exit__(None, None, None)


def talk(front: Front, application: str = "x") -> str:
    with front.connect("mongo", hello(application)) as client:
        assert receive(client, 5) == b"12345"
        return named(client)


def test_a_line_of_json(start: Callable[..., Front]) -> None:
    front = start()
    worker = front.worker(0)
    line = front.access(talk(front))
    assert list(line) == ["time", "level", *FIELDS]
    assert re.fullmatch(TIME, line["time"])
    assert (line["pid"], line["route"], line["backend"]) == (worker, "mongo", front.routes["mongo"]["backends"][0]["address"])
    assert re.fullmatch("[0-9a-f]{32}", line["key"])
    assert (line["bytes_in"], line["bytes_out"], line["close_reason"]) == (len(hello("x")), 5, "client_closed")
    steps = [line[name] for name in ("queue_ms", "connect_ms", "first_byte_ms")]
    assert min(steps) >= 0 and sum(steps) <= line["duration_ms"] + 0.3


def test_a_line_of_text(start: Callable[..., Front]) -> None:
    front = start(log={"format": "text"})
    name = talk(front)
    with front.connect("mongo", b"GET / HTTP/1.1\r\n\r\n") as client:
        refused = named(client)
        ended(client)
    front.wait_log("close_reason=", 2)
    lines = [line for line in front.text().splitlines() if " access  " in line]
    first, second = (next(line for line in lines if f"client={each} " in line) for each in (name, refused))
    for line in (first, second):
        stamp, level, *fields = line.split()
        assert re.fullmatch(TIME, stamp) and level == "access"
        assert [field.partition("=")[0] for field in fields] == FIELDS
    assert "close_reason=client_closed" in first and f"bytes_in={len(hello('x'))} bytes_out=5" in first
    assert "key=- found=none backend=- queue_ms=- connect_ms=- first_byte_ms=- " in second
    assert second.endswith("close_reason=protocol_error")


def test_how_a_backend_was_found(start: Callable[..., Front]) -> None:
    front = start()
    assert [front.access(talk(front, "a"))["found"] for _ in range(3)] == ["claimed", "hit", "hit"]
    assert front.route("mongo")["found"] == {"hit": 2, "claimed": 1, "moved": 0, "hash": 0, "none": 0}
    assert set(front.route("mongo")["found"]) == set(FOUND)
    assert set(front.route("mongo")["closed"]) == set(CLOSE_REASONS)


def test_a_backend_found_without_the_store(start: Callable[..., Front]) -> None:
    front = start(store={"url": "redis://127.0.0.1:1"})
    assert front.access(talk(front, "a"))["found"] == "hash"


def test_a_backend_found_without_affinity(start: Callable[..., Front]) -> None:
    front = start(affinity={"by": "none"})
    line = front.access(talk(front, "a"))
    assert (line["found"], line["key"]) == ("none", None)


def test_the_access_log_can_be_off(start: Callable[..., Front]) -> None:
    front = start(log={"access": False, "format": "json"})
    for _ in range(3):
        talk(front)
    assert front.quiet("mongo")["connections_total"] == 3
    assert "client_closed" not in front.text()


def test_lines_of_the_last_moment_are_written(start: Callable[..., Front]) -> None:
    front = start()
    with front.connect("mongo", hello("x")) as client:
        receive(client, 5)
        name = named(client)
        front.stop()
    line = front.access(name)
    assert line["close_reason"] in ("drained", "stopped")


