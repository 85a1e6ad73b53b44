"""What a new connection says to its node before any client's command, and what becomes of it if the node does not agree."""

import errno
from typing import Any

from puerta import log
from puerta.protocol import resp
from puerta.proxy.redis_caller import RAW, Call

READONLY = resp.command(b"READONLY")


class Handshake:
    """Checks the replies to what we said ourselves (HELLO, AUTH, READONLY)."""

    __slots__ = ("cluster", "upstream")

    def __init__(self, cluster: Any, upstream: Any) -> None:
        self.cluster = cluster
        self.upstream = upstream

    def leg_answered(self, call: Any, reply: bytes) -> None:
        if reply[:1] == b"-" and not self.upstream.closed:
            self.refused(reply[1:].partition(b"\r\n")[0])

    def refused(self, said: bytes) -> None:
        """The node does not want us. What was sent behind our greeting was not executed either."""
        cluster, node = self.cluster, self.upstream.node
        if node.may_complain(cluster.loop.now):
            log.logger.error(
                "route %s: node %s refuses us: %s", cluster.config.name, node.id, said.decode(errors="replace")
            )
        told = b"-ERR node %s refuses Puerta: %s\r\n" % (node.id.encode(), said)
        cluster.upstream_lost(self.upstream, errno.EACCES, told)


def greet(cluster: Any, upstream: Any) -> None:
    """The protocol, the credentials, and that a replica may be read."""
    auth = cluster.config.auth
    credentials = []
    if auth.password is not None:
        credentials = [(auth.username or "default").encode(), auth.password.encode()]
    if upstream.protocol == 3:
        say(cluster, upstream, resp.command(b"HELLO", b"3", *([b"AUTH", *credentials] if credentials else [])))
    elif credentials:
        say(cluster, upstream, resp.command(b"AUTH", *(credentials if auth.username else credentials[1:])))
    if upstream.node.replica:
        upstream.replica = True
        say(cluster, upstream, READONLY)


def say(cluster: Any, upstream: Any, request: bytes) -> None:
    """Something of our own, that the node must agree to."""
    call = Call(None, None, RAW, False, cluster.loop.now)
    call.gather = Handshake(cluster, upstream)
    upstream.send(call, request)
