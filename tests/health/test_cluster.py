"""A real cluster's layout reaches the board: at the start, when slots move, when nodes die, and after the supervisor did."""

import contextlib
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from playground.cluster import ClusterNode, ValkeyCluster
from playground.servers import free_port
from puerta.admin.status import build, readiness
from puerta.board import CHILD_STATES, MASTER_STATES, ROLES, Board
from puerta.config.schema import Address, Auth, Checks, Config, RedisRoute
from puerta.health import cluster as cluster_module
from puerta.health import redis as redis_module
from puerta.health.cluster import ClusterWatch
from puerta.health.monitor import Monitor
from puerta.health.publish import Report
from puerta.health.redis import RedisCheck
from puerta.protocol.entry import unpack
from puerta.role import Role

SLOTS = 16384


class Watched:
    """A watch over a board of its own, and what it told the store."""

    def __init__(self, route: RedisRoute, board: Board) -> None:
        self.route, self.board = route, board
        self.blob = board.topology(route.name)
        self.reports: list[tuple[Report, bool]] = []
        self.watch = ClusterWatch(route, board, lambda *report: self.reports.append(report))
        self.watch.start()

    def layout(self) -> dict[str, Any]:
        found = self.blob.read(0)
        return json.loads(found[1]) if found is not None else {"masters": [], "spares": [], "uncovered": SLOTS}

    def masters(self) -> dict[int, list[list[int]]]:
        """Slots by port, of the masters that are up."""
        return {entry["port"]: entry["slots"] for entry in self.layout()["masters"] if entry["up"]}

    def want(self) -> None:
        """As a worker does that met a redirect."""
        self.board.redis(self.route.name).add(3, "refresh_wanted")

    def close(self) -> None:
        self.watch.stop()
        for thread in self.watch.threads():
            if thread.ident is not None:
                thread.join(5)


def replicas(layout: dict[str, Any]) -> list[tuple[int, bool]]:
    """Port and "is up" of all replicas."""
    return [(each["port"], each["up"]) for entry in layout["masters"] for each in entry["replicas"]]


def address(of: ClusterNode) -> Address:
    return Address(of.host, of.port)


def route_to(*seeds: Address, auth: Auth | None = None, **health: Any) -> RedisRoute:
    checks = Checks(**{"every": 5.0, "timeout": 1.0, "rise": 2, "fall": 3, **health})
    return RedisRoute("cache", "redis", (Address("127.0.0.1", 1),), seeds, auth or Auth(), health=checks)


@pytest.fixture
def watched() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def watch(*seeds: Address, board: Board | None = None, **options: Any) -> Watched:
        table = board or Board()
        table.lay_out([], ["cache"])
        made.append(Watched(route_to(*seeds, **options), table))
        return made[-1]

    yield watch
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def calm() -> Iterator[ValkeyCluster]:
    """A cluster in which nobody dies; slots may have moved."""
    with ValkeyCluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("puerta"), "propagate", True)
    caplog.set_level(logging.INFO, "puerta")


def lines(caplog: pytest.LogCaptureFixture, beginning: str) -> list[str]:
    return [text for text in (record.getMessage() for record in caplog.records) if text.startswith(beginning)]


# -- a healthy cluster -------------------------------------------------------------------------------------------------


def test_the_layout_is_published_although_the_first_seed_is_dead(
    calm: ValkeyCluster, watched: Any, wait_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = watched(Address("127.0.0.1", free_port()), address(calm.masters[1]))
    wait_for(lambda: len(one.masters()) == 3)
    layout = one.layout()
    assert {entry["id"] for entry in layout["masters"]} == {node.id for node in calm.masters}
    assert sum(last - first + 1 for slots in one.masters().values() for first, last in slots) == SLOTS
    for port, slots in one.masters().items():
        assert calm.master_of_slot(slots[0][0]).port == port
    assert (layout["uncovered"], layout["version"], layout["spares"]) == (0, one.blob.version, [])
    assert [entry["host"] for entry in layout["masters"]] == ["127.0.0.1"] * 3
    assert sorted(entry["cell"] for entry in layout["masters"]) == [0, 1, 2]
    wait_for(lambda: len([line for line in lines(caplog, "backend cache/") if "is up" in line]) == 3)
    assert len(lines(caplog, "cluster cache: 3 masters, 0 replicas, every slot has a node")) == 1


def test_nothing_is_published_again_without_a_change(calm: ValkeyCluster, watched: Any, wait_for: Any) -> None:
    one = watched(address(calm.masters[0]))
    wait_for(lambda: len(one.masters()) == 3)
    wait_for(lambda: {node.state for node in one.watch.snapshot().nodes} == {"up"})
    version, number = one.blob.version, one.watch.number
    one.want()
    wait_for(lambda: one.watch.number > number and not one.watch.looking)
    assert one.blob.version == version


def test_a_moved_slot_is_published_when_a_worker_asks(calm: ValkeyCluster, watched: Any, wait_for: Any) -> None:
    one = watched(address(calm.masters[0]))
    wait_for(lambda: len(one.masters()) == 3)
    slot = 100
    owner = calm.master_of_slot(slot)
    target = next(node for node in calm.masters if node is not owner)
    before = time.monotonic_ns()
    assert one.layout()["looked_ns"] < before
    calm.migrate_slot(slot, target)
    one.want()
    took = wait_for(lambda: any(first <= slot <= last for first, last in one.masters()[target.port]))
    assert took < 1
    assert before < one.layout()["looked_ns"] < time.monotonic_ns()
    assert one.layout()["uncovered"] == 0


def test_many_wishes_are_few_looks(calm: ValkeyCluster, watched: Any, wait_for: Any) -> None:
    one = watched(address(calm.masters[0]))
    wait_for(lambda: len(one.masters()) == 3)
    number, began = one.watch.number, time.monotonic()
    while time.monotonic() - began < 1:
        one.want()
        time.sleep(0.001)
    took = time.monotonic() - began
    assert 2 <= one.watch.number - number <= took / cluster_module.HASTE + 2


def test_a_new_supervisor_begins_with_what_the_last_one_published(
    calm: ValkeyCluster, watched: Any, wait_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    board, seeds = Board(), [address(calm.masters[0])]
    first = watched(*seeds, board=board)
    wait_for(lambda: {node.state for node in first.watch.snapshot().nodes} == {"up"} and len(first.masters()) == 3)
    first.close()
    before = first.layout()
    caplog.clear()
    second = watched(*seeds, board=board)
    assert {node.state for node in second.watch.snapshot().nodes} == {"up"}
    wait_for(lambda: second.watch.seen > 0)
    assert second.layout()["masters"] == before["masters"]
    assert not lines(caplog, "cluster cache")


def test_other_seeds_may_name_another_cluster(
    calm: ValkeyCluster, watched: Any, wait_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """After a reload: what was published is of the old one then, which may well be alive."""
    board = Board()
    first = watched(address(calm.masters[0]), board=board)
    wait_for(lambda: len(first.masters()) == 3)
    counted = {node.cell for node in first.watch.snapshot().nodes}
    first.close()
    second = watched(Address("127.0.0.1", free_port()), board=board)
    assert {node.role for node in second.watch.snapshot().nodes} == {"seed"}
    assert "the seeds are others now" in "".join(lines(caplog, "cluster cache"))
    second.close()
    caplog.clear()
    third = watched(address(calm.masters[1]), board=board)  # another node of the same cluster
    assert {node.state for node in third.watch.snapshot().nodes} == {"up"}
    wait_for(lambda: third.layout()["seeds"] == [calm.masters[1].address])
    assert counted == {node.cell for node in third.watch.snapshot().nodes}
    assert not lines(caplog, "cluster cache")


def test_the_last_word_is_that_of_the_supervisor_that_stays(calm: ValkeyCluster, watched: Any, wait_for: Any) -> None:
    """One that leaves may publish an old look after its successor began."""
    board, seeds = Board(), [address(calm.masters[0])]
    one = watched(*seeds, board=board)
    wait_for(lambda: {node.state for node in one.watch.snapshot().nodes} == {"up"} and len(one.masters()) == 3)
    board.topology("cache").publish(b'{"masters":[]}')
    one.want()
    wait_for(lambda: len(one.masters()) == 3)


def test_a_node_that_another_machine_lost_is_asked_at_once(calm: ValkeyCluster, watched: Any, wait_for: Any) -> None:
    one = watched(address(calm.masters[0]), every=60.0)
    wait_for(lambda: {node.state for node in one.watch.snapshot().nodes} == {"up"} and len(one.masters()) == 3)
    name = calm.masters[1].address
    checked = one.watch.nodes[name].checked
    one.watch.suspect(name)
    one.watch.suspect("nobody:1")
    assert wait_for(lambda: one.watch.nodes[name].checked > checked) < 1


def test_the_status_tells_the_truth(calm: ValkeyCluster, wait_for: Any) -> None:
    route, board = route_to(*[address(node) for node in calm.masters]), Board()
    board.lay_out([], ["cache"])
    role = Role("supervisor", -1, 200, 1, Config(routes=(route,)), "", board, "", -1)
    board.master.set(0, "state", MASTER_STATES.index("running"))
    board.children.set(0, "role", ROLES.index("worker"))
    board.children.set(0, "state", CHILD_STATES.index("up"))
    monitor = Monitor(role.config, board, lambda report, changed: None)
    assert dict(readiness(build(role, monitor)))["route cache"] == "no master is up"
    monitor.start()
    try:
        wait_for(lambda: dict(readiness(build(role, monitor)))["route cache"] is None)
        wait_for(lambda: all(node["state"] == "up" for node in build(role, monitor)["routes"][0]["backends"]))
        (found,) = build(role, monitor)["routes"]
    finally:
        monitor.stop(5)
    assert (found["mode"], found["slots_covered"]) == ("redis", SLOTS)
    assert found["topology_age_seconds"] < 5
    assert {node["id"] for node in found["backends"]} == set(calm.addresses)
    assert {(node["role"], node["weight"], node["check"]["ok"]) for node in found["backends"]} == {("master", 1, True)}
    assert sum(node["slots"] for node in found["backends"]) == SLOTS
    assert all(node["check"]["latency_ms"] > 0 for node in found["backends"])


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_killed_master_is_replaced_as_soon_as_the_cluster_did_so(
    watched: Any, wait_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with ValkeyCluster(replicas=1, node_timeout=1000) as cluster:
        one = watched(address(cluster.masters[0]), address(cluster.masters[1]), every=1.0)
        wait_for(lambda: len(one.masters()) == 3)
        wait_for(lambda: sorted(replicas(one.layout())) == sorted((each.port, True) for each in cluster.replicas))
        lost, heir = cluster.masters[0], cluster.replicas[0]
        cluster.kill(lost)
        wait_for(lambda: lost.port not in one.masters(), 5)
        wait_for(lambda: any("myself,master" in line[2] and len(line) > 8 for line in heir.known()), 15)
        assert wait_for(lambda: heir.port in one.masters(), 5) < 1
        layout = one.layout()
        assert one.masters()[heir.port] == [[0, 5460]]
        assert [(entry["port"], entry["up"]) for entry in layout["spares"]] == [(lost.port, False)]
        assert layout["uncovered"] == 0
        name = f"backend cache/{lost.address} is down"
        assert len(lines(caplog, name)) == 1
        assert len([line for line in lines(caplog, "cluster cache") if f"{heir.address} is a master now" in line]) == 1
        cluster.restart(lost)
        wait_for(lambda: (lost.port, True) in replicas(one.layout()), 15)


def test_all_nodes_go_and_one_returns(watched: Any, wait_for: Any) -> None:
    """With a password, and with a node that takes its time to answer."""
    with ValkeyCluster(masters=1, password="secret") as cluster:
        (node,) = cluster.masters
        one = watched(address(node), auth=Auth(None, "secret"), timeout=0.3)
        wait_for(lambda: list(one.masters()) == [node.port])
        node.signal(signal.SIGSTOP)
        one.want()  # its connections stay open, so only who waits for an answer notices
        wait_for(lambda: not one.masters(), 5)
        assert one.layout()["masters"][0]["slots"] == [[0, SLOTS - 1]]  # it still has them: nobody took them
        assert one.watch.snapshot().nodes[0].result.error == "timed out"
        node.signal(signal.SIGCONT)
        wait_for(lambda: list(one.masters()) == [node.port], 5)
        cluster.kill(node)
        wait_for(lambda: not one.masters(), 5)
        assert one.watch.snapshot().nodes[0].result.error == "connection refused"
        cluster.restart(node)
        wait_for(lambda: list(one.masters()) == [node.port], 10)
        node.ask("CLUSTER", "DELSLOTSRANGE", 5, 9)
        one.want()
        wait_for(lambda: one.layout()["uncovered"] == 5, 5)
        assert one.masters() == {node.port: [[0, 4], [10, SLOTS - 1]]}


# -- single nodes ------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_said(calm: ValkeyCluster) -> None:
    result = RedisCheck(address(calm.masters[0]), 1.0, Auth("nobody", "wrong")).check()
    assert not result.ok
    assert result.error.startswith("authentication failed")


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


HELLO = b"*4\r\n" + bulk("version") + bulk("6.2.6") + bulk("id") + b":7\r\n"
INFO = bulk("cluster_state:ok\r\ncluster_current_epoch:1\r\n")
NODES = bulk(f"{'a' * 40} 10.1.1.1:7@17 myself,master - 0 0 1 connected 0-16383\n")
OLD = {
    b"SETNAME": b"+OK\r\n", b"SETINFO": b"+OK\r\n", b"PING": b"+PONG\r\n", b"HELLO": HELLO, b"INFO": INFO, b"NODES": NODES,
    b"SHARDS": b"-ERR Unknown subcommand or wrong number of arguments for 'SHARDS'. Try CLUSTER HELP.\r\n",
    b"SLOTS": b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n" + bulk("old.example") + b":9\r\n" + bulk("a" * 40),
}  # fmt: skip
"""What a Redis 6 answers, by the last word of a command that it knows."""


class Played:
    """A node that answers by a list, and closes the connection after the answer to `last`."""

    def __init__(self, answers: dict[bytes, bytes], last: bytes = b"") -> None:
        self.answers, self.last = answers, last
        self.connections = 0
        self.drip = 0.0
        self.heard: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self.listener.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as file, contextlib.suppress(OSError):
            known = b"-"
            while known != self.last:
                head = file.readline()
                if not head:
                    return
                words = [file.read(int(file.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                known = next((word for word in words if word in self.answers), b"")
                self.heard.append(known)
                peer.sendall(self.answers.get(known, b"-ERR unknown command\r\n"))
                while self.drip and known == b"NODES":
                    time.sleep(self.drip)
                    peer.sendall(b"x")


@pytest.fixture
def played() -> Iterator[Callable[..., Played]]:
    made: list[Played] = []

    def play(answers: dict[bytes, bytes], last: bytes = b"") -> Played:
        made.append(Played(answers, last))
        return made[-1]

    yield play
    for each in made:
        each.listener.close()


def test_redis_6_is_asked_for_its_slots(played: Any) -> None:
    node = played(OLD)
    check = RedisCheck(node.address, 1.0, Auth())
    for _ in range(2):
        assert check.check().ok
        assert check.view is not None
        assert str(check.view.nodes["a" * 40].address) == "old.example:9"
    assert node.heard.count(b"SHARDS") == 1
    assert node.connections == 1
    check.close()


@pytest.mark.parametrize(
    "change, error",
    [
        ({b"PING": b"-LOADING Redis is loading the dataset in memory\r\n"}, "oading"),
        ({b"PING": b"-MASTERDOWN Link with MASTER is down\r\n"}, "MASTER is down"),
        ({b"PING": b"-NOAUTH Authentication required.\r\n"}, "authentication failed"),
        ({b"INFO": b"-ERR This instance has cluster support disabled\r\n"}, "cluster support disabled"),
        ({b"NODES": b"-NOPERM this user has no permissions\r\n"}, "no permissions"),
        ({b"NODES": b"$5\r\nhello\r\n"}, "too short"),
        ({b"NODES": b":5\r\n"}, "CLUSTER NODES"),
        ({b"INFO": b":5\r\n"}, "CLUSTER INFO"),
        ({b"SLOTS": b":5\r\n"}, "CLUSTER SLOTS"),
        ({b"PING": b"hello\r\n"}, ""),
    ],
)
def test_what_is_wrong_with_a_node_is_said(played: Any, change: dict[bytes, bytes], error: str) -> None:
    check = RedisCheck(played(OLD | change).address, 1.0, Auth())
    result = check.check()
    assert not result.ok
    assert error in result.error
    assert result.error
    assert check.view is None
    assert check.connection is None


@pytest.mark.parametrize("kind", [b"$99999999\r\n", b"*99999999\r\n"])
def test_an_answer_without_end_is_not_read_to_its_end(played: Any, kind: bytes) -> None:
    check = RedisCheck(played(OLD | {b"NODES": kind + b"$1\r\nx\r\n" * 3_000_000}).address, 5.0, Auth())
    result = check.check()
    assert (result.ok, result.error, check.connection) == (False, "the answer is too long", None)


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for_for_ever(played: Any) -> None:
    node = played(OLD | {b"NODES": b"$99999\r\n"})
    node.drip = 0.1
    check = RedisCheck(node.address, 0.5, Auth())
    began = time.monotonic()
    assert check.check().error == "timed out"
    assert 0.4 < time.monotonic() - began < 3


def test_a_connection_that_was_closed_for_idleness_is_not_held_against_the_node(played: Any) -> None:
    node = played(OLD, last=b"SLOTS")  # the last command of a look
    check = RedisCheck(node.address, 1.0, Auth())
    for _ in range(3):
        assert check.check().ok
    assert node.connections == 3
    check.close()


def test_a_node_that_always_hangs_up_is_not_asked_without_pause(played: Any, watched: Any) -> None:
    node = played(OLD, last=b"SLOTS")
    watched(node.address)
    time.sleep(1.0)
    assert 1 <= node.connections <= 25


def test_a_failed_state_of_the_cluster_is_a_warning(played: Any) -> None:
    node = played(OLD | {b"INFO": bulk("cluster_state:fail\r\n")})
    result = RedisCheck(node.address, 1.0, Auth()).check()
    assert result.ok
    assert "refuses commands" in result.warnings[0]


# -- commands ----------------------------------------------------------------------------------------------------------


def hello(version: str) -> bytes:
    return b"*4\r\n" + bulk("version") + bulk(version) + bulk("modules") + b"*0\r\n"


def listing(*names: str) -> bytes:
    """A COMMAND reply: all of them read the key behind their name."""
    rows = [b"*6\r\n" + bulk(name) + b":-2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n" for name in names]
    return b"*%d\r\n" % len(rows) + b"".join(rows)


def learned(one: Watched) -> list[str]:
    found = one.board.commands("cache").read(0)
    return [each.name for each in unpack(found[1])] if found is not None else []


def alone(node: Played) -> None:
    """The node is a cluster by itself, where it listens."""
    port = node.address.port
    node.answers |= {
        b"NODES": bulk(f"{'a' * 40} :{port}@1 myself,master - 0 0 1 connected 0-16383\n"), b"SLOTS": b"*0\r\n",
    }  # fmt: skip


def test_a_node_is_asked_for_its_commands_once_and_again_when_it_changed(
    played: Any, watched: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "COMMANDS_PAUSE", 0.0)
    node = played(OLD | {b"HELLO": hello("9.1"), b"COMMAND": listing("mget", "m.one")}, last=b"never")
    alone(node)
    one = watched(node.address, every=0.1)
    wait_for(lambda: learned(one) == ["M.ONE"])
    for _ in range(3):
        number = one.watch.number
        one.want()
        wait_for(lambda number=number: one.watch.number > number and not one.watch.looking)
    assert node.heard.count(b"COMMAND") == 1
    node.answers[b"COMMAND"] = listing("m.two")
    node.answers[b"HELLO"] = hello("9.2")
    one.want()
    wait_for(lambda: learned(one) == ["M.ONE", "M.TWO"])
    assert node.heard.count(b"COMMAND") == 2


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"-NOPERM this user has no permissions\r\n", "no permissions"),
        (b":5\r\n", "not an answer to COMMAND"),
        (b"*2\r\n$-1\r\n*1\r\n:5\r\n", "not an answer to COMMAND"),
        (b"hello\r\n", ""),
    ],
)
def test_what_is_no_list_of_commands_is_said_once_and_costs_nothing(
    played: Any, watched: Any, wait_for: Any, caplog: pytest.LogCaptureFixture, answer: bytes, complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(redis_module, "COMMANDS_PAUSE", 0.0)
    node = played(OLD | {b"COMMAND": answer}, last=b"never")
    alone(node)
    one = watched(node.address, every=0.1)
    name = f"backend cache/{node.address} does not say which commands it has: "
    wait_for(lambda: lines(caplog, name + complaint) or complaint in "".join(lines(caplog, name)))
    wait_for(lambda: node.heard.count(b"PING") > 5)
    assert len(lines(caplog, name)) == 1
    assert one.watch.snapshot().nodes[0].state == "up"
    assert learned(one) == []
