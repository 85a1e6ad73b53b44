"""MOVED and ASK, by nodes that do as they are told: order, bounds, and who is believed."""

import itertools
import socket
import threading
import time
from collections.abc import Callable

import pytest

from puerta.protocol.slots import slot_of
from tests.harness import wait_for
from tests.redis.nodes import Node, Nodes, Peer, Words
from tests.redis.scripts import MORE_TRIES, TOO_MANY, always, ask, first_times, moved
from tests.redis.stage import Stage
from tests.redis.wire import array, bulk, request

Staged = Callable[..., Stage]


# -- order


@pytest.mark.dataplane
def test_a_redirected_reply_stands_where_its_command_stood(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    before = one.info()["redirects_moved"]
    for number, protocol in enumerate((2, 3)):
        keys = [next(itertools.islice(nodes.keys(node), number, None)) for node in range(3)]
        nodes.memory.update({key: b"of " + key for key in keys})
        nodes[1].script = always(lambda key: moved(key, nodes[2]), keys[1])
        wire = one.connect(protocol)
        assert wire.pipeline([("GET", key) for key in keys]) == [bulk(b"of " + key) for key in keys]
        assert wire.pipeline([("GET", key) for key in keys]) == [bulk(b"of " + key) for key in keys]
        assert nodes[1].said(b"GET") == [[b"GET", keys[1]]], "what MOVED said is remembered"
        assert one.info()["redirects_moved"] == before + number + 1
        nodes[1].ran.clear()


@pytest.mark.dataplane
def test_no_later_command_overtakes_a_redirected_one(calm: Stage) -> None:
    """The old owner takes its time for each MOVED, and the second to be asked sends the first call on to a third."""
    one, nodes = calm, calm.nodes
    key = next(nodes.keys(0))
    slowly = threading.Event()

    def old(peer: Peer, words: Words) -> bytes:
        time.sleep(0.02)
        return moved(key, nodes[1])

    def middle(peer: Peer, words: Words) -> bytes:
        slowly.wait(0.1)
        return moved(key, nodes[2])

    nodes[0].script, nodes[1].script = old, middle
    wire = one.connect()
    sent = [("APPEND", key, f"{number};") for number in range(6)]
    wire.send(b"".join(request(*each) for each in sent[:3]))
    time.sleep(0.03)  # the first was answered: the map knows the new owner while the others are still on their way
    wire.send(b"".join(request(*each) for each in [*sent[3:], ("GET", key)]))
    text = b"0;1;2;3;4;5;"
    assert wire.frames(7) == [*[b":%d\r\n" % (2 * count) for count in range(1, 7)], bulk(text)]
    assert nodes.memory[key] == text


def test_one_client_s_commands_for_a_node_share_one_connection(stage: Staged) -> None:
    """In order there, whatever they are; and RESP3 clients have another one, that begins with HELLO."""
    nodes = Nodes()
    one = stage(nodes)
    keys = list(itertools.islice(nodes.keys(0), 50))
    two, three = one.connect(), one.connect(3)
    for wire in (two, three):
        asked = [(name, key, "x")[: 2 if name == "GET" else 3] for key in keys for name in ("SET", "GET", "APPEND")]
        wire.pipeline(asked)
        said = [words for peer, words in nodes[0].ran if words[0] != b"HELLO" and len(peer.said) > 0]
        assert said[-len(asked) :] == [
            [word.encode() if isinstance(word, str) else word for word in each] for each in asked
        ]
    users = {peer.number: peer.said for peer, _ in nodes[0].ran}
    assert len(users) == 2
    assert sorted(len(said) for said in users.values()) == [150, 151]
    assert max(users.values(), key=len)[0] == [b"HELLO", b"3"]


# -- ASK


@pytest.mark.dataplane
def test_asking_goes_before_each_and_nothing_is_learned(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    before = one.info()
    key = next(nodes.keys(0))
    nodes[0].script = first_times(5, ask(key, nodes[1]), key)
    wire = one.connect()
    assert wire.pipeline([("APPEND", key, "x")] * 5) == [b":%d\r\n" % count for count in range(1, 6)]
    append = [b"APPEND", key, b"x"]
    assert nodes[1].said() == [[b"ASKING"], append] * 5
    assert wire.ask("APPEND", key, "x") == b":6\r\n"
    assert len(nodes[0].said()) == 6 and len(nodes[1].said()) == 10
    assert one.info()["redirects_ask"] - before["redirects_ask"] == 5
    assert one.info()["redirects_moved"] == before["redirects_moved"]


@pytest.mark.dataplane
def test_nobody_comes_between_asking_and_its_command(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    away = list(itertools.islice(nodes.keys(0), 4))
    near = list(itertools.islice(nodes.keys(1), 20))
    nodes[0].script = always(lambda key: ask(key, nodes[1]), *away)
    wires = [one.connect() for _ in range(8)]
    commands = [("GET", away[number % 4]) if number % 3 else ("GET", near[number % 20]) for number in range(150)]
    for wire in wires:
        wire.send(b"".join(request(*each) for each in commands))
    for wire in wires:
        assert wire.frames(150) == [b"$-1\r\n"] * 150
    (said,) = [peer.said for peer in nodes[1].peers if peer.worker]
    asked = [number for number, words in enumerate(said) if words == [b"ASKING"]]
    assert len(asked) == 8 * 100
    assert all(said[number + 1][1] in away for number in asked)
    assert sum(words[-1] in away for words in said) == len(asked), "and none of the slot came without it"


# -- where to


def test_the_ways_to_name_a_node(stage: Staged) -> None:
    """No host (the one that answered), an address, a name."""
    nodes = Nodes()
    nodes.say(nodes[2], endpoint="localhost")
    one = stage(nodes)
    wire = one.connect()
    for key, (number, host) in zip(nodes.keys(0), [(1, ""), (1, "127.0.0.1"), (2, "localhost")], strict=False):
        nodes[0].script = always(lambda key, to=nodes[number], host=host: moved(key, to, host), key)  # type: ignore[misc]
        assert wire.pipeline([("SET", key, "1"), ("GET", key)]) == [b"+OK\r\n", b"$1\r\n1\r\n"]
        assert nodes[number].said() == [[b"SET", key, b"1"], [b"GET", key]]
        nodes[number].ran.clear()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
def test_a_node_with_an_ipv6_address(stage: Staged) -> None:
    nodes = Nodes(hosts=("127.0.0.1", "::1", "127.0.0.1"))
    one = stage(nodes)
    for key, host in zip(nodes.keys(0), ["::1", "[::1]"], strict=False):
        nodes[0].script = always(lambda key, host=host: moved(key, nodes[1], host), key)  # type: ignore[misc]
        assert one.connect().pipeline([("SET", key, "1"), ("GET", key)]) == [b"+OK\r\n", b"$1\r\n1\r\n"]
    assert len(nodes[1].said()) == 4


def test_a_node_that_was_never_seen_before(stage: Staged) -> None:
    """The redirection itself brings the look that finds it."""
    nodes = Nodes()
    one = stage(nodes)
    key = next(nodes.keys(0))
    new = nodes.add(slots=((slot_of(key), slot_of(key)),), epoch=9).start()
    nodes[0].script = always(lambda key: moved(key, new), key)
    assert one.connect().pipeline([("SET", key, "1"), ("GET", key)]) == [b"+OK\r\n", b"$1\r\n1\r\n"]
    assert new.said() == [[b"SET", key, b"1"], [b"GET", key]]


def test_a_node_without_slots_is_in_office_when_a_redirection_says_so(stage: Staged) -> None:
    """Before the next layout does: what waits there in a connection of its own is not taken for left behind."""
    nodes = Nodes()
    spare = nodes.add()
    one = stage(nodes)
    key = next(nodes.keys(0))
    nodes[0].script = lambda peer, words: moved(key, spare) if key in words else None

    def script(peer: Peer, words: Words) -> bytes | None:
        if words[0] != b"BLPOP":
            return None
        time.sleep(0.4)
        return array([bulk(key), bulk("v")])

    spare.script = script
    time.sleep(1.1)  # longer than a node that lost its office may keep such connections
    wire = one.connect()
    assert wire.ask("BLPOP", key, "0") == array([bulk(key), bulk("v")])


def test_a_server_that_is_none_of_the_cluster_is_never_called(calm: Stage) -> None:
    """A client's own script can make such an error."""
    one, nodes = calm, calm.nodes
    key, other = next(nodes.keys(0)), next(nodes.keys(1))
    decoy = Node(nodes, 77).start()
    try:
        nodes[0].script = always(lambda key: moved(key, decoy), key)
        wire = one.connect()
        said = wire.pipeline([("GET", key), ("SET", other, "1"), ("GET", other)])
        assert said == [TOO_MANY, b"+OK\r\n", b"$1\r\n1\r\n"]
        assert not decoy.peers
    finally:
        decoy.kill()


def test_redirections_to_nowhere(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    lines = [b"-MOVED 1\r\n", b"-MOVED x y:1\r\n", b"-MOVED 5 ?:0\r\n", b"-ASK 99999 a:1\r\n", b"-ASK 5 a b:1\r\n"]
    keys = list(itertools.islice(nodes.keys(0), len(lines)))
    replies = dict(zip(keys, lines, strict=True))
    nodes[0].script = always(lambda key: replies[key], *keys)
    assert one.connect().pipeline([*(("GET", key) for key in keys), ("PING",)]) == [TOO_MANY] * 5 + [b"+PONG\r\n"]
    assert len(nodes[0].said()) == (1 + MORE_TRIES) * len(keys)


# -- bounds


@pytest.mark.dataplane
def test_nodes_that_send_a_call_in_circles(calm: Stage) -> None:
    """One error at the end of so many hops; the calls behind it of the same slot end with it, others don't notice."""
    one, nodes = calm, calm.nodes
    key, other = next(nodes.keys(0)), next(nodes.keys(2))
    nodes[0].script = always(lambda key: moved(key, nodes[1]), key)
    nodes[1].script = always(lambda key: moved(key, nodes[0]), key)
    wire, bystander = one.connect(), one.connect()
    wire.send(request("SET", key, "1") + request("SET", other, "2") + request("GET", key) + request("PING"))
    for number in range(50):
        assert bystander.ask("SET", other, number) == b"+OK\r\n"
    assert wire.frames(4) == [TOO_MANY, b"+OK\r\n", TOO_MANY, b"+PONG\r\n"]
    hops = [words for number in (0, 1) for words in nodes[number].said() if words[0] == b"SET" and words[1] == key]
    assert len(hops) == 1 + MORE_TRIES
    nodes[1].script = None
    nodes[0].script = always(lambda key: moved(key, nodes[1]), key)
    assert wire.ask("GET", key) == b"$-1\r\n"


def test_a_thousand_redirections_at_once_are_one_reason_to_look(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    keys = list(itertools.islice(nodes.keys(0), 100))
    other = next(nodes.keys(2))
    wait_for(lambda: nodes[2].looks and not time.sleep(0.3), "the first looks are over")
    before = nodes[2].looks
    nodes[0].script = always(lambda key: moved(key, nodes[1]), *keys)
    wires = [one.connect() for _ in range(10)]
    for number, wire in enumerate(wires):
        turned = keys[number * 10 :] + keys[: number * 10]
        wire.send(b"".join(request("APPEND", key, "x") + request("APPEND", other, "x") for key in turned))
    for wire in wires:
        said = wire.frames(200)
        assert all(frame.startswith(b":") for frame in said)
    assert {len(nodes.memory[key]) for key in keys} == {10} and len(nodes.memory[other]) == 1000
    assert one.info()["redirects_moved"] >= 100
    time.sleep(0.5)
    assert 1 <= nodes[2].looks - before <= 3


@pytest.mark.dataplane
def test_an_error_of_the_call_s_own_is_not_that_of_those_behind_it(calm: Stage) -> None:
    """Both were redirected, so that the second waits for the first, which is then answered by an error."""
    one, nodes = calm, calm.nodes
    key = next(nodes.keys(0))
    nodes[0].script = always(lambda key: moved(key, nodes[1]), key, b"return 1")
    nodes[1].script = lambda peer, words: b"-LOCKED by a script\r\n" if words[0] == b"GETSET" else None
    assert one.connect().pipeline([("GETSET", key, "a"), ("SET", key, "b")]) == [b"-LOCKED by a script\r\n", b"+OK\r\n"]
    assert nodes.memory[key] == b"b"
