"""Replies of every kind and length, whole and in pieces, reach the client as a server would send them."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from playground.cluster import ValkeyCluster
from playground.servers import Valkey
from tests.harness import Running, free_port
from tests.redis.compare import check, run
from tests.redis.conftest import Front
from tests.redis.cutter import Cutter
from tests.redis.programs import Programs
from tests.redis.wire import Wire, request

pytestmark = pytest.mark.dataplane

CONFIG = """
workers: 1
log: {{access: false}}
routes:
  - name: cache
    mode: redis
    listen: 127.0.0.1:{port}
    cluster: [127.0.0.1:{node}]
"""

KINDS = {
    "null": "return false",
    "nothing": "return nil",
    "status": "return redis.status_reply('FINE')",
    "error": "return redis.error_reply('MY own')",
    "empty": "return {}",
    "nested": "return {1, {'a', {}, {false, {3}}}, redis.status_reply('x')}",
    "deep": "local t = {1} for i = 1, 200 do t = {t, i} end return t",
    "wide": "local t = {} for i = 1, 7000 do t[i] = {i, tostring(i)} end return t",
    "double": "redis.setresp(3) return {double=3.25}",
    "big number": "redis.setresp(3) return {big_number='" + "1234567890" * 9 + "'}",
    "verbatim": "redis.setresp(3) return {verbatim_string={format='txt', string='a\\r\\nb'}}",
    "map": "redis.setresp(3) return {map={a=1}}",
    "set": "redis.setresp(3) return {set={a=true}}",
    "booleans": "redis.setresp(3) return {true, false}",
    "mixed": "redis.setresp(3) return {{map={a={set={b=true}}}}, {double=1.5}, {big_number='7'}, false, 'x', 5, {map={}}}",
    "long": "return string.rep('\\r\\n$-1\\r\\n', 50000)",
    "long list": "local t = {} for i = 1, 60 do t[i] = string.rep('*3\\r\\n', i * 97) end return {t, t}",
    "long, then nothing": "return {string.rep('x', 100000), {}, false}",
    "many empty": "local t = {} for i = 1, 40000 do t[i] = '' end return t",
}


class Cut(NamedTuple):
    port: int
    cutter: Cutter


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cut]:
    """Puerta before a cluster of one node, whose replies come in pieces."""
    port, announced = free_port(), free_port()
    options = ("--cluster-announce-port", str(announced), "--cluster-announce-ip", "127.0.0.1")
    with ValkeyCluster(masters=1, options=options) as cluster, Cutter(announced, cluster.masters[0].port, 1) as cutter:
        running = Running(tmp_path_factory.mktemp("cut"), CONFIG.format(port=port, node=announced))
        with running:
            yield Cut(port, cutter)
            assert "failed and was closed" not in running.text(), running.text()


def asked(source: random.Random) -> list[tuple[str, ...]]:
    """Every kind, in any order, with small replies and replies taken apart between them."""
    found = [("EVAL", script, "0") for script in KINDS.values()] * 2
    found += [("PING",), ("GET", "nosuch"), ("MGET", "a", "b", "c"), ("ECHO", "x"), ("NOSUCH",)] * 4
    source.shuffle(found)
    return found


@pytest.mark.parametrize("protocol", [2, 3])
def test_every_kind_of_reply(front: Front, server: Valkey, protocol: int) -> None:
    with Wire(front.port) as wire, Wire(server.port) as other:
        for each in (wire, other):
            each.ask("HELLO", protocol)
        for name, script in KINDS.items():
            for command in (("EVAL", script, "0"), ("EVAL", script, "1", "k"), ("EVAL_RO", script, "1", "{k}2")):
                assert wire.ask(*command) == other.ask(*command), name


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_in_pieces(cut: Cut, server: Valkey, protocol: int) -> None:
    """Four clients share the node's connection: each gets its own, whole and in order."""
    source = random.Random(protocol)
    wires = [Wire(cut.port) for _ in range(4)]
    before = cut.cutter.pieces
    with Wire(server.port) as other:
        for each in (*wires, other):
            each.ask("HELLO", protocol)
        programs = [asked(source) for _ in wires]
        for wire, commands in zip(wires, programs, strict=True):
            wire.send(b"".join(request(*command) for command in commands))
        for wire, commands in zip(wires, programs, strict=True):
            assert wire.frames(len(commands)) == other.pipeline(commands)
            wire.close()
    assert cut.cutter.pieces - before > 500


def test_programs_in_pieces(cut: Cut, server: Valkey) -> None:
    """Requests and replies: see test_differential."""
    programs = Programs(500, without=("OBJECT ENCODING",))
    for batch in range(3):
        steps = [programs.program(f"c{batch}.{number}.", 60) for number in range(6)]
        ours, theirs = [Wire(cut.port) for _ in steps], [Wire(server.port) for _ in steps]
        got, wanted = run(ours, steps, random.Random(batch)), run(theirs, steps)
        for number, program in enumerate(steps):
            check(program, got[number], wanted[number], f"batch {batch}, program {number}")
        for wire in (*ours, *theirs):
            wire.close()


def test_a_client_that_leaves_within_a_long_reply(cut: Cut) -> None:
    """What is left of it is for nobody, and the next reply on the connection is the next one's."""
    with Wire(cut.port) as other:
        for number in range(10):
            gone = Wire(cut.port)
            gone.send(
                request("EVAL", KINDS["long"], "0") + request("ECHO", "x") * 3 + request("EVAL", KINDS["wide"], "0")
            )
            if number % 2:
                gone.fill()
            gone.close()
            assert other.pipeline([("SET", "a", number), ("GET", "a")])[1] == b"$1\r\n%d\r\n" % number
