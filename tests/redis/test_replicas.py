"""Reads by replicas: only what only reads, only on connections that said so, and masters for everything else."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from playground.cluster import ValkeyCluster
from playground.servers import Valkey
from tests.harness import Running, free_port, wait_for
from tests.redis.nodes import SILENCE, Node, Nodes, Peer, Script, Words
from tests.redis.scripts import moved
from tests.redis.stage import CONFIG, Stage
from tests.redis.wire import Wire, array, bulk, decoded, request

Staged = Callable[..., Stage]

REPLICAS = "read_from: replicas"


def begun(node: Node) -> list[list[Words]]:
    """What was said on each open connection of a worker."""
    return [peer.said for peer in node.peers if peer.worker]


@pytest.mark.dataplane
def test_readonly_comes_first_on_every_connection_to_a_replica(stage: Staged) -> None:
    """Behind HELLO and AUTH; again on connections that replace lost ones; and on none to a master."""
    nodes = Nodes(2, 1)
    one = stage(nodes, f"{REPLICAS}\n    auth: {{username: me, password: secret}}")
    key = next(nodes.keys(0))
    nodes.memory[key] = b"v"
    for _ in range(2):
        for protocol in (2, 3):
            wire = one.connect(protocol)
            assert wire.ask("SET", key, "v") == b"+OK\r\n"
            before = len(nodes[2].said(b"GET"))  # one that was lost is left alone for a moment
            wait_for(lambda: wire.ask("GET", key) == bulk("v") and len(nodes[2].said(b"GET")) > before, "it is asked")  # noqa: B023
        hello = [[b"HELLO", b"3", b"AUTH", b"me", b"secret"], [b"READONLY"], [b"GET", key]]
        auth = [[b"AUTH", b"me", b"secret"], [b"READONLY"], [b"GET", key]]
        assert sorted(said[:3] for said in begun(nodes[2])) == [auth, hello]
        assert not nodes[0].said(b"READONLY") and len(nodes[0].said(b"SET")) > 0
        nodes[2].drop()
        wait_for(lambda: not begun(nodes[2]), "its connections are lost")


def flagged(server: Valkey) -> dict[bytes, set[str]]:
    """The flags of all commands that name keys, from the server itself; subcommands as `xgroup|create`."""
    connection = server_connection(server)
    try:
        connection.send_command("COMMAND")
        listed = connection.read_response()
    finally:
        connection.disconnect()
    found = {}
    for name, arity, flags, first, *_, subcommands in listed:
        for row in subcommands or [[name, arity, flags, first]]:
            words = {flag.decode() for flag in row[2]}
            if row[3] > 0 or "movablekeys" in words:
                found[row[0]] = words | {f"arity {abs(row[1])}"}
    return found


def server_connection(server: Valkey) -> Any:
    connection: Any = redis.Connection(host="127.0.0.1", port=server.port)  # type: ignore[no-untyped-call]
    connection.connect()
    return connection


def test_nothing_that_may_write_goes_to_a_replica(stage: Staged, server: Valkey) -> None:
    """By the flags of the server itself, not by our own table of commands."""
    nodes = Nodes(1, 1)
    one = stage(nodes, REPLICAS)
    known = flagged(server)
    reads = {name.partition(b"|")[0].upper() for name, flags in known.items() if "readonly" in flags}
    assert {b"getset", b"xadd", b"eval", b"getex", b"get", b"xgroup|create", b"sort", b"sort_ro"} <= known.keys()
    wire = one.connect()
    for name, flags in known.items():
        if name in (b"ssubscribe", b"sunsubscribe"):
            continue
        (arity,) = (int(flag.split()[1]) for flag in flags if flag.startswith("arity"))
        words = [*name.split(b"|")]
        if "movablekeys" in flags and name not in (b"sort", b"sort_ro", b"xread", b"xreadgroup", b"migrate"):
            words += [b"s", b"1", b"k"] if b"eval" in name or b"fcall" in name else [b"1", b"k", b"1", b"k"]
        words += [b"k"] * (arity - len(words))
        wire.send(request(*words) + request("RESET"))
        assert wire.frame() and wire.frame() == b"+RESET\r\n", name
    assert wire.pipeline([("MULTI",), ("GET", "k"), ("EXEC",)])[2] == b"+OK\r\n"
    heard = {words[0].upper() for words in nodes[1].said()}
    assert heard <= reads | {b"READONLY"}
    assert {b"GET", b"MGET", b"HGETALL", b"ZRANGE", b"EVAL_RO", b"SORT_RO"} <= heard
    written = {words[0].upper() for words in nodes[0].said()}
    assert {b"GETSET", b"XADD", b"EVAL", b"GETEX", b"SORT", b"SET", b"MULTI", b"EVALSHA", b"FCALL"} <= written


def test_replicas_take_turns_and_any_means_the_master_too(stage: Staged) -> None:
    nodes = Nodes(1, 2)
    one = stage(nodes, "read_from: any")
    wire = one.connect()
    assert wire.pipeline([("GET", "k")] * 30) == [b"$-1\r\n"] * 30
    assert [len(node.said(b"GET")) for node in nodes.all] == [10, 10, 10]


def test_a_replica_that_sends_away_or_is_not_ready(stage: Staged) -> None:
    """MOVED leads to the master that it names; who is not ready is asked again, and then the master is."""
    nodes = Nodes(2, 1)
    one = stage(nodes, REPLICAS)
    away, loading, down, far = itertools.islice(nodes.keys(0), 4)
    lines = {
        away: moved(away, nodes[0]),
        loading: b"-LOADING Redis is loading the dataset in memory\r\n",
        down: b"-MASTERDOWN Link with MASTER is down\r\n",
        far: moved(far, nodes[1]),
    }
    nodes[2].script = lambda peer, words: lines.get(words[1]) if len(words) > 1 else None
    wire = one.connect()
    nodes.memory.update({key: b"of " + key for key in lines})
    assert wire.pipeline([("GET", key) for key in lines]) == [bulk(b"of " + key) for key in lines]
    assert {words[1] for words in nodes[0].said(b"GET")} == {away, loading, down}
    assert nodes[1].said(b"GET") == [[b"GET", far]], "the slot's new master itself, not a replica of its"
    assert wire.ask("MGET", away, loading, far) == array([bulk(b"of " + key) for key in (away, loading, far)])


def test_a_read_that_its_replica_puts_off_later_than_the_master_the_write_behind_it(stage: Staged) -> None:
    """Neither waits for the other; nor for a transaction."""
    nodes = Nodes(2, 1)
    one = stage(nodes, REPLICAS)
    key = next(nodes.keys(0))
    tries = {number: 0 for number in (0, 2)}

    def script(number: int) -> Script:
        def answer(peer: Peer, words: Words) -> bytes | None:
            if words[0] == b"EXEC" and tries[number] == 1:
                return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
            if words[1:2] != [key]:
                return None
            tries[number] += 1
            if number == 2 and tries[2] == 1:
                time.sleep(0.01)
            return b"-CLUSTERDOWN The cluster is down\r\n" if tries[number] == 1 else None

        return answer

    nodes[0].script, nodes[2].script = script(0), script(2)
    wire = one.connect()
    write: list[tuple[bytes | str | int, ...]] = [("SET", key, "1")]
    for asked in (write, [("MULTI",), *write, ("EXEC",)]):
        tries.update({0: 0, 2: 0})
        said = wire.pipeline([("GET", key), *asked, ("GET", key)])
        assert said[-2] == b"+OK\r\n" and said[0][:1] == said[-1][:1] == b"$"


@pytest.mark.dataplane
def test_without_its_replica_a_master_answers_reads(stage: Staged) -> None:
    """Also those that were in flight when the replica died."""
    nodes = Nodes(2, 1)
    one = stage(nodes, REPLICAS)
    key = next(nodes.keys(0))
    nodes.memory[key] = b"v"
    wires = [one.connect(2 + number % 2) for number in range(4)]
    assert wires[0].ask("GET", key) == bulk("v")
    nodes[2].script = lambda peer, words: SILENCE if words[0] == b"GET" else None
    for wire in wires:
        wire.send(request("GET", key) * 5)
    wait_for(lambda: len(nodes[2].said(b"GET")) == 21, "the replica has them all")
    nodes[2].kill()
    for wire in wires:
        assert wire.frames(5) == [bulk("v")] * 5
        assert wire.pipeline([("GET", key)] * 5) == [bulk("v")] * 5
    assert len(nodes[0].said(b"GET")) == 40
    nodes[2].script = None
    nodes[2].start()
    before = len(nodes[2].said(b"GET"))
    wait_for(lambda: wires[0].ask("GET", key) and len(nodes[2].said(b"GET")) > before, "the replica is asked again")


def test_master_and_replica_change_places(stage: Staged) -> None:
    """On connections that are open: the old master is told READONLY before it is asked as a replica."""
    nodes = Nodes(2, 1)
    one = stage(nodes, f"{REPLICAS}\n    topology_refresh: 1s")
    key = next(nodes.keys(0))
    old, new = nodes[0], nodes[2]
    wires = [one.connect(protocol) for protocol in (2, 3)]
    for wire in wires:
        assert wire.ask("SET", key, "1") == b"+OK\r\n" and wire.ask("GET", key) == bulk("1")
    slots = nodes.places[0].slots
    nodes.say(old, slots=(), master=new)
    nodes.say(new, slots=slots, master=None)

    def refuse(peer: Peer, words: Words) -> bytes | None:
        """As a replica does."""
        ready = words[0] != b"GET" or [b"READONLY"] in peer.said
        return None if ready and words[0] != b"SET" else moved(key, new)

    old.script = refuse
    wires[0].ask("SET", key, "2")
    old.ran.clear()
    for wire in wires:
        wait_for(lambda wire=wire: wire.ask("GET", key) and old.said(b"GET"), "it is asked as a replica")  # type: ignore[misc]
        assert wire.ask("SET", key, "3") == b"+OK\r\n" and wire.ask("GET", key) == bulk("3")
    assert old.said(b"READONLY") and not old.said(b"SET")
    for said in begun(old):
        at = said.index([b"READONLY"])
        assert [b"GET", key] not in said[:at] and [b"SET", key, b"1"] not in said[at:]


def test_real_replicas_answer(tmp_path: Path) -> None:
    port = free_port()
    with ValkeyCluster(masters=1, replicas=1) as cluster:
        master, replica = cluster.nodes
        with Running(tmp_path, CONFIG.format(port=port, seeds=master.address, more=REPLICAS)):
            for protocol in (2, 3):
                with Wire(port) as wire:
                    wire.ask("HELLO", protocol)
                    asked = [("SET", f"k{number}", number) for number in range(100)]
                    assert wire.pipeline(asked) == [b"+OK\r\n"] * 100
                    assert wire.ask("WAIT", 1, 5000) == b":1\r\n"
                    said = wire.pipeline([("GET", f"k{number}") for number in range(100)])
                    assert [decoded(reply) for reply in said] == [b"%d" % number for number in range(100)]
            calls = [
                node.client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"] for node in (master, replica)
            ]
            assert calls == [0, 200]
