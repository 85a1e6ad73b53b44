"""What clients get while a node is gone, and once a replica has taken its place: the truth, or an error."""

from collections.abc import Callable, Iterator

import pytest

from playground.cluster import ClusterNode, ValkeyCluster
from puerta.protocol.slots import slot_of
from tests.harness import Running, free_port
from tests.redis.wire import Wire, decoded, request, until

CONFIG = """
workers: 1
log: {{access: false}}
routes:
  - name: cache
    mode: redis
    listen: 127.0.0.1:{port}
    cluster: [{seeds}]
    topology_refresh: 1s
    health: {{every: 200ms, timeout: 500ms}}
"""

CHANGED = b"-ERR the masters of the cluster have changed since this SCAN began; begin again with cursor 0\r\n"
KEYS = [f"k{number}" for number in range(40)]
Connect = Callable[[], Wire]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """Each master has a replica, which takes over two seconds after its death at the earliest."""
    with ValkeyCluster(replicas=1) as found:
        yield found


@pytest.fixture(scope="module")
def port(cluster: ValkeyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    text = CONFIG.format(port=port, seeds=", ".join(cluster.addresses))
    with Running(tmp_path_factory.mktemp("puerta"), text) as running:
        yield port
        assert "session failed" not in running.text() and "Traceback" not in running.text(), running.text()


@pytest.fixture
def connect(cluster: ValkeyCluster, port: int) -> Iterator[Connect]:
    """Gives connections; KEYS are set, and on every replica."""
    opened: list[Wire] = []

    def make() -> Wire:
        opened.append(Wire(port))
        return opened[-1]

    wire = make()
    until(lambda: wire.ask("FLUSHALL") == b"+OK\r\n", "all masters are there")
    assert wire.ask("MSET", *[word for key in KEYS for word in (key, key)]) == b"+OK\r\n"
    until(lambda: in_step(cluster), "the replicas have it all")
    yield make
    for each in opened:
        each.close()


def in_step(cluster: ValkeyCluster) -> bool:
    sizes = [node.client.dbsize() for node in cluster.nodes]
    return all(node.is_ok() for node in cluster.nodes) and sum(sizes) == 2 * len(KEYS)


def owner(cluster: ValkeyCluster, key: str) -> ClusterNode:
    return cluster.master_of_slot(slot_of(key.encode()))


def replica_of(cluster: ValkeyCluster, master: ClusterNode) -> ClusterNode:
    for node in cluster.nodes:
        (own,) = (line for line in node.known() if "myself" in line[2])
        if own[3] == master.id:
            return node
    raise LookupError("it has no replica")


def promote_replica(cluster: ValkeyCluster, wire: Wire, key: str) -> None:
    """Of the key's master; returns when Puerta has heard of it."""
    before = owner(cluster, key)
    after = replica_of(cluster, before)
    after.ask("CLUSTER", "FAILOVER")
    until(lambda: after.client.info("replication")["role"] == "master", "the replica is a master")
    until(lambda: in_step(cluster), "the old master is a replica")
    until(lambda: wire.ask("SET", key, key) == b"+OK\r\n", "Puerta finds it")


def test_a_scan_ends_cleanly_when_a_master_has_been_replaced(connect: Connect, cluster: ValkeyCluster) -> None:
    wire = connect()
    cursor, _ = decoded(wire.ask("SCAN", 0, "COUNT", 1))
    assert cursor != b"0"
    promote_replica(cluster, wire, "k0")
    assert (
        until(lambda: said if (said := wire.ask("SCAN", cursor, "COUNT", 1))[:1] == b"-" else None, "it ends")
        == CHANGED
    )
    found: list[bytes] = []
    cursor = b"0"
    while cursor != b"0" or not found:
        cursor, keys = decoded(wire.ask("SCAN", cursor))
        found += keys
    assert sorted(found) == sorted(key.encode() for key in KEYS)


def test_a_script_that_a_new_master_does_not_know(connect: Connect, cluster: ValkeyCluster) -> None:
    """NOSCRIPT reaches the client, which loads it again, as its library does anyway."""
    wire = connect()
    sha = decoded(wire.ask("SCRIPT", "LOAD", "return redis.call('get', KEYS[1])")).decode()
    assert wire.ask("EVALSHA", sha, 1, "k0") == b"$2\r\nk0\r\n" and wire.ask("SCRIPT", "EXISTS", sha) == b"*1\r\n:1\r\n"
    promote_replica(cluster, wire, "k0")
    # SCRIPT LOAD reached this node, too, if the layout was from before the last test's failover.
    owner(cluster, "k0").ask("SCRIPT", "FLUSH")
    assert wire.ask("EVALSHA", sha, 1, "k0") == b"-NOSCRIPT No matching script.\r\n"
    assert wire.ask("SCRIPT", "EXISTS", sha) == b"*1\r\n:0\r\n"
    assert decoded(wire.ask("SCRIPT", "LOAD", "return redis.call('get', KEYS[1])")).decode() == sha
    assert wire.ask("EVALSHA", sha, 1, "k0") == b"$2\r\nk0\r\n" and wire.ask("SCRIPT", "EXISTS", sha) == b"*1\r\n:1\r\n"


def test_who_waits_at_a_master_that_is_replaced_waits_at_the_new_one(connect: Connect, cluster: ValkeyCluster) -> None:
    """The old one gave up the command without executing it, or keeps what only reads and is left.

    Twice: a connection that was made to a replica is one that its node, when it is a replica again, lets wait.
    """
    waits: list[tuple[tuple[str, ...], bytes]] = [
        (("BLPOP", "{k0}list", "0"), b"*2\r\n$8\r\n{k0}list\r\n$1\r\nv\r\n"),
        (("XREAD", "BLOCK", "0", "STREAMS", "{k0}stream", "0"), b"*1\r\n*2\r\n$10\r\n{k0}stream\r\n"),
    ]
    other = connect()
    for _ in range(2):
        other.ask("DEL", "{k0}list", "{k0}stream")
        wires = [connect() for _ in waits]
        for wire, (command, _) in zip(wires, waits, strict=True):
            wire.send(request(*command) + request("PING"))
        until(lambda: blocked(cluster) == 2, "they wait")
        promote_replica(cluster, other, "k0")
        until(lambda: blocked(cluster) == 2, "they wait again")
        other.pipeline([("RPUSH", "{k0}list", "v"), ("XADD", "{k0}stream", "1-1", "f", "v")])
        for wire, (_, wanted) in zip(wires, waits, strict=True):
            said = wire.frames(2)
            assert said[0].startswith(wanted) and said[1] == b"+PONG\r\n"
        other.ask("DEL", "{k0}list", "{k0}stream")


def blocked(cluster: ValkeyCluster) -> int:
    """At the master of k0."""
    return int(owner(cluster, "k0").client.info("clients")["blocked_clients"])


def test_while_a_node_is_gone_nothing_is_a_silent_lie(connect: Connect, cluster: ValkeyCluster) -> None:
    """What needs it fails as a whole; all else works. Then its replica answers."""
    gone = owner(cluster, "k0")
    here = next(key for key in KEYS if owner(cluster, key) is not gone)
    asked: list[tuple[str, ...]] = [
        ("MGET", *KEYS), ("EXISTS", *KEYS), ("TOUCH", *KEYS), ("DBSIZE",), ("KEYS", "*"), ("MGET", here, "k0"), ("GET", "k0"),
        ("SET", "k0", "x"), ("PUBSUB", "NUMSUB", "c"), ("SCRIPT", "EXISTS", "0" * 40), ("BLPOP", "{k0}list", "1"),
        ("WATCH", "k0"), ("SSUBSCRIBE", "k0"), ("EVAL", "return redis.call('incr', KEYS[1])", "1", "{k0}n"),
        ("MSET", here, here, "k0", "x"),
        ("SCRIPT", "LOAD", "return 1"),
    ]  # fmt: skip
    wires = [connect() for _ in asked]
    subscriber, other = connect(), connect()
    subscriber.ask("SSUBSCRIBE", "{k0}channel")
    cluster.kill(gone)
    for wire, command in zip(wires, asked, strict=True):
        wire.send(request(*command) + request("PING"))
    assert other.pipeline([("GET", here), ("SET", here, here), ("MGET", here, here), ("PING",), ("PUBLISH", "c", "x")]) == [
        b"$%d\r\n%s\r\n" % (len(here), here.encode()), b"+OK\r\n", b"*2\r\n" + b"$%d\r\n%s\r\n" % (len(here), here.encode()) * 2,
        b"+PONG\r\n", b":0\r\n",
    ]  # fmt: skip
    for wire, command in zip(wires, asked, strict=True):
        said, then = wire.frames(2)
        assert said.startswith((b"-CLUSTERDOWN ", b"-ERR the connection to node ")), (command, said)
        assert then == b"+PONG\r\n", command
    assert ended(subscriber), "it would miss messages"
    until(lambda: other.ask("GET", "k0") == b"$2\r\nk0\r\n", "the replica has taken over")
    until(lambda: other.ask("DBSIZE") == b":%d\r\n" % len(KEYS), "all masters answer")
    assert other.ask("EXISTS", *KEYS) == b":%d\r\n" % len(KEYS)
    assert decoded(other.ask("MGET", *KEYS)) == [key.encode() for key in KEYS]
    cluster.restart(gone)
    until(lambda: in_step(cluster), "it is a replica now")


def ended(wire: Wire) -> bool:
    try:
        return wire.rest() == b""
    except ConnectionResetError:
        return True
