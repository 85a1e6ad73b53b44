"""A Redis Cluster as one worker sees it: which node has a slot, the connections to the nodes, and what to do when they fail.

The supervisor looks at the cluster and publishes its layout on the board; a worker learns of changes in between from MOVED,
which it follows at once. One pipelined connection a node and protocol is shared by all sessions; connections for sessions
that need one of their own are kept and used again.

What an error or a lost connection means for a call depends on one question: can it have been executed? MOVED, ASK, TRYAGAIN,
CLUSTERDOWN, LOADING, MASTERDOWN and READONLY say that it was not, so the call is sent again, a bounded number of times. A call
whose bytes did not leave us was not either. A call that was sent and not answered is only repeated when it only reads.
"""

import errno
import os
from typing import Any

import cython

if not cython.compiled:
    from puerta.proxy.redis_upstream import Call, Upstream

from puerta import log
from puerta.protocol import resp, slots
from puerta.proxy.redis_upstream import PATIENCE, RAW
from puerta.reactor import native

SLOTS = 16384
IDLE_CONNECTIONS = 16
"""Connections of their own that a node's sessions gave back and that are kept for the next."""

FIRST_RETRY = 0.02
"""Seconds before a call is sent again that the cluster was not ready for; doubled each time."""

FIRST_BACKOFF = 0.05
MOST_BACKOFF = 1.0


class Node:
    """One server of the cluster. `id` is its host:port; `resp2` and `resp3` are its shared connections."""

    if not cython.compiled:
        __slots__ = (
            "backoff", "complained", "endpoint", "failed_until", "host", "id", "idle", "port", "replica", "replicas", "resp2",
            "resp3", "turn",
        )  # fmt: skip

    def __init__(self, host: str, port: int) -> None:
        self.id = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.host = host
        self.port = port
        self.endpoint: Any = None
        self.resp2: Any = None
        self.resp3: Any = None
        self.replica = False
        self.replicas: list[Any] = []
        self.idle: list[Any] = []
        self.failed_until = 0.0
        self.backoff = 0.0
        self.complained = 0.0
        self.turn = 0


class Latencies:
    """This worker's row of the histograms: powers of two of a microsecond, for each command."""

    if not cython.compiled:
        __slots__ = ("base", "buckets", "cells", "commands", "sums")

    def __init__(self, cells: Any, base: int, sums: int, buckets: int, commands: int) -> None:
        self.cells = cells
        self.base = base
        self.sums = sums
        self.buckets = buckets
        self.commands = commands

    def add(self, command: int, seconds: float) -> int:
        if command >= self.commands:
            return 0
        microseconds = int(seconds * 1e6)
        self.cells[self.sums + command] += microseconds
        bucket = 0
        left = microseconds >> 1
        while left > 0 and bucket < self.buckets - 1:
            left = left >> 1
            bucket += 1
        self.cells[self.base + command * self.buckets + bucket] += 1
        return 0


class Handshake:
    """Checks the replies to what a new connection says first (HELLO, AUTH, READONLY)."""

    __slots__ = ("cluster", "upstream")

    def __init__(self, cluster: Any, upstream: Any) -> None:
        self.cluster = cluster
        self.upstream = upstream

    def leg_answered(self, call: Any, reply: bytes) -> None:
        if reply[:1] == b"-":
            self.cluster.refused(self.upstream, reply)


class Cluster:
    """`route` counts and knows the configuration; `schedule(seconds, function)` calls back later; `resolve(host)` gives an IP
    address or None."""

    if not cython.compiled:
        __slots__ = (
            "config", "connections", "delayed", "latencies", "loop", "most", "moved", "nodes", "reads_replicas", "resolve",
            "route", "schedule", "slots", "slow_seconds", "version",
        )  # fmt: skip

    def __init__(self, route: Any, config: Any, loop: Any, latencies: Latencies, schedule: Any, resolve: Any) -> None:
        self.route = route
        self.config = config
        self.loop = loop
        self.latencies = latencies
        self.schedule = schedule
        self.resolve = resolve
        self.slots: list[Any] = [None] * SLOTS
        self.nodes: dict[Any, Node] = {}
        self.version = 0
        self.moved = 0
        self.most = config.limits.buffer
        self.slow_seconds = config.limits.slowlog
        self.reads_replicas = config.read_from != "masters"
        self.delayed: list[Any] = []
        self.connections: set[Any] = set()

    # -- the way to a slot

    def shared(self, slot: int, protocol: int, readonly: bool) -> Any:
        """The shared connection to a slot's node, or None when there is none to be had now."""
        node = self.slots[slot]
        if node is None:
            return None
        if readonly and self.reads_replicas:
            node = self.reader(node)
        upstream = node.resp3 if protocol == 3 else node.resp2
        if upstream is None or upstream.closed:
            upstream = self.open(node, protocol)
        return upstream

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

    def reader(self, master: Node) -> Any:
        """The node that answers a read: the replicas in turn, with the master among them for `any`."""
        choice = [node for node in master.replicas if node.failed_until <= self.loop.now]
        if self.config.read_from == "any" or not choice:
            choice.append(master)
        master.turn += 1
        return choice[master.turn % len(choice)]

    def open(self, node: Node, protocol: int) -> Any:
        """A new shared connection, unless the node refused one a moment ago."""
        if node.failed_until > self.loop.now:
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
        if node.endpoint is None:
            address = self.resolve(node.host)
            if address is None:
                self.node_failed(node, errno.EHOSTUNREACH)
                return None
            node.endpoint = native.Endpoint(address, node.port)
        fd = node.endpoint.connect()
        if fd < 0:
            self.node_failed(node, -fd)
            return None
        upstream = Upstream(self.loop, fd, self, node, protocol, shared)
        self.connections.add(upstream)
        self.loop.add(upstream)
        self.greet(upstream)
        return upstream

    def greet(self, upstream: Upstream) -> None:
        """What a new connection says before any client's command."""
        auth = self.config.auth
        credentials = []
        if auth.password is not None:
            credentials = [(auth.username or "default").encode(), auth.password.encode()]
        greetings = []
        if upstream.protocol == 3:
            greetings.append(resp.command(b"HELLO", b"3", *([b"AUTH", *credentials] if credentials else [])))
        elif credentials:
            greetings.append(resp.command(b"AUTH", *(credentials if auth.username else credentials[1:])))
        if upstream.node.replica:
            greetings.append(resp.command(b"READONLY"))
        for greeting in greetings:
            call = Call(None, None, RAW, False, self.loop.now)
            call.gather = Handshake(self, upstream)
            upstream.send(call, greeting)

    def refused(self, upstream: Upstream, reply: bytes) -> None:
        said = reply.decode(errors="replace").strip()
        log.logger.error("route %s: node %s refuses us: %s", self.config.name, upstream.node.id, said)
        self.upstream_lost(upstream, errno.EACCES)

    # -- connections of their own

    def borrow(self, node: Node, protocol: int) -> Any:
        """A connection for one session alone, or None."""
        while node.idle:
            upstream = node.idle.pop()
            if not upstream.closed and upstream.protocol == protocol:
                self.route.count_redis("pinned_pool", -1)
                self.route.count_redis("pinned", 1)
                return upstream
            upstream.close()
        if node.failed_until > self.loop.now:
            return None
        upstream = self.connect(node, protocol, False)
        if upstream is not None:
            self.route.count_redis("pinned", 1)
        return upstream

    def give_back(self, upstream: Upstream, clean: bool) -> None:
        """A session is done with its connection; it is kept if nothing of the session is left on it."""
        self.route.count_redis("pinned", -1)
        upstream.pushes = None
        node = upstream.node
        if clean and not upstream.closed and upstream.in_flight == 0 and len(node.idle) < IDLE_CONNECTIONS:
            node.idle.append(upstream)
            self.route.count_redis("pinned_pool", 1)
        elif not upstream.closed:
            self.connections.discard(upstream)
            upstream.close()

    # -- layout

    def node(self, host: str, port: int) -> Node:
        key = (host, port)
        known = self.nodes.get(key)
        if known is None:
            known = self.nodes[key] = Node(host, port)
        return known

    def apply(self, layout: dict[str, Any]) -> None:
        """Take over the layout that the supervisor published; connections to nodes that are gone are closed."""
        slots_now: list[Any] = [None] * SLOTS
        keep: set[Node] = set()
        for entry in layout["masters"]:
            master = self.node(entry["host"], entry["port"])
            master.replica = False
            master.replicas = [
                self.node(replica["host"], replica["port"]) for replica in entry["replicas"] if replica["up"]
            ]
            for replica in master.replicas:
                replica.replica = True
            keep.update((master, *master.replicas))
            for first, last in entry["slots"]:
                slots_now[first : last + 1] = [master] * (last + 1 - first)
        self.slots = slots_now
        for key, node in list(self.nodes.items()):
            if node not in keep:
                del self.nodes[key]
                self.retire(node)
        self.prewarm()

    def prewarm(self) -> None:
        """Open the shared connections ahead of their use."""
        for node in self.nodes.values():
            if not node.replica and node.resp2 is None:
                self.open(node, 2)

    def retire(self, node: Node) -> None:
        """The node left the cluster: what waits for it is answered by an error or sent elsewhere."""
        for upstream in [upstream for upstream in self.connections if upstream.node is node]:
            self.upstream_lost(upstream, errno.ENETUNREACH)

    def any_node(self) -> Any:
        """Some master that can be reached, for commands without a key."""
        for node in self.masters():
            if node.failed_until <= self.loop.now:
                return node
        return None

    def masters(self) -> list[Node]:
        """All nodes that have slots, in the order of their addresses."""
        return sorted({node for node in self.slots if node is not None}, key=lambda node: node.id)

    # -- failures

    def upstream_ready(self, upstream: Upstream) -> None:
        native.keep_alive(upstream.fd)
        upstream.node.backoff = 0.0
        upstream.node.failed_until = 0.0

    def node_failed(self, node: Node, error: int) -> None:
        """A connect failed or a connection was lost: leave the node alone for a moment, and have the cluster looked at."""
        now = self.loop.now
        node.backoff = min(MOST_BACKOFF, node.backoff * 2 or FIRST_BACKOFF)
        node.failed_until = now + node.backoff
        node.endpoint = None
        self.route.count_redis("upstream_failures", 1)
        self.route.count_redis("refresh_wanted", 1)
        if now - node.complained > 5:
            node.complained = now
            log.logger.warning(
                "route %s: node %s: %s", self.config.name, node.id, os.strerror(error) if error else "closed"
            )

    def upstream_lost(self, upstream: Upstream, error: int) -> None:
        """Each call in flight gets exactly one answer: unsent ones and reads another try, the others an error."""
        if upstream.closed:
            return
        upstream.close()
        self.connections.discard(upstream)
        node = upstream.node
        if node.resp2 is upstream:
            node.resp2 = None
        if node.resp3 is upstream:
            node.resp3 = None
        if upstream in node.idle:
            node.idle.remove(upstream)
            self.route.count_redis("pinned_pool", -1)
            return
        self.node_failed(node, error)
        sent = upstream.log.size() - upstream.log.unsent()
        offset = 0
        call = upstream.first
        upstream.first = upstream.last = None
        torn = upstream.forwarded > 0
        while call is not None:
            following = call.after
            call.after = None
            if torn:
                torn = False
                if call.caller is not None:
                    call.caller.abort()  # half a reply is out: nothing can be added that the client would understand
            elif call.caller is not None or call.gather is not None:
                unsent = not upstream.ready or offset >= sent
                request = upstream.log.peek(offset, call.length)
                if not (
                    upstream.shared
                    and call.slot != RAW
                    and (unsent or call.readonly)
                    and self.retry_later(call, request)
                ):
                    upstream.deliver(call, b"-ERR the connection to node %s was lost\r\n" % node.id.encode())
            offset += call.length
            call = following
        if upstream.pushes is not None:
            upstream.pushes(b"")

    def handle_error(self, upstream: Upstream, call: Call, line: bytes, request: bytes) -> bool:
        """An error that says the call was not executed: send it where it belongs, now or a little later. False: the client
        gets it."""
        if line.startswith((b"-MOVED ", b"-ASK ")):
            return self.redirect(upstream, call, line, request)
        if line.startswith((b"-READONLY ", b"-CLUSTERDOWN ", b"-LOADING ", b"-MASTERDOWN ")):
            self.route.count_redis("refresh_wanted", 1)
        elif not line.startswith(b"-TRYAGAIN "):
            return False
        else:
            self.route.count_redis("tryagain", 1)
        return self.retry_later(call, request)

    def redirect(self, upstream: Upstream, call: Call, line: bytes, request: bytes) -> bool:
        found = slots.parse_redirect(line)
        if found is None:
            return False
        kind, slot, host, port = found
        node = self.node(host or upstream.node.host, port)
        call.caller.fence()
        call.attempts += 1
        if kind == "MOVED":
            self.route.count_redis("redirects_moved", 1)
            if self.slots[slot] is not node:
                self.slots[slot] = node
                node.replica = False
                self.route.count_redis("refresh_wanted", 1)
        else:
            self.route.count_redis("redirects_ask", 1)
        if call.attempts > self.config.max_redirects:
            upstream.deliver(call, b"-ERR too many cluster redirections\r\n")
            return True
        target = self.shared_of(node, upstream.protocol)
        if target is None:
            return self.retry_later(call, request)
        if kind == "ASK":
            target.send(Call(None, None, RAW, False, self.loop.now), b"*1\r\n$6\r\nASKING\r\n")
        target.send(call, request)
        return True

    def learn(self, line: bytes, origin: str) -> None:
        """Take over what an error of the node at `origin` says of the layout, and have the cluster looked at."""
        found = slots.parse_redirect(line) if line.startswith(b"-MOVED ") else None
        if found is not None:
            self.slots[found[1]] = self.node(found[2] or origin, found[3])
        self.route.count_redis("refresh_wanted", 1)

    def retry_later(self, call: Call, request: bytes) -> bool:
        """Send the call again in a while; False when its attempts are used up."""
        if call.attempts >= self.config.max_redirects:
            return False
        if call.caller is not None:
            call.caller.fence()
        self.route.count_redis("retries", 1)
        delay = FIRST_RETRY * 2**call.attempts
        call.attempts += 1
        self.schedule(delay, lambda: self.retry(call, request))
        return True

    def retry(self, call: Call, request: bytes) -> None:
        if call.caller is None and call.gather is None:
            return
        protocol = call.caller.protocol if call.caller is not None else 2
        upstream = None
        if call.slot >= 0:
            upstream = self.shared(call.slot, protocol, call.readonly)
        else:
            node = self.any_node()
            if node is not None:
                upstream = self.shared_of(node, protocol)
        if upstream is None:
            if not self.retry_later(call, request):
                Upstream.deliver(call, b"-CLUSTERDOWN no node of the cluster can take this command now\r\n")
            return
        upstream.send(call, request)

    # -- upkeep

    def measure(self, call: Call) -> None:
        """A reply came: its latency, from the turn that read the command to the turn that read the reply."""
        spec = call.spec
        if spec is None:
            return
        seconds = self.loop.now - call.started
        self.latencies.add(spec.index, seconds)
        if seconds >= self.slow_seconds:
            self.route.slow_call(call, seconds)

    def tick(self, now: float) -> None:
        """Ten times a second: answer calls that took too long, and do not wait for ever for slow clients."""
        late = now - self.config.limits.call_timeout
        for upstream in list(self.connections):
            if upstream.slow is not None and now - upstream.since > PATIENCE:
                upstream.slow.hopeless = True
                upstream.slow.waited_by = None
                upstream.resume()
            if not upstream.ready and now - upstream.since > self.config.limits.connect_timeout:
                self.upstream_lost(upstream, errno.ETIMEDOUT)
            elif upstream.shared:
                self.time_out(upstream, late)

    def time_out(self, upstream: Upstream, late: float) -> None:
        """The oldest calls are at the front. A late reply finds nobody who wants it and is discarded in its place."""
        call = upstream.first
        while call is not None and call.started < late:
            if call.caller is not None or call.gather is not None:
                self.route.count_redis("timeouts", 1)
                caller, gather = call.caller, call.gather
                call.gather = None
                reply = b"-ERR node %s did not answer in time\r\n" % upstream.node.id.encode()
                if gather is not None:
                    call.caller = None
                    gather.leg_answered(call, reply)
                else:
                    caller.answer(call, reply)
                    call.caller = None
            call = call.after

    def close(self) -> None:
        for upstream in list(self.connections):
            upstream.close()
        self.connections.clear()
