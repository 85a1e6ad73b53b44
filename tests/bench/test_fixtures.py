"""The benchmark's own servers and loads, for real: what they claim must be so."""

import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import bson
import pytest

from bench import load, programs
from bench.backends import Backend, Keys, ask, open_cluster, open_hello, open_single
from bench.load import LoadFailed
from playground.servers import free_port

KEYS = Keys("key", 50, 3)


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    with open_hello(programs.build_hello(tmp_path_factory.mktemp("hello"))) as backend:
        yield backend


def test_hello_is_answered_on_every_port_in_both_dialects(hello: Backend) -> None:
    query = Path(hello.files["request"]).read_bytes()
    body = struct.pack("<i", 0) + b"\0" + bson.encode({"hello": 1, "$db": "admin"})
    msg = struct.pack("<iiii", 16 + len(body), 99, 0, 2013) + body
    assert len(hello.ports) == 3
    for port in hello.ports:
        with socket.create_connection(("127.0.0.1", port), 5) as peer, peer.makefile("rb") as stream:
            peer.sendall(query[:20])
            peer.sendall(query[20:] + msg)
            for wanted, opcode, skipped in ((7, 1, 20), (99, 2013, 5)):
                length, _, response_to, got = struct.unpack("<iiii", stream.read(16))
                assert (response_to, got) == (wanted, opcode)
                assert bson.decode(stream.read(length - 16)[skipped:])["msg"] == "isdbgrid"


def test_the_hello_load_counts_what_it_did(hello: Backend) -> None:
    said = load.hello(hello.files["program"], hello.files["request"], hello.ports[0], 0.2, 4, 4)
    assert said.operations > 4
    assert 0 < said.seconds < 5
    assert 0 < said.p50_ms <= said.p99_ms


def test_the_hello_load_fails_where_nobody_answers(hello: Backend) -> None:
    with pytest.raises(LoadFailed):
        load.hello(hello.files["program"], hello.files["request"], free_port(), 0.2, 4, 4)


def test_connections_are_held_and_each_must_be_served() -> None:
    with open_single((KEYS,)) as backend:
        port = backend.ports[0]
        before, _ = backend.served()
        with load.held(port, 5, "key:000000000000"):
            clients = ask(port, "CLIENT", "LIST").decode().splitlines()
            assert len(clients) >= 6  # and the one that asks
        assert backend.served()[0] - before == 10
        with pytest.raises(LoadFailed, match="of 5"), load.held(port, 5, "no-such-key"):
            pass


def test_a_lost_connection_is_noticed() -> None:
    with open_single((KEYS,)) as backend, pytest.raises(LoadFailed), load.held(backend.ports[0], 5, "key:000000000000"):
        ask(backend.ports[0], "CLIENT", "KILL", "TYPE", "normal")


def test_the_cluster_holds_every_key_on_the_master_of_its_slot() -> None:
    with open_cluster((KEYS,)) as backend:
        assert sum(int(ask(port, "DBSIZE")) for port in backend.ports) == KEYS.count
        assert all(int(ask(port, "DBSIZE")) > 0 for port in backend.ports)
        assert int(ask(backend.single, "DBSIZE")) == KEYS.count
        assert len(backend.counted) == 4
