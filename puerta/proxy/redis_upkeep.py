"""Ten times a second: nothing that a node owes us is waited for without end, and what is open to the nodes is counted."""

import errno
from typing import Any

from puerta.proxy.redis_blocking import Blocking
from puerta.proxy.redis_handshake import Handshake

DEPOSED_SECONDS = 1.0
"""A node that is no master any more, or down, has so long to end what waits on it by itself."""

TICKS_A_SECOND = 10


def tick(cluster: Any, now: float) -> None:
    """Answer calls that took too long, and do not wait for ever for slow clients."""
    cluster.ticks += 1
    for upstream in list(cluster.connections):
        if upstream.slow is not None and upstream.in_flight > 1 and now - upstream.since > upstream.patience:
            upstream.give_up_waiting()
        if not upstream.ready:
            if now - upstream.born > cluster.config.limits.connect_timeout:
                cluster.upstream_lost(upstream, errno.ETIMEDOUT)
        elif upstream.shared:
            time_out(cluster, upstream, now)
        else:
            time_out_pinned(cluster, upstream, now)
        if cluster.ticks % TICKS_A_SECOND == 0:
            upstream.slim()


def look_over(cluster: Any) -> None:
    """Count the connections, and the calls in flight on them, of each node."""
    cluster.shared_resp2 = cluster.shared_resp3 = 0
    for node in cluster.nodes.values():
        node.connections = node.in_flight = 0
    for upstream in cluster.connections:
        node = upstream.node
        node.connections += 1
        node.in_flight += upstream.in_flight
        if upstream.shared:
            cluster.shared_resp2 += upstream.protocol == 2
            cluster.shared_resp3 += upstream.protocol == 3


def time_out(cluster: Any, upstream: Any, now: float) -> None:
    """The oldest calls are at the front. A late reply finds nobody who wants it and is discarded in its place."""
    late = now - cluster.config.limits.call_timeout
    call = upstream.first
    if upstream.node.gone and (call is None or upstream.node.gone < late):
        cluster.upstream_lost(upstream, errno.ENETUNREACH)
        return
    if upstream.forwarded and call is not None:
        if upstream.slow is None and upstream.heard < late:
            cluster.upstream_lost(upstream, errno.ETIMEDOUT)
            return
        call = call.after
    while call is not None and call.started < late:
        if isinstance(call.gather, Handshake):
            cluster.upstream_lost(upstream, errno.ETIMEDOUT)
            return
        if call.caller is not None or call.gather is not None:
            cluster.route.count_redis("timeouts", 1)
            upstream.tally.timeouts += 1
            cluster.route.count_redis("refresh_wanted", 1)  # a node that hangs may have been replaced
            caller = call.caller
            cluster.again.failed(call, b"-ERR node %s did not answer in time\r\n" % upstream.node.id.encode())
            if caller is not None:
                call.caller = None
        call = call.after


def time_out_pinned(cluster: Any, upstream: Any, now: float) -> None:
    """One session's own: a command that blocks may, as long as its node is in office; a pool's connection goes with it."""
    node, call = upstream.node, upstream.first
    late = call is not None and call.started < now - cluster.config.limits.call_timeout
    if late and not isinstance(call.gather, Blocking):
        cluster.upstream_lost(upstream, errno.ETIMEDOUT)
    elif node.gone or (node.deposed and now - node.deposed > DEPOSED_SECONDS):
        cluster.upstream_lost(upstream, errno.ENETUNREACH)
