"""Nodes that die, hang or leave: each call gets one answer, in its place, and whoever did not call them notices nothing."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from puerta.protocol.slots import slot_of
from tests.harness import wait_for
from tests.redis.nodes import SILENCE, Node, Nodes, Peer, Place, Words
from tests.redis.stage import Stage
from tests.redis.wire import bulk, request

Staged = Callable[..., Stage]


def lost(node: Node) -> bytes:
    return b"-ERR the connection to node %s was lost\r\n" % node.address.encode()


def unreachable(node: Node) -> bytes:
    return b"-CLUSTERDOWN node %s can't be reached\r\n" % node.address.encode()


def in_time(condition: Callable[[], object], what: str, seconds: float) -> None:
    """`condition` comes true within so many seconds: part of what is promised."""
    wait_for(condition, what, seconds)


# -- calls in flight


@pytest.mark.dataplane
def test_a_node_that_dies_with_a_hundred_calls_in_flight(stage: Staged) -> None:
    """Of ten clients: what only reads is asked again, what may have been executed is not, and all connections stay."""
    nodes = Nodes()
    one = stage(nodes)
    keys = list(itertools.islice(nodes.keys(0), 10))
    near = next(nodes.keys(1))
    nodes.memory.update({key: b"0;" for key in keys} | {near: b"near"})

    def mute(peer: Peer, words: Words) -> bytes:
        nodes[0].execute(words[0], words)
        return SILENCE

    nodes[0].script = mute
    wires = [one.connect(2 + number % 2) for number in range(10)]
    hello = len(nodes[0].said())
    for wire, key in zip(wires, keys, strict=True):
        for number in range(5):
            wire.send(request("APPEND", key, f"{number + 1};") + request("GET", near) + request("GET", key))
    wait_for(lambda: len(nodes[0].said(b"APPEND", b"GET")) == 100, "all calls are with the node")
    nodes[0].script = None
    nodes[0].drop()
    for wire, key in zip(wires, keys, strict=True):
        assert wire.frames(15) == [lost(nodes[0]), bulk("near"), bulk("0;1;2;3;4;5;")] * 5
        assert wire.pipeline([("APPEND", key, "6;"), ("GET", key)]) == [b":14\r\n", bulk("0;1;2;3;4;5;6;")]
    assert hello <= 1
    assert len(nodes[0].said(b"APPEND")) == 60, "no write was sent twice"


@pytest.mark.dataplane
def test_what_had_not_left_is_sent_again(stage: Staged) -> None:
    """Even if it writes; the request of which only a part had left, too. What had left is not."""
    nodes = Nodes(receive=4096)
    one = stage(nodes)
    keys, near = list(itertools.islice(nodes.keys(0), 50)), next(nodes.keys(1))
    wire = one.connect()
    assert wire.ask("GET", keys[0]) == b"$-1\r\n"
    nodes[0].flowing.clear()
    value = b"x" * (256 << 10)
    wire.send(b"".join(request("APPEND", key, value) for key in keys) + request("GET", near))
    wait_for(lambda: nodes[1].said(b"GET"), "all were taken")
    nodes[0].drop(reset=False)
    nodes[0].flowing.set()
    *said, last = wire.frames(51)
    assert last == b"$-1\r\n"
    errors = said.index(b":262144\r\n")
    assert errors > 0 and said == [lost(nodes[0])] * errors + [b":262144\r\n"] * (50 - errors)
    assert all(len(nodes.memory[key]) == len(value) for key in keys[errors:])
    assert all(len(nodes.memory.get(key, b"")) in (0, len(value)) for key in keys[:errors])
    assert wire.ask("APPEND", keys[0], "") in (b":0\r\n", b":262144\r\n")


@pytest.mark.dataplane
def test_a_node_that_dies_within_a_reply(stage: Staged) -> None:
    """The client that has a part of it must not take it for the whole: its connection ends. Nobody else's does."""
    nodes = Nodes()
    one = stage(nodes)
    big, small, mine = itertools.islice(nodes.keys(0), 3)
    nodes.memory[small] = b"small"
    halfway = threading.Event()

    def break_off(peer: Peer, words: Words) -> bytes | None:
        if words[1] != big:
            return None
        peer.send(b"$1000000\r\n" + b"x" * 300_000)
        halfway.wait(20)
        peer.close()
        return SILENCE

    nodes[0].script = break_off
    torn, reads, writes = one.connect(), one.connect(), one.connect()
    torn.send(request("GET", big) + request("GET", small))
    got = 0
    while got < 100_000:
        assert torn.fill()
        got = len(torn.buffer)
    reads.send(request("GET", small))
    writes.send(request("APPEND", mine, "x") + request("GET", small))
    assert reads.quiet(0.1)
    halfway.set()
    with contextlib.suppress(ConnectionResetError):
        torn.rest()
    assert len(torn.buffer) < 1_000_000
    assert reads.frame() == bulk("small")
    assert writes.frames(2) == [lost(nodes[0]), bulk("small")]
    assert reads.ask("GET", small) == writes.ask("GET", small) == bulk("small")


def test_a_node_that_dies_within_a_short_reply(stage: Staged) -> None:
    """The client has nothing of it yet: as if none had come."""
    nodes = Nodes()
    one = stage(nodes)
    key, other = itertools.islice(nodes.keys(0), 2)
    left = itertools.count(2, -1)

    def break_off(peer: Peer, words: Words) -> bytes | None:
        if words[1] == other or next(left) <= 0:
            return None
        peer.send(b"$1000\r\n" + b"x" * 500)
        peer.close()
        return SILENCE

    nodes[0].script = break_off
    wire = one.connect()
    assert wire.pipeline([("GET", key), ("GET", other)]) == [b"$-1\r\n"] * 2
    nodes[0].script = break_off
    nodes.memory[key] = b"y" * 1000
    assert wire.ask("GET", key) == bulk("y" * 1000)


@pytest.mark.dataplane
def test_a_part_on_a_lost_node_fails_the_whole_only_if_it_wrote(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    keys = [next(nodes.keys(number)) for number in range(3)]
    pairs = [word for key in keys for word in (key, b"1")]

    def die_once(peer: Peer, words: Words) -> bytes:
        nodes[1].script = None
        peer.close()
        return SILENCE

    wire = one.connect()
    nodes[1].script = die_once
    assert wire.pipeline([("MSET", *pairs), ("MGET", *keys)]) == [
        lost(nodes[1]), b"*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n1\r\n"
    ]  # fmt: skip
    nodes[1].script = die_once
    assert wire.ask("MGET", *keys) == b"*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n1\r\n"


# -- time


@pytest.mark.dataplane
def test_a_late_reply_is_nobody_s(stage: Staged) -> None:
    """One command takes too long: its client is told. What others have on the same connection gets its own reply."""
    nodes = Nodes()
    one = stage(nodes, "limits: {call_timeout: 500ms}")
    slow, key = itertools.islice(nodes.keys(0), 2)
    nodes.memory[key] = b"mine"
    enough = threading.Event()

    def script(peer: Peer, words: Words) -> bytes | None:
        if words[1] != slow:
            return None
        enough.wait(20)
        return bulk("too late")

    nodes[0].script = script
    wire, other = one.connect(), one.connect()
    began = time.monotonic()
    wire.send(request("GET", slow) + request("ECHO", "on"))
    late = b"-ERR node %s did not answer in time\r\n" % nodes[0].address.encode()
    assert wire.frames(2) == [late, b"$2\r\non\r\n"]
    assert time.monotonic() - began >= 0.5
    other.send(request("APPEND", key, "x") + request("GET", key))
    wire.send(request("GET", key))
    assert other.quiet(0.1)
    enough.set()
    assert other.frames(2) == [b":5\r\n", bulk("minex")]
    assert wire.frame() == bulk("minex")
    assert len([peer for peer in nodes[0].peers if peer.worker]) == 1
    assert one.info()["timeouts"] == 1


def test_a_node_that_hangs_costs_only_those_who_call_it(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes, "limits: {call_timeout: 500ms, buffer: 64KiB}")
    keys = [next(nodes.keys(number)) for number in range(3)]
    wire, other = one.connect(), one.connect()
    assert wire.pipeline([("SET", key, "1") for key in keys]) == [b"+OK\r\n"] * 3
    nodes[0].flowing.clear()
    assert wire.ask("GET", keys[1]) == b"$1\r\n1\r\n"
    late = b"-ERR node %s did not answer in time\r\n" % nodes[0].address.encode()
    for _ in range(2):
        wire.send(b"".join(request("GET", key) for key in keys))
        began, turns = time.monotonic(), 0
        while time.monotonic() - began < 0.3:
            assert other.pipeline([("GET", keys[1]), ("GET", keys[2])]) == [b"$1\r\n1\r\n"] * 2
            turns += 1
        assert turns > 20
        assert wire.frames(3) == [late, b"$1\r\n1\r\n", b"$1\r\n1\r\n"]
    # What may wait for it is bounded, and beyond the bound nobody has to wait to be told.
    crowd = [one.connect() for _ in range(5)]
    for each in crowd:
        each.send(request("SET", keys[0], "x" * 30_000))
    behind = b"-ERR node %s is behind with its replies; try again\r\n" % nodes[0].address.encode()
    assert sorted(each.frame() for each in crowd) == sorted([late] * 3 + [behind] * 2)
    nodes[0].flowing.set()
    wait_for(lambda: wire.ask("SET", keys[0], "2") == b"+OK\r\n", "it goes on")
    assert wire.pipeline([("GET", key) for key in keys]) == [b"$1\r\n2\r\n", b"$1\r\n1\r\n", b"$1\r\n1\r\n"]


def test_a_node_that_can_not_be_connected_to_costs_only_those_who_call_it(stage: Staged) -> None:
    """Its packets are lost: each try ends by its time limit, and what did not leave is tried again, so many times."""
    nodes = Nodes()
    one = stage(nodes, "limits: {connect_timeout: 200ms}")
    key, other = next(nodes.keys(0)), next(nodes.keys(1))
    wire, bystander = one.connect(), one.connect()
    assert wire.ask("SET", key, "1") == b"+OK\r\n"

    def seconds() -> float:
        """That one command waits for its answer, while others get theirs."""
        began, turns = time.monotonic(), 0
        wire.send(request("SET", key, "2") + request("GET", other))
        while wire.quiet(0.01):
            assert bystander.ask("GET", other) == b"$-1\r\n"
            turns += 1
        took = time.monotonic() - began
        first, second = wire.frames(2)
        assert first in (lost(nodes[0]), unreachable(nodes[0])) and second == b"$-1\r\n"
        assert turns >= int(took * 20)
        return took

    with nodes[0].deaf():
        wait_for(lambda: 0.2 <= seconds() < 5, "it is tried again, after a moment in which nobody is let wait for it")
    wait_for(lambda: wire.ask("SET", key, "3") == b"+OK\r\n", "it can be reached again")
    assert nodes[0].said(b"SET") == [[b"SET", key, b"1"], [b"SET", key, b"3"]]


def test_a_node_s_machine_that_vanishes_is_noticed_by_the_kernel(stage: Staged) -> None:
    """No packet tells of it: quiet connections are probed. (On loopback no machine can vanish; the timer can be seen.)"""
    nodes = Nodes()
    one = stage(nodes)
    assert one.connect().ask("GET", next(nodes.keys(0))) == b"$-1\r\n"
    (peer,) = (peer for peer in nodes[0].peers if peer.worker)
    (_, port), there = peer.socket.getpeername(), port_hex(nodes[0].port)
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (timer,) = (line[5] for line in lines if line[1].endswith(port_hex(port)) and line[2].endswith(there))
    assert timer.startswith("02:"), "the keep-alive timer runs"


def port_hex(port: int) -> str:
    return f":{port:04X}"


# -- the layout changes


def test_a_killed_master_is_noticed_without_a_redirection(stage: Staged) -> None:
    """Neither its end nor its successor is told by anybody but the look that its end brought about."""
    nodes = Nodes()
    one = stage(nodes, "health: {every: 60s}")
    key = next(nodes.keys(0))
    wire = one.connect()
    assert wire.ask("SET", key, "1") == b"+OK\r\n"
    slots = nodes.places[0].slots + nodes.places[1].slots
    nodes[0].kill()
    assert wire.ask("SET", key, "2") in (unreachable(nodes[0]), lost(nodes[0]))
    nodes.say(nodes[0], slots=())
    nodes.say(nodes[1], slots=slots)
    in_time(lambda: wire.ask("SET", key, "3") == b"+OK\r\n", "the successor is asked", 2)
    assert nodes[1].said(b"SET") == [[b"SET", key, b"3"]]
    assert one.info()["redirects_moved"] == 0


def test_a_node_that_left_is_left_alone(stage: Staged) -> None:
    """What it has still to answer it may; then its connections end, and none is made."""
    nodes = Nodes()
    one = stage(nodes, "topology_refresh: 1s")
    key, slow = itertools.islice(nodes.keys(2), 2)
    leave = threading.Event()

    def script(peer: Peer, words: Words) -> bytes | None:
        if words[1] != slow:
            return None
        leave.wait(20)
        return bulk("goodbye")

    nodes[2].script = script
    wire, patient = one.connect(), one.connect(3)
    patient.send(request("GET", slow))
    wait_for(lambda: nodes[2].said(b"GET"), "it is asked")
    slots = nodes.places[1].slots + nodes.places[2].slots
    nodes.places = nodes.places[:2]
    nodes.say(nodes[1], slots=slots)
    wait_for(lambda: one.info()["cluster_masters"] == 2, "it left")
    assert wire.pipeline([("SET", key, "1"), ("GET", key)]) == [b"+OK\r\n", b"$1\r\n1\r\n"]
    leave.set()
    assert patient.frame() == bulk("goodbye")
    wait_for(lambda: not nodes[2].peers, "its connections have ended")
    nodes[2].ran.clear()
    assert wire.pipeline([("GET", key)] * 20) == [b"$1\r\n1\r\n"] * 20
    time.sleep(0.3)
    assert not nodes[2].peers and not nodes[2].said()


def test_a_node_comes_back_under_another_address(stage: Staged) -> None:
    """The same id, as a pod has it that was restarted elsewhere."""
    nodes = Nodes()
    one = stage(nodes)
    key = next(nodes.keys(1))
    wire = one.connect()
    assert wire.ask("SET", key, "1") == b"+OK\r\n"
    moved = Node(nodes, 1, "127.0.0.2").start()
    nodes.all.append(moved)
    nodes[1].kill()
    nodes.places = [Place(moved, place.slots, 9) if place.node is nodes[1] else place for place in nodes.places]
    in_time(lambda: wire.ask("SET", key, "2") == b"+OK\r\n", "it is found", 2)
    assert moved.said(b"SET") == [[b"SET", key, b"2"]]
    assert len(one.running.text().split(f"{nodes[1].address} left")) == 2


def test_slots_that_nobody_has(stage: Staged) -> None:
    """Their keys are answered in the cluster's own words, and all others as ever."""
    nodes = Nodes()
    hole = next(nodes.keys(1))
    keys = [next(itertools.islice(nodes.keys(number), 1, None)) for number in range(3)]
    (first, last), *_ = nodes.places[1].slots
    at = slot_of(hole)
    nodes.say(nodes[1], slots=((first, at - 1), (at + 1, last)))
    said = b"-CLUSTERDOWN Hash slot not served\r\n"
    for node in nodes.all:
        node.script = lambda peer, words: said if words[1] == hole else None
    one = stage(nodes)
    wire = one.connect()
    assert one.info()["cluster_slots_covered"] == 16383
    asked = [("SET", key, "1") for key in keys]
    assert wire.pipeline([asked[0], ("SET", hole, "1"), asked[1], ("GET", hole), asked[2]]) == [
        b"+OK\r\n", said, b"+OK\r\n", said, b"+OK\r\n"
    ]  # fmt: skip
