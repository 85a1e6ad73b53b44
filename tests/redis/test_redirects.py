"""MOVED, ASK and the errors that say "not executed", by nodes that do as they are told: order, bounds, and who is believed."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from puerta.protocol.slots import slot_of
from tests.harness import wait_for
from tests.redis.nodes import SILENCE, Node, Nodes, Peer, Script, Words, array, ask, bulk, moved
from tests.redis.stage import Stage
from tests.redis.wire import request

Staged = Callable[..., Stage]

MORE_TRIES = 5
"""max_redirects, by default."""

TOO_MANY = b"-ERR too many cluster redirections\r\n"


def always(reply: Callable[[bytes], bytes], *keys: bytes) -> Script:
    """This answer to whatever is asked of one of the keys."""
    return lambda peer, words: reply(words[1]) if words[1:2] and words[1] in keys else None


def first_times(count: int, reply: bytes, *keys: bytes) -> Script:
    """This answer to so many commands on the keys; then as usual."""
    left = itertools.count(count, -1)
    return lambda peer, words: reply if words[1:2] and words[1] in keys and next(left) > 0 else None


def three_keys(nodes: Nodes) -> list[bytes]:
    return [next(nodes.keys(number)) for number in range(3)]


# -- order


@pytest.mark.dataplane
def test_a_redirected_reply_stands_where_its_command_stood(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    for number, protocol in enumerate((2, 3)):
        keys = [next(itertools.islice(nodes.keys(node), number, None)) for node in range(3)]
        nodes.memory.update({key: b"of " + key for key in keys})
        nodes[1].script = always(lambda key: moved(key, nodes[2]), keys[1])
        wire = one.connect(protocol)
        assert wire.pipeline([("GET", key) for key in keys]) == [bulk(b"of " + key) for key in keys]
        assert wire.pipeline([("GET", key) for key in keys]) == [bulk(b"of " + key) for key in keys]
        assert nodes[1].said(b"GET") == [[b"GET", keys[1]]], "what MOVED said is remembered"
        assert one.info()["redirects_moved"] == number + 1
        nodes[1].ran.clear()


@pytest.mark.dataplane
def test_no_later_command_overtakes_a_redirected_one(stage: Staged) -> None:
    """The old owner takes its time for each MOVED, and the second to be asked sends the first call on to a third."""
    nodes = Nodes()
    one = stage(nodes)
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
def test_asking_goes_before_each_and_nothing_is_learned(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    key = next(nodes.keys(0))
    nodes[0].script = first_times(5, ask(key, nodes[1]), key)
    wire = one.connect()
    assert wire.pipeline([("APPEND", key, "x")] * 5) == [b":%d\r\n" % count for count in range(1, 6)]
    append = [b"APPEND", key, b"x"]
    assert nodes[1].said() == [[b"ASKING"], append] * 5
    assert wire.ask("APPEND", key, "x") == b":6\r\n"
    assert len(nodes[0].said()) == 6 and len(nodes[1].said()) == 10
    assert one.info()["redirects_ask"] == 5 and one.info()["redirects_moved"] == 0


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
    (said,) = (peer.said for peer in nodes[1].peers if not peer.health)
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


def test_a_server_that_is_none_of_the_cluster_is_never_called(stage: Staged) -> None:
    """A client's own script can make such an error."""
    nodes = Nodes()
    one = stage(nodes)
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


def test_redirections_to_nowhere(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    lines = [b"-MOVED 1\r\n", b"-MOVED x y:1\r\n", b"-MOVED 5 ?:0\r\n", b"-ASK 99999 a:1\r\n", b"-ASK 5 a b:1\r\n"]
    keys = list(itertools.islice(nodes.keys(0), len(lines)))
    replies = dict(zip(keys, lines, strict=True))
    nodes[0].script = always(lambda key: replies[key], *keys)
    assert one.connect().pipeline([*(("GET", key) for key in keys), ("PING",)]) == [TOO_MANY] * 5 + [b"+PONG\r\n"]
    assert len(nodes[0].said()) == (1 + MORE_TRIES) * len(keys)


# -- bounds


@pytest.mark.dataplane
def test_nodes_that_send_a_call_in_circles(stage: Staged) -> None:
    """One error at the end of so many hops; the calls behind it of the same slot end with it, others don't notice."""
    nodes = Nodes()
    one = stage(nodes)
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


def test_a_thousand_redirections_at_once_are_one_reason_to_look(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
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


# -- errors that say: not executed

LATER = [
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-CLUSTERDOWN Hash slot not served\r\n",
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
]


def test_not_now_is_asked_again_in_order_and_then_passed_on(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    keys = list(itertools.islice(nodes.keys(0), len(LATER)))
    nevers = list(itertools.islice(nodes.keys(0), len(LATER), 2 * len(LATER)))
    lines = dict(zip([*keys, *nevers], LATER * 2, strict=True))

    def script(peer: Peer, words: Words) -> bytes | None:
        tries = nodes[0].said(b"APPEND").count([b"APPEND", words[1], b"a"])
        return lines[words[1]] if words[1] in nevers or (words[1] in keys and tries < 3) else None

    nodes[0].script = script
    near = next(nodes.keys(1))
    wires = [one.connect() for _ in LATER]
    for wire, key, never in zip(wires, keys, nevers, strict=True):
        asked = [("APPEND", key, "a"), ("APPEND", key, "b"), ("APPEND", never, "a"), ("GET", near), ("GET", key)]
        wire.send(b"".join(request(*each) for each in asked))
    for wire, line in zip(wires, LATER, strict=True):
        assert wire.frames(5) == [b":1\r\n", b":2\r\n", line, b"$-1\r\n", bulk("ab")]
    for never in nevers:
        assert nodes[0].said(b"APPEND").count([b"APPEND", never, b"a"]) == 1 + MORE_TRIES
    assert len([peer for peer in nodes[0].peers if not peer.health]) == 1, "the connection was never in doubt"


@pytest.mark.dataplane
def test_what_was_put_off_is_not_done_after_a_later_command(stage: Staged) -> None:
    """A node that was not ready for a command may be for the next, which is on its way already. The first would come
    too late then: its client is told, as by the node itself. Reads may change places."""
    nodes = Nodes()
    one = stage(nodes)
    key, far, read = itertools.islice(nodes.keys(0), 3)
    nodes[0].script = first_times(2, LATER[0], key)
    wire = one.connect()
    said = wire.pipeline([("SET", key, "1"), ("APPEND", key, "2"), ("SET", key, "3"), ("GET", key), ("SET", far, "x")])
    assert said == [LATER[0], LATER[0], b"+OK\r\n", bulk("3"), b"+OK\r\n"]
    assert nodes.memory[key] == b"3" and len(nodes[0].said(b"APPEND")) == 1
    assert wire.pipeline([("GET", key), ("SET", key, "4"), ("GET", key)]) == [bulk("3"), b"+OK\r\n", bulk("4")]
    nodes[0].script = first_times(1, LATER[0], key)
    assert wire.pipeline([("GET", key), ("SET", key, "5"), ("GET", key)]) == [LATER[0], b"+OK\r\n", bulk("5")]
    nodes[0].script = first_times(1, LATER[-1], read)
    assert wire.pipeline([("GET", read), ("GET", read), ("MGET", read, key)]) == [
        b"$-1\r\n", b"$-1\r\n", array([b"$-1\r\n", bulk("5")])
    ]  # fmt: skip


def test_what_was_put_off_waits_for_what_is_on_its_way_behind_it(stage: Staged) -> None:
    """The later command's answer takes longer than the pause before the first is sent again."""
    nodes = Nodes()
    one = stage(nodes)
    key = next(nodes.keys(0))
    refuse = first_times(1, LATER[0], key)

    def script(peer: Peer, words: Words) -> bytes | None:
        found = refuse(peer, words)
        if found is not None:
            peer.send(found)
            return SILENCE
        if words[2:] == [b"2"] and words[1] == key:
            time.sleep(0.15)
        return None

    nodes[0].script = script
    wire = one.connect()
    assert wire.pipeline([("SET", key, "1"), ("SET", key, "2"), ("GET", key)]) == [LATER[0], b"+OK\r\n", bulk("2")]
    assert nodes[0].said(b"SET") == [[b"SET", key, b"1"], [b"SET", key, b"2"]]


@pytest.mark.dataplane
def test_a_transaction_is_not_done_after_a_later_command_either_nor_before_an_earlier(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    key = next(nodes.keys(0))
    refuse = first_times(1, LATER[0], key)
    nodes[0].script = refuse
    wire = one.connect()
    within: list[tuple[bytes | str | int, ...]] = [("MULTI",), ("SET", key, "2"), ("EXEC",)]
    assert wire.pipeline([("SET", key, "1"), *within]) == [LATER[0], b"+OK\r\n", b"+QUEUED\r\n", b"+OK\r\n"]
    refuse = first_times(1, LATER[0], key)

    def script(peer: Peer, words: Words) -> bytes | None:
        if words[0] == b"EXEC":
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        return refuse(peer, words)

    nodes[0].script = script
    assert wire.pipeline([*within, ("SET", key, "3")])[2:] == [LATER[0], b"+OK\r\n"]
    assert nodes.memory[key] == b"3"


LIKENESSES = [
    b"-MOVEDX 1 a:1\r\n", b"-MISCONF Errors writing to disk\r\n", b"-ASKED\r\n", b"-TRY\r\n", b"-CROSSSLOT x\r\n", b"-LOAD x\r\n",
    b"-READ x\r\n", b"-BUSY x\r\n", b"-ERR MOVED 1 127.0.0.1:1\r\n",
]  # fmt: skip


def test_other_errors_are_the_client_s(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    keys = list(itertools.islice(nodes.keys(0), len(LIKENESSES)))
    replies = dict(zip(keys, LIKENESSES, strict=True))
    nodes[0].script = always(lambda key: replies[key], *keys)
    assert one.connect().pipeline([("GET", key) for key in keys]) == LIKENESSES
    assert len(nodes[0].said()) == len(keys)


def test_errors_within_a_reply_are_part_of_it(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    key = next(nodes.keys(0))
    reply = array([b"-MOVED 1 127.0.0.1:1\r\n", b"-READONLY x\r\n"])
    nodes[0].script = always(lambda key: reply, key)
    assert one.connect().ask("EVAL", "x", "1", key) == b"+OK\r\n"  # the script sees the text, not the key
    assert one.connect().ask("GET", key) == reply


# -- a part of a command


@pytest.mark.dataplane
def test_only_the_part_that_was_refused_is_asked_again(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    wire = one.connect()
    for number in range(4):
        keys = [list(itertools.islice(nodes.keys(node), number * 4, number * 4 + 4)) for node in range(3)]
        mine = keys[1][0]
        asked = [keys[0][0], mine, *keys[2], *keys[0], mine, *keys[1][1:]]
        nodes.memory.update({key: b"of " + key for key in asked})
        lines = [moved(mine, nodes[2]), ask(mine, nodes[2]), LATER[-1], LATER[0]]
        nodes[1].script = first_times(1, lines[number], mine)
        assert wire.ask("MGET", *asked) == array([bulk(b"of " + key) for key in asked])
        legs = [tuple(words[1:]) for node in nodes.all for words in node.said(b"MGET")]
        assert legs.count((mine, mine)) == 2
        assert len(legs) == len({slot_of(key) for key in asked}) + 1 == len(set(legs)) + 1
        for node in nodes.all:
            node.ran.clear()


def test_a_part_that_is_refused_for_good_fails_the_whole(stage: Staged) -> None:
    nodes = Nodes()
    one = stage(nodes)
    keys = three_keys(nodes)
    nodes[1].script = always(lambda key: LATER[-1], keys[1])
    wire = one.connect()
    pairs = [word for key in keys for word in (key, b"1")]
    said = wire.pipeline([("MGET", *keys), ("DEL", *keys), ("MSET", *pairs), ("PING",)])
    assert said == [LATER[-1], LATER[-1], LATER[-1], b"+PONG\r\n"]


def test_a_client_that_leaves_while_its_calls_go_round(stage: Staged) -> None:
    """Nothing of it is left, and others on the same slot go on."""
    nodes = Nodes()
    one = stage(nodes)
    key = next(nodes.keys(0))
    nodes[0].script = always(lambda key: LATER[-1], key)

    def clients() -> Iterator[None]:
        for _ in range(10):
            wire = one.connect()
            wire.send(request("SET", key, "1") * 5)
            wait_for(lambda: nodes[0].said(b"SET"), "it is on its way")
            wire.close()
            yield

    for _ in clients():
        nodes[0].ran.clear()
    nodes[0].script = None
    assert one.connect().pipeline([("SET", key, "2"), ("GET", key)]) == [b"+OK\r\n", b"$1\r\n2\r\n"]
