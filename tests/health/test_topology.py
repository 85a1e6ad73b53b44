"""Of nodes that disagree, the right one is believed: what nodes say, and what it comes to."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puerta.health import topology
from puerta.health.topology import Layout, choose, describe
from puerta.health.views import SLOTS, Node, View, at, parse_nodes, parse_shards, parse_slots

A, B, C, D = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)

NODES = f"""\
{B} 127.0.0.1:30004@31004,hostname4 slave {A} 0 1426238317239 4 connected
{C} 127.0.0.1:30002@31002,hostname2,shard-id=69bc080733d135 master - 0 1426238316232 2 connected 5461-10922
{D} ::1:30003@31003 master,fail? - 0 1426238318243 3 disconnected 10923-16383
{A} :30001@31001 myself,master - 0 0 1 connected 0-5459 5460 [93->-{C}] [77-<-{D}]
{"e" * 40} :0@0 master,noaddr,fail - 1426238316232 0 9 disconnected 1-5
{"f" * 40} 10.0.0.1:1@2 handshake - 0 0 0 disconnected
"""


def master(id: str, epoch: int, *slots: tuple[int, int], **more: Any) -> Node:
    return Node(id, f"10.0.0.{ord(id[0])}", 6379, "", epoch, slots, **more)


def replica(id: str, of: str, epoch: int = 0, **more: Any) -> Node:
    return Node(id, f"10.0.0.{ord(id[0])}", 6379, of, epoch, (), **more)


def view(myself: str, *nodes: Node) -> View:
    return View(myself, {node.id: node for node in nodes})


def slots_of(layout: Layout) -> dict[str, Any]:
    return {node.id[0]: node.slots for node in layout.masters}


# -- answers -----------------------------------------------------------------------------------------------------------


def test_cluster_nodes_is_read() -> None:
    found = parse_nodes(NODES, "redis.example")
    assert found.myself == A
    assert found.nodes == {
        B: Node(B, "127.0.0.1", 30004, A, 4),
        C: Node(C, "127.0.0.1", 30002, "", 2, ((5461, 10922),)),
        D: Node(D, "::1", 30003, "", 3, ((10923, 16383),)),  # `fail?` is one node's suspicion
        A: Node(A, "redis.example", 30001, "", 1, ((0, 5459), (5460, 5460))),
    }


def test_a_node_that_the_cluster_gave_up_has_failed() -> None:
    assert parse_nodes(NODES.replace("fail?", "fail"), "a").nodes[D].failed


@pytest.mark.parametrize(
    "text",
    ["", "hello\n", NODES.replace("myself,", ""), NODES.replace("5461-10922", "5461-16384"),
     NODES.replace("5461-10922", "9-5"), NODES.replace(":30002@", ":99999@"), NODES.replace("30003", "x"),
     NODES.replace("127.0.0.1:30002", "evil host:1"), NODES.replace(" 2 connected", " two connected"),
     NODES.replace("::1", "\x1b[31m"), NODES.replace("5460 ", "\u0665 "),
     "\n".join(f"{n:040x} 10.0.0.1:1@2 myself,master - 0 0 1 connected" for n in range(1025))],
)  # fmt: skip
def test_what_is_not_such_an_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_nodes(text, "a")


def shard(*nodes: dict[str, Any]) -> list[Any]:
    flat = [[part for pair in node.items() for part in (pair[0].encode(), pair[1])] for node in nodes]
    return [b"slots", [0, 5], b"nodes", flat]


def test_endpoints_of_cluster_shards() -> None:
    reply = [
        shard(
            {"id": A.encode(), "port": 1, "ip": b"10.0.0.1", "endpoint": b"one.example", "health": b"online"},
            {"id": B.encode(), "tls-port": 2, "ip": b"10.0.0.2", "endpoint": b"?", "health": b"loading"},
        ),
        shard({"id": C.encode(), "port": 3, "ip": b"10.0.0.3", "endpoint": None, "hostname": b"three"}),
        shard({"id": D.encode(), "port": 4, "ip": b"::1", "endpoint": b"::1", "health": b"fail"}),
    ]
    assert parse_shards(reply, "asked") == {
        A: ("one.example", 1, False), B: ("10.0.0.2", 2, True), C: ("asked", 3, False), D: ("::1", 4, False),
    }  # fmt: skip


def test_endpoints_of_cluster_slots() -> None:
    reply = [
        [0, 5, [b"10.0.0.1", 1, A.encode(), [b"hostname", b"one"]], [b"", 2, B.encode()]],
        [6, 9, [None, 3, C.encode(), []], [b"?", 4, D.encode(), [b"ip", b"10.0.0.4"]]],
    ]
    assert parse_slots(reply, "asked") == {
        A: ("10.0.0.1", 1, False), B: ("asked", 2, False), C: ("asked", 3, False), D: ("10.0.0.4", 4, False),
    }  # fmt: skip


@pytest.mark.parametrize("parse", [parse_shards, parse_slots])
@pytest.mark.parametrize(
    "reply", [b"OK", 5, [b"x"], [[1]], [[1, 2, [3]]], [[b"nodes", 5, 5]], [[b"nodes", [[b"id"]], []]], None]
)
def test_other_answers_are_refused(parse: Any, reply: Any) -> None:
    with pytest.raises(ValueError):
        parse(reply, "a")


def test_endpoints_replace_what_cluster_nodes_says() -> None:
    placed = at(parse_nodes(NODES, "a"), {C: ("two.example", 7, True), "unknown": ("x", 1, False)})
    assert placed.nodes[C] == Node(C, "two.example", 7, "", 2, ((5461, 10922),), loading=True)
    assert set(placed.nodes) == {A, B, C, D}


# -- the choice --------------------------------------------------------------------------------------------------------


def test_agreement() -> None:
    nodes = (master(A, 1, (0, 9999)), master(B, 2, (10000, SLOTS - 1)), replica(C, B))
    found = choose([view(A, *nodes), view(B, *nodes), view(C, *nodes)])
    assert slots_of(found) == {"a": ((0, 9999),), "b": ((10000, SLOTS - 1),)}
    assert ([node.id for node in found.replicas], found.spares, found.uncovered) == ([C], (), 0)
    assert found.epoch == 2


def test_the_minority_s_old_map_loses_to_the_higher_epoch() -> None:
    """A was cut off and still thinks it is a master; C took its place."""
    old = (master(A, 1, (0, SLOTS - 1)), replica(C, A, 1), master(B, 2))
    new = (master(A, 1, failed=True), master(C, 7, (0, SLOTS - 1)), master(B, 2))
    found = choose([view(A, *old), view(B, *new), view(C, *new)])
    assert slots_of(found) == {"c": ((0, SLOTS - 1),)}
    assert {node.id for node in found.spares} == {A, B}
    assert not any(node.failed for node in found.nodes)  # A answers: it is not dead, it is behind


def test_many_old_maps_lose_to_one_with_a_higher_epoch() -> None:
    old = (master(A, 1, (0, SLOTS - 1)), master(B, 2), replica(C, A, 1))
    new = (master(A, 1), master(B, 2), master(C, 3, (0, SLOTS - 1)))
    assert slots_of(choose([view(A, *old), view(B, *old), view(C, *new)])) == {"c": ((0, SLOTS - 1),)}


def test_of_a_silent_master_the_others_tell() -> None:
    nodes = (master(A, 1, (0, 99), failed=True), master(B, 2, (100, SLOTS - 1)), replica(C, A, 1))
    found = choose([view(B, *nodes), view(C, *nodes)])
    assert slots_of(found) == {"a": ((0, 99),), "b": ((100, SLOTS - 1),)}
    assert found.masters[0].failed


def test_a_slot_that_its_owner_gave_up_is_not_covered() -> None:
    """CLUSTER DELSLOTS: nobody else hears of it."""
    told = (master(A, 1, (0, 99)), master(B, 2, (100, SLOTS - 1)))
    own = (master(A, 1, (0, 97)), master(B, 2, (100, SLOTS - 1)))
    assert choose([view(A, *own), view(B, *told)]).uncovered == 2


def test_a_moved_slot_is_the_new_owner_s() -> None:
    before = (master(A, 1, (0, 9999)), master(B, 2, (10000, SLOTS - 1)))
    after = (master(A, 1, (0, 9998)), master(B, 3, (9999, SLOTS - 1)))
    for views in ([view(A, *before), view(B, *after)], [view(A, *after), view(B, *after)]):
        assert slots_of(choose(views)) == {"a": ((0, 9998),), "b": ((9999, SLOTS - 1),)}


def test_a_forgotten_node_that_still_talks_is_left_out() -> None:
    nodes = (master(A, 1, (0, SLOTS - 1)), master(B, 2))
    found = choose([view(A, *nodes), view(B, *nodes), view(D, *nodes, replica(D, A))])
    assert {node.id for node in found.nodes} == {A, B}


def test_a_seed_of_another_cluster_is_not_mixed_in() -> None:
    ours = (master(A, 1, (0, SLOTS - 1)), master(B, 2))
    for foreign in (view(D, master(D, 9, (0, 5))), view(D, master(D, 99))):
        assert slots_of(choose([foreign, view(A, *ours), view(B, *ours)])) == {"a": ((0, SLOTS - 1),)}


def test_views_that_meet_by_a_third_are_of_one_cluster() -> None:
    a, b, c = master(A, 1, (0, 5)), master(B, 2, (6, 9)), master(C, 3, (10, SLOTS - 1))
    assert choose([view(A, a), view(C, c), view(B, a, b, c)]).uncovered < SLOTS - 6


def test_a_node_is_where_most_say() -> None:
    a = master(A, 1, (0, SLOTS - 1))
    there = replace(a, host="moved.example", port=7)
    found = choose([view(A, there, master(B, 2), master(C, 3)), view(B, a, master(B, 2), master(C, 3)),
                    view(C, there, master(B, 2), master(C, 3))])  # fmt: skip
    assert str(found.masters[0].address) == "moved.example:7"


def test_no_view_is_an_empty_layout() -> None:
    assert choose([]) == Layout()


def test_holes_are_counted() -> None:
    found = choose([view(A, master(A, 1, (0, 0), (2, 2), (16000, SLOTS - 1)))])
    assert found.uncovered == SLOTS - 2 - 384
    assert slots_of(found) == {"a": ((0, 0), (2, 2), (16000, SLOTS - 1))}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, SLOTS - 1), st.integers(0, 3000)), max_size=12))
def test_every_slot_has_the_owner_of_the_highest_epoch(claims: list[tuple[int, int, int]]) -> None:
    names = (A, B, C, D)
    slots: dict[str, list[tuple[int, int]]] = {id: [] for id in names}
    for index, first, length in claims:
        slots[names[index]].append((first, min(SLOTS - 1, first + length)))
    nodes = [master(id, epoch, *slots[id]) for epoch, id in enumerate(names, 1)]
    found = choose([view(id, *nodes) for id in names])
    got = topology.owners(found.masters)
    for slot in range(0, SLOTS, 97):
        claiming = [id for id in names if any(first <= slot <= last for first, last in slots[id])]
        assert got[slot] == (claiming[-1] if claiming else "")
    assert found.uncovered == got.count("")


# -- words and bytes ---------------------------------------------------------------------------------------------------


def test_changes_in_words() -> None:
    old = choose([view(A, master(A, 1, (0, SLOTS - 1)), replica(B, A))])
    new = choose([view(B, replica(A, B), master(B, 2, (0, SLOTS - 3)), master(C, 3))])
    assert describe(Layout(), old) == "1 masters, 1 replicas, every slot has a node"
    assert describe(old, replace(old, masters=(replace(old.masters[0], epoch=9),))) == ""
    assert describe(old, new) == (
        "10.0.0.99:6379 came as a spare, 10.0.0.98:6379 is a master now, 10.0.0.97:6379 is a replica now, "
        "16384 slots moved, slots without a node: 2"
    )
    assert describe(new, old).endswith("every slot has a node")


def test_many_changes_are_a_short_line() -> None:
    nodes = [Node(f"{n:040x}", f"10.0.1.{n}", 1) for n in range(50)]
    layout = choose([View(nodes[0].id, {node.id: node for node in nodes})])
    assert "43 changes more" in describe(choose([view(A, master(A, 1, (0, 5)))]), layout)


def test_what_is_published_can_be_read_again() -> None:
    layout = choose([view(A, master(A, 4, (0, 5), (7, 9)), replica(B, A, 4), master(C, 4))])
    up, cells = {A: True, B: False, C: True}, {A: 0, B: 1, C: -1}
    data = topology.dump(layout, up, cells, ["a:1"], 7, looked=1.25)
    same = replace(layout, replicas=(replace(layout.replicas[0], epoch=4),))
    assert topology.load(data) == (same, up, cells, ["a:1"])
    assert json.loads(data) == {
        "version": 7, "seeds": ["a:1"], "looked_ns": 1_250_000_000, "epoch": 4, "uncovered": SLOTS - 9,
        "masters": [{
            "id": A, "host": "10.0.0.97", "port": 6379, "up": True, "cell": 0, "slots": [[0, 5], [7, 9]],
            "replicas": [{"id": B, "host": "10.0.0.98", "port": 6379, "up": False, "cell": 1}],
        }],
        "spares": [{"id": C, "host": "10.0.0.99", "port": 6379, "up": True, "cell": -1}],
    }  # fmt: skip


def test_the_most_scattered_slots_fit_on_the_board() -> None:
    even = tuple((slot, slot) for slot in range(0, SLOTS, 2))
    odd = tuple((slot, slot) for slot in range(1, SLOTS, 2))
    nodes = [master(A, 1, *even), master(B, 2, *odd), *(replica(f"{n:040x}", A) for n in range(100))]
    layout = choose([view(A, *nodes)])
    assert len(layout.masters[0].slots) == SLOTS // 2
    ids = [node.id for node in layout.nodes]
    assert (
        len(topology.dump(layout, dict.fromkeys(ids, False), dict.fromkeys(ids, 255), ["a:1"] * 8, 10**6)) < 256 << 10
    )
