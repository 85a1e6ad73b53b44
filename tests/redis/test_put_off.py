"""Errors that say that a command was not executed: it is done later, in its turn, or not at all."""

import itertools
import time
from collections.abc import Iterator

import pytest

from puerta.protocol.slots import slot_of
from tests.harness import wait_for
from tests.redis.nodes import SILENCE, Peer, Words
from tests.redis.scripts import MORE_TRIES, always, ask, first_times, moved, three_keys
from tests.redis.stage import Stage
from tests.redis.wire import array, bulk, request

LATER = [
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-CLUSTERDOWN Hash slot not served\r\n",
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
]


def test_not_now_is_asked_again_in_order_and_then_passed_on(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    keys = list(itertools.islice(nodes.keys(0), len(LATER)))
    nevers = list(itertools.islice(nodes.keys(0), len(LATER), 2 * len(LATER)))
    lines = dict(zip([*keys, *nevers], LATER * 2, strict=True))

    def script(peer: Peer, words: Words) -> bytes | None:
        tries = nodes[0].said(b"APPEND").count([b"APPEND", words[1], b"a"])
        return lines[words[1]] if words[1] in nevers or (words[1] in keys and tries < 3) else None

    nodes[0].script = script
    near = next(nodes.keys(1))
    peers = list(nodes[0].peers)
    wires = [one.connect() for _ in LATER]
    for wire, key, never in zip(wires, keys, nevers, strict=True):
        asked = [("APPEND", key, "a"), ("APPEND", key, "b"), ("APPEND", never, "a"), ("GET", near), ("GET", key)]
        wire.send(b"".join(request(*each) for each in asked))
    for wire, line in zip(wires, LATER, strict=True):
        assert wire.frames(5) == [b":1\r\n", b":2\r\n", line, b"$-1\r\n", bulk("ab")]
    for never in nevers:
        assert nodes[0].said(b"APPEND").count([b"APPEND", never, b"a"]) == 1 + MORE_TRIES
    assert nodes[0].peers == peers, "no connection was ever in doubt"


@pytest.mark.dataplane
def test_what_was_put_off_is_not_done_after_a_later_command(calm: Stage) -> None:
    """A node that was not ready for a command may be for the next, which is on its way already. The first would come
    too late then: its client is told, as by the node itself. Reads may change places."""
    one, nodes = calm, calm.nodes
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


def test_what_was_put_off_waits_for_what_is_on_its_way_behind_it(calm: Stage) -> None:
    """The later command's answer takes longer than the pause before the first is sent again."""
    one, nodes = calm, calm.nodes
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
def test_a_transaction_is_not_done_after_a_later_command_either_nor_before_an_earlier(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
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


def test_other_errors_are_the_client_s(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    keys = list(itertools.islice(nodes.keys(0), len(LIKENESSES)))
    replies = dict(zip(keys, LIKENESSES, strict=True))
    nodes[0].script = always(lambda key: replies[key], *keys)
    assert one.connect().pipeline([("GET", key) for key in keys]) == LIKENESSES
    assert len(nodes[0].said()) == len(keys)


def test_errors_within_a_reply_are_part_of_it(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    key = next(nodes.keys(0))
    reply = array([b"-MOVED 1 127.0.0.1:1\r\n", b"-READONLY x\r\n"])
    nodes[0].script = always(lambda key: reply, key)
    assert one.connect().ask("EVAL", "x", "1", key) == b"+OK\r\n"  # the script sees the text, not the key
    assert one.connect().ask("GET", key) == reply


# -- a part of a command


@pytest.mark.dataplane
def test_only_the_part_that_was_refused_is_asked_again(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
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


def test_a_part_that_is_refused_for_good_fails_the_whole(calm: Stage) -> None:
    one, nodes = calm, calm.nodes
    keys = three_keys(nodes)
    nodes[1].script = always(lambda key: LATER[-1], keys[1])
    wire = one.connect()
    pairs = [word for key in keys for word in (key, b"1")]
    said = wire.pipeline([("MGET", *keys), ("DEL", *keys), ("MSET", *pairs), ("PING",)])
    assert said == [LATER[-1], LATER[-1], LATER[-1], b"+PONG\r\n"]


def test_a_client_that_leaves_while_its_calls_go_round(calm: Stage) -> None:
    """Nothing of it is left, and others on the same slot go on."""
    one, nodes = calm, calm.nodes
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
