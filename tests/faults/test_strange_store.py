"""A store that is none, and events that are none: neither stops a worker from serving, asking and listening."""

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from playground.servers import Valkey, free_port
from tests.e2e.machines import Machine
from tests.e2e.peers import Raw, Scripted, home_of, key_of
from tests.faults.load import Known, Load
from tests.harness import wait_for

NONSENSE = (
    b"-ERR no\r\n" * 9,
    b"-NOSCRIPT none\r\n" * 9,
    b"+OK\r\n" * 9,
    b":1\r\n" * 9,
    b"$-1\r\n" * 9,
    b"$3\r\nfoo\r\n" * 9,
    b"*2\r\n$3\r\nfoo\r\n:0\r\n" * 9,
    b"*2\r\n$2\r\n\xff\xfe\r\n:7\r\n" * 9,
    b"*-1\r\n" * 9,
    b"*1\r\n" * 500,
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00\xff\x80" * 100,
    b"\r\n\r\n",
    b"",
)


@pytest.fixture
def scripted() -> Iterator[list[Scripted]]:
    with Scripted() as one, Scripted() as two:
        yield [one, two]


class Nonsense:
    """Answers whatever it is sent with the next piece of nonsense; each connection goes on where the last one was."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        self.replies = itertools.cycle(NONSENSE)
        self.given = 0
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self.open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted = self.listener.accept()[0]
                self.open.append(accepted)
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), accepted:
            accepted.recv(65536)
            accepted.sendall(b"+OK\r\n" * 3)  # let it begin, for what is said to be a start
            while accepted.recv(65536):
                reply = next(self.replies)
                self.given += 1
                if not reply:
                    return
                accepted.sendall(reply)


def test_store_that_talks_nonsense(tmp_path: Path, scripted: list[Scripted]) -> None:
    port = free_port()
    nonsense = Nonsense(port)
    addresses = [each.address for each in scripted]
    machine = Machine(tmp_path, addresses, store=f"redis://127.0.0.1:{port}", store_timeout="100ms")
    with machine, Load([machine.port], threads=3, name="talk") as load:
        known = Known([machine.port], "app@known", 4)
        wait_for(lambda: nonsense.given >= 2 * len(NONSENSE), "it has said everything twice", 60)
        assert known.is_well()
        assert known.backends == {home_of("app@known", addresses)}
        nonsense.stop()
        with Valkey(port) as store, redis.Redis(port=port, decode_responses=True) as client:
            wait_for(lambda: machine.status()["store"]["state"] == "up", "the workers see a real one")
            with Raw(machine.port, "app@real") as raw:
                assert client.get(f"puerta:affinity:mongo:{key_of('app@real').hex()}") == raw.backend
            assert store.process is not None and store.process.poll() is None
        assert known.is_well()
        known.close()
    print(f"{nonsense.given} pieces of nonsense, {len(load.visits)} clients, slowest {load.slowest() * 1000:.0f} ms")
    assert not load.failed()
    assert load.slowest() < 0.6


def test_events_that_are_none(tmp_path: Path, scripted: list[Scripted]) -> None:
    name, addresses = "app@moved", [each.address for each in scripted]
    with Valkey() as store, redis.Redis(port=store.port, decode_responses=True) as client:
        machine = Machine(tmp_path, addresses, store=f"redis://{store.address}")
        with machine:
            known = Known([machine.port], name, 6)
            other = next(address for address in addresses if address not in known.backends)
            key = key_of(name).hex()
            wait_for(lambda: client.pubsub_numsub("puerta:events")[0][1] == 3, "two workers and the supervisor listen")
            moved = {"event": "moved", "route": "mongo", "key": key, "backend": other}
            for event in (
                "", "no json", "[]", "null", "7", '{"event": "moved"}', "{" * 3000, "[" * 4000, "x" * 100000, b"\xff\xfe",
                json.dumps({**moved, "key": "zz"}), json.dumps({**moved, "key": 5}), json.dumps({**moved, "key": None}),
                json.dumps({**moved, "route": ["mongo"]}), json.dumps({**moved, "route": "none"}),
                json.dumps({"event": "verdict", "route": "mongo", "backend": 5, "state": "down"}),
                json.dumps({**moved, "key": "00" * 5000}),
            ):  # fmt: skip
                client.publish("puerta:events", event)
            assert known.is_well()
            client.set(f"puerta:affinity:mongo:{key}", other)
            client.publish("puerta:events", json.dumps(moved))
            wait_for(lambda: not any(raw.is_open() for raw in known.held), "it was moved, by an event that is one")
            with Raw(machine.port, name) as raw:
                assert raw.backend == other
            assert {each["state"] for each in machine.status()["workers"]} == {"up"}
        assert {line["close_reason"] for line in machine.access() if line["key"] == key} == {"moved", "client_closed"}
        assert "Traceback" not in machine.text()
