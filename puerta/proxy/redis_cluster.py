"""A Redis Cluster as one worker sees it: which node has a slot, and the connections to the nodes.

The supervisor looks at the cluster and publishes its layout on the board; a worker learns of changes in between from MOVED,
which it follows at once (`redis_layout`). One pipelined connection a node and protocol is shared by all sessions; connections
for sessions that need one of their own are kept and used again. What becomes of calls that a node refused, or that were in
flight on a connection that was lost, is decided in `redis_resend`.
"""

import errno
import os
from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.span import Spans
    from puerta.proxy.redis_caller import Call
    from puerta.proxy.redis_slots import SlotMap
    from puerta.proxy.redis_upstream import Tally, Upstream

from puerta import log
from puerta.proxy import redis_handshake, redis_layout
from puerta.proxy.redis_resend import Resender
from puerta.reactor import native

IDLE_CONNECTIONS = 16
"""Connections of their own that a node's sessions gave back and that are kept for the next."""

FIRST_BACKOFF = 0.05
MOST_BACKOFF = 1.0
LIVED_SECONDS = 1.0
"""A connection that was lost later than this worked: its node is not left alone before it is tried again."""

VANISHED_SECONDS = 30.0
"""A node that takes none of our bytes for so long is given up: new connections may reach what has taken its place."""

COMPLAINT_SECONDS = 5.0


class Node:
    """One server of the cluster. `id` is its host:port; `resp2` and `resp3` are its shared connections, `idle` those that
    sessions gave back. Of its `heirs`, all the replicas it has, the `replicas` are those that answer. It is `deposed` since it
    was last a master that answers, and `gone` since it left the cluster. `tally` is what is to be added to its table on the
    board, number `cell`, -1 for none."""

    if not cython.compiled:
        __slots__ = (
            "backoff", "cell", "complained", "connections", "deposed", "endpoint", "failed_until", "gone", "heirs", "host", "id",
            "idle", "in_flight", "port", "replica", "replicas", "resp2", "resp3", "tally", "turn",
        )  # fmt: skip

    def __init__(self, host: str, port: int) -> None:
        self.id = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.host = host
        self.port = port
        self.endpoint: Any = None
        self.resp2: Any = None
        self.resp3: Any = None
        self.replica = False
        self.heirs: list[Any] = []
        self.replicas: list[Any] = []
        self.idle: list[Any] = []
        self.failed_until = 0.0
        self.backoff = 0.0
        self.complained = 0.0
        self.deposed = 0.0
        self.gone = 0.0
        self.turn = 0
        self.cell = -1
        self.connections = 0
        self.in_flight = 0
        self.tally = Tally()

    def may_complain(self, now: float) -> bool:
        """Whether the log may hear of this node: what is wrong with it, it hears once in a while."""
        if now - self.complained <= COMPLAINT_SECONDS:
            return False
        self.complained = now
        return True


def is_reached(node: Any) -> bool:
    """It has a shared connection that works: what became of another does not speak against it."""
    return any(upstream is not None and upstream.ready for upstream in (node.resp2, node.resp3))


class Cluster:
    """`route` counts and knows the configuration; `schedule(seconds, function)` calls back later; `resolve(host)` gives an IP
    address or None. `learned` are slots that a redirection moved, and when; `found` is scratch for the slots of one request."""

    if not cython.compiled:
        __slots__ = (
            "again", "config", "connections", "found", "found_masters", "latencies", "learned", "loop", "most", "nodes",
            "reads_replicas", "resolve", "route", "schedule", "shared_resp2", "shared_resp3", "slots", "ticks",
        )  # fmt: skip

    def __init__(self, route: Any, config: Any, loop: Any, latencies: Any, schedule: Any, resolve: Any) -> None:
        self.route = route
        self.config = config
        self.loop = loop
        self.latencies = latencies
        self.schedule = schedule
        self.resolve = resolve
        self.slots = SlotMap()
        self.found = Spans()
        self.nodes: dict[Any, Node] = {}
        self.found_masters: list[Any] | None = None
        self.learned: dict[int, tuple[Node, float]] = {}
        self.most = config.limits.buffer
        self.reads_replicas = config.read_from != "masters"
        self.connections: set[Any] = set()
        self.again: Any = Resender(self)
        self.ticks = 0
        self.shared_resp2 = self.shared_resp3 = 0

    # -- the way to a slot

    def shared(self, slot: int, protocol: int, readonly: bool) -> Any:
        """The shared connection to a slot's node, or None when there is none to be had now."""
        node = self.slots.owner(slot)
        if node is None:
            node = self.owner(slot)
            if node is None:
                return None
        if readonly and self.reads_replicas:
            return self.shared_reader(node, protocol)
        upstream = node.resp3 if protocol == 3 else node.resp2
        if upstream is None or upstream.closed:
            upstream = self.open(node, protocol)
        return upstream

    def owner(self, slot: int) -> Any:
        """The node that has the slot. When we know of none, any: it may know better, or it says so in the cluster's words."""
        node = self.slots.owner(slot)
        if node is None:
            self.route.count_redis("refresh_wanted", 1)
            node = self.any_node()
        return node

    def shared_for(self, slot: int, protocol: int, readonly: bool) -> Any:
        """`shared`, for plain Python."""
        return self.shared(slot, protocol, readonly)

    def shared_of(self, node: Any, protocol: int) -> Any:
        """The shared connection to this very node, or None."""
        if node is None:
            return None
        upstream = node.resp3 if protocol == 3 else node.resp2
        if upstream is None or upstream.closed:
            upstream = self.open(node, protocol)
        return upstream

    def shared_reader(self, master: Node, protocol: int) -> Any:
        """For a read: the replicas in turn, with the master among them for `any`; without a replica, the master."""
        choice = [node for node in master.replicas if node.failed_until <= self.loop.now]
        if self.config.read_from == "any" or not choice:
            choice.append(master)
        master.turn += 1
        node = choice[master.turn % len(choice)]
        upstream = self.shared_of(node, protocol)
        return upstream if upstream is not None or node is master else self.shared_of(master, protocol)

    def open(self, node: Node, protocol: int) -> Any:
        """A new shared connection, unless the node refused one a moment ago."""
        if node.failed_until > self.loop.now or node.gone:
            return None
        upstream = self.connect(node, protocol, True)
        if upstream is None:
            return None
        if protocol == 3:
            node.resp3 = upstream
        else:
            node.resp2 = upstream
        return upstream

    def connect(self, node: Node, protocol: int, shared: bool) -> Any:
        if node.endpoint is None and not self.locate(node):
            return None
        fd = node.endpoint.connect()
        if fd < 0:
            self.node_failed(node, -fd, False)
            return None
        upstream = Upstream(self.loop, fd, self, node, protocol, shared)
        self.connections.add(upstream)
        self.loop.add(upstream)
        redis_handshake.greet(self, upstream)
        return upstream

    def locate(self, node: Node) -> bool:
        """False while the node's name is being looked up."""
        address = self.resolve(node.host)
        if address is None:
            return False
        try:
            node.endpoint = native.Endpoint(address, node.port)
        except ValueError:
            self.node_failed(node, errno.EAFNOSUPPORT, False)
        return node.endpoint is not None

    # -- connections of their own

    def borrow(self, node: Node, protocol: int) -> Any:
        """A connection for one session alone, or None."""
        for index, upstream in enumerate(node.idle):
            if upstream.protocol == protocol:
                del node.idle[index]
                self.route.count_redis("pinned_pool", -1)
                self.route.count_redis("pinned", 1)
                return upstream
        if node.failed_until > self.loop.now or node.gone:
            return None
        upstream = self.connect(node, protocol, False)
        if upstream is not None:
            self.route.count_redis("pinned", 1)
        return upstream

    def give_back(self, upstream: Upstream, clean: bool) -> None:
        """A session is done with its connection; it is kept if nothing of the session is left on it."""
        self.route.count_redis("pinned", -1)
        upstream.pushes = None
        if upstream.closed:
            return
        node = upstream.node
        if (
            clean
            and upstream.in_flight == 0
            and not node.deposed
            and not node.gone
            and len(node.idle) < IDLE_CONNECTIONS
        ):
            upstream.slim()
            node.idle.append(upstream)
            self.route.count_redis("pinned_pool", 1)
        else:
            self.connections.discard(upstream)
            upstream.abandon()

    # -- layout

    def node(self, host: str, port: int) -> Any:
        """The node of the cluster that is there; None when the layout lists none."""
        return self.nodes.get((host, port))

    def register(self, host: str, port: int) -> Node:
        """The same, for a node that the layout lists."""
        known = self.nodes.get((host, port))
        if known is None:
            known = self.nodes[host, port] = Node(host, port)
        return known

    def apply(self, layout: dict[str, Any]) -> None:
        redis_layout.apply(self, layout)

    def learn(self, line: bytes, origin: str) -> bool:
        return redis_layout.learn(self, line, origin)

    def retire(self, node: Node) -> None:
        """The node left the cluster. What it still has to answer it may."""
        del self.nodes[node.host, node.port]
        node.gone = self.loop.now

    def any_node(self) -> Any:
        """Some master that can be reached, for commands without a key: in one worker always the same."""
        known = self.masters()
        first = os.getpid() % len(known) if known else 0
        found = [node for node in known[first:] + known[:first] if node.failed_until <= self.loop.now]
        return next((node for node in found if not node.deposed), found[0] if found else None)

    def masters(self) -> list[Node]:
        """All nodes that have slots, in the order of their addresses."""
        if self.found_masters is None:
            self.found_masters = sorted(set(self.slots.owners()) - {None}, key=lambda node: node.id)
        return self.found_masters

    # -- failures

    def upstream_ready(self, upstream: Upstream) -> None:
        """It is connected. Of a machine that vanishes no packet tells: the kernel is to ask it, and to believe its silence."""
        upstream.node.failed_until = 0.0
        upstream.tally.opened += 1
        upstream.tally.connect_us += int((self.loop.now - upstream.born) * 1e6)
        native.keep_alive(upstream.fd, int(1000 * max(VANISHED_SECONDS, self.config.limits.call_timeout)))

    def node_failed(self, node: Node, error: int, lived: bool) -> None:
        """A connect failed or a connection was lost: have the cluster looked at, and leave the node alone for a moment."""
        now = self.loop.now
        node.backoff = 0.0 if lived else min(MOST_BACKOFF, node.backoff * 2 or FIRST_BACKOFF)
        node.failed_until = now + node.backoff
        node.endpoint = None
        node.tally.failures += 1
        self.route.count_redis("upstream_failures", 1)
        self.route.count_redis("refresh_wanted", 1)
        if node.may_complain(now):
            log.logger.warning(
                "route %s: node %s: %s", self.config.name, node.id, os.strerror(error) if error else "closed"
            )

    def upstream_lost(self, upstream: Upstream, error: int, reply: bytes = b"") -> None:
        """The connection is gone, or must go. `reply`: what the node itself said, when it refused us."""
        if upstream.closed:
            return
        upstream.close()
        self.connections.discard(upstream)
        node = upstream.node
        if upstream.slow is not None:
            upstream.slow.waited_by = None
            upstream.slow = None
        if node.resp2 is upstream:
            node.resp2 = None
        if node.resp3 is upstream:
            node.resp3 = None
        if upstream in node.idle:
            node.idle.remove(upstream)
            self.route.count_redis("pinned_pool", -1)
            return
        if not node.gone:
            node.tally.losses += upstream.ready
            lived = self.loop.now - upstream.born > LIVED_SECONDS or is_reached(node)
            self.node_failed(node, error, upstream.ready and lived)
        lost = b"-ERR the connection to node %s was lost\r\n" % node.id.encode()
        self.again.lost(upstream, reply or lost, not reply)
        if upstream.pushes is not None:
            upstream.pushes(b"")

    def measure(self, call: Call) -> None:
        """A reply came that went another way than the usual."""
        self.latencies.measure(call, self.loop.now)

    def close(self) -> None:
        for upstream in list(self.connections):
            upstream.abandon()
        self.connections.clear()
