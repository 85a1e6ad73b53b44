"""A real Redis Cluster of Valkey processes on loopback, for the demo, the tests and the benchmark.

Ready about three seconds after its start: a master waits two seconds before it takes writes.
"""

import contextlib
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import redis
from redis.exceptions import RedisError

from playground.servers import Valkey, free_port, wait_until

SLOTS = 16384
START_SECONDS = 20.0
KEYS_AT_ONCE = 100


class ClusterNode(Valkey):
    """One node. `client` talks to it alone and never follows a redirect."""

    def __init__(self, options: tuple[str, ...], port: int | None = None) -> None:
        super().__init__(port)
        self.bus_port = free_port(self.host)
        self.options = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port), *options)
        self.client: Any = redis.Redis(host=self.host, port=self.port, socket_timeout=5.0, socket_connect_timeout=5.0)

    def ask(self, *words: str | int) -> Any:
        """The raw answer to a command: redis-py would make dicts of some."""
        connection = self.client.connection_pool.get_connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            self.client.connection_pool.release(connection)

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID").decode())

    def known(self) -> list[list[str]]:
        """Lines of CLUSTER NODES, as fields."""
        return [line.split() for line in self.ask("CLUSTER", "NODES").decode().splitlines()]

    def view(self) -> frozenset[tuple[str, ...]]:
        """Each master as this node knows it: its id, its epoch, its slots."""
        masters = [line for line in self.known() if "master" in line[2]]
        return frozenset((line[0], line[6], *(word for word in line[8:] if word[0] != "[")) for line in masters)

    def is_ok(self) -> bool:
        return b"cluster_state:ok" in self.ask("CLUSTER", "INFO")

    def replicates(self) -> bool:
        return b"master_link_status:up" in self.ask("INFO", "replication")

    def use_password(self, password: str) -> None:
        self.client = redis.Redis(host=self.host, port=self.port, password=password, socket_timeout=5.0)


class ValkeyCluster:
    """`masters` nodes that share the slots evenly, each with `replicas` of its own. A context manager.

    `node_timeout` is in milliseconds: a master that is silent for so long is replaced by a replica a second later.
    `options` go to every node's command line. `ports`, when given, are the masters' and say how many there are.
    """

    def __init__(
        self, masters: int = 3, replicas: int = 0, node_timeout: int = 2000, options: tuple[str, ...] = (),
        password: str | None = None, ports: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        common = (
            "--cluster-node-timeout", str(node_timeout), "--cluster-allow-replica-migration", "no",
            "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0", *options,
        )  # fmt: skip
        if password is not None:
            common += ("--requirepass", password, "--primaryauth", password)
        self.masters = [ClusterNode(common, port) for port in ports or (None,) * masters]
        self.replicas = [ClusterNode(common) for _ in range(masters * replicas)]
        for node in self.nodes if password is not None else []:
            node.use_password(str(password))

    @property
    def nodes(self) -> list[ClusterNode]:
        """All nodes; the replica at masters + n began as one of master n modulo masters."""
        return self.masters + self.replicas

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    # -- life

    def start(self) -> "ValkeyCluster":
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait()
            self.form()
        except BaseException:
            self.stop()
            raise
        return self

    def form(self) -> None:
        """Make one cluster of the nodes, which run."""
        self._assign()
        self._meet()
        self._replicate()
        wait_until(lambda: all(node.is_ok() for node in self.nodes), START_SECONDS, "the cluster's state to be ok")

    def stop(self) -> None:
        for node in self.nodes:
            node.client.close()
            node.kill()  # nothing to save, and nobody to wait for
            node.stop()

    def __enter__(self) -> "ValkeyCluster":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _assign(self) -> None:
        count = len(self.masters)
        for index, node in enumerate(self.masters):
            first, last = index * SLOTS // count, (index + 1) * SLOTS // count - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)

    def _meet(self) -> None:
        first = self.masters[0]
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", node.host, node.port, node.bus_port)

        def all_met() -> bool:
            views = [node.known() for node in self.nodes]
            return all(len(view) == len(views) and not any("handshake" in line[2] for line in view) for view in views)

        wait_until(all_met, START_SECONDS, "the nodes to meet")

    def _replicate(self) -> None:
        for index, node in enumerate(self.replicas):
            node.ask("CLUSTER", "REPLICATE", self.masters[index % len(self.masters)].id)

        def all_replicate() -> bool:
            told = [sum("slave" in line[2] for line in node.known()) for node in self.nodes]
            return set(told) == {len(self.replicas)} and all(node.replicates() for node in self.replicas)

        wait_until(all_replicate, START_SECONDS, "the replicas to replicate")

    # -- faults

    def kill(self, node: ClusterNode) -> None:
        """As if the machine had lost it."""
        node.kill()

    def restart(self, node: ClusterNode) -> None:
        """Start a killed node again, where it was; it remembers its cluster."""
        node.start()

    # -- slots

    def alive(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.process is not None and node.process.poll() is None]

    def master_of_slot(self, slot: int) -> ClusterNode:
        """The node that itself says that it owns the slot."""
        for node in self.alive():
            (own,) = (line for line in node.known() if "myself" in line[2])
            if "master" in own[2] and _holds(own[8:], slot):
                return node
        raise LookupError(f"no node owns slot {slot}")

    def begin_migration(self, slot: int, to: ClusterNode) -> ClusterNode:
        """Open the slot at both ends: from now on keys that its owner lacks are answered ASK. Returns the owner."""
        owner = self.master_of_slot(slot)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.id)
        owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        return owner

    def move_keys(self, slot: int, owner: ClusterNode, to: ClusterNode, most: int | None = None) -> int:
        """Move up to `most` of the slot's keys; returns how many."""
        moved = 0
        while most is None or moved < most:
            count = KEYS_AT_ONCE if most is None else min(KEYS_AT_ONCE, most - moved)
            keys = owner.ask("CLUSTER", "GETKEYSINSLOT", slot, count)
            if not keys:
                break
            password = owner.client.connection_pool.connection_kwargs.get("password")
            auth = ("AUTH", password) if password else ()
            owner.ask("MIGRATE", to.host, to.port, "", 0, 5000, *auth, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_migration(self, slot: int, owner: ClusterNode, to: ClusterNode) -> None:
        """The slot is the new owner's, which hears of it first.

        Returns when the masters agree: the owner of a slot moved before they do may give it up to one that gave it up, too.
        """
        id = to.id
        masters = [to, owner, *(other for other in self.masters if other not in (to, owner))]
        for node in masters:
            with contextlib.suppress(RedisError):  # a replica can't be told, and hears of it by gossip
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", id)
        wait_until(
            lambda: len({node.view() for node in self.masters if node in self.alive()}) == 1, START_SECONDS, "one view"
        )

    def migrate_slot(self, slot: int, to: ClusterNode) -> None:
        """All steps of one slot's move."""
        owner = self.begin_migration(slot, to)
        self.move_keys(slot, owner, to)
        self.end_migration(slot, owner, to)


def _holds(ranges: Iterable[str], slot: int) -> bool:
    for text in ranges:
        first, _, last = text.partition("-")
        if not text.startswith("[") and int(first) <= slot <= int(last or first):
            return True
    return False


if __name__ == "__main__":
    with ValkeyCluster(replicas=1) as cluster:
        print(*cluster.addresses)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(3600)
