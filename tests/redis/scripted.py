"""Nodes of a cluster that has no server in it: each answers for its cluster as it is told to, and says what it was asked."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

from tests.harness import Running, ask, free_port
from tests.redis.wire import Wire

CONFIG = """
workers: 2
log: {{access: false}}
admin: {{listen: 127.0.0.1:{admin}}}
routes:
  - {{name: cache, mode: redis, listen: 127.0.0.1:{port}, cluster: [{seeds}], topology_refresh: 1s}}
  - {{name: other, mode: redis, listen: 127.0.0.1:{other}, cluster: [{strangers}], limits: {{slowlog: 0}}}}
  - name: behind
    mode: redis
    listen: 127.0.0.1:{behind}
    cluster: [{seeds}]
    proxy_protocol: {{accept: [127.0.0.0/8]}}
"""


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def array(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def described(name: str, *flags: str, keys: tuple[int, int, int] = (1, 1, 1), arity: int = -2) -> bytes:
    """One element of a COMMAND reply."""
    numbers = [b":%d\r\n" % number for number in keys]
    return array(bulk(name), b":%d\r\n" % arity, array(*[b"+%s\r\n" % flag.encode() for flag in flags]), *numbers)


class ScriptedNode:
    """Commands that are not about the cluster are kept in `heard` and answered by the node's port, or by what `answers` has for
    their name: an empty answer is none."""

    def __init__(self, first: int, last: int) -> None:
        self.slots = (first, last)
        self.nodes: list[ScriptedNode] = [self]
        self.modules = 0
        self.commands: list[bytes] = []
        self.heard: list[list[bytes]] = []
        self.answers: dict[bytes, bytes] = {}
        self.peers: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def load(self, *commands: bytes) -> None:
        """As a module does."""
        self.commands = list(commands)
        self.modules += 1

    def close(self) -> None:
        self.listener.close()

    def hang_up(self) -> None:
        """On everybody."""
        peers, self.peers = self.peers, []
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                self.peers.append(peer)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as stream, contextlib.suppress(OSError):
            while head := stream.readline():
                words = [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                peer.sendall(self._answer(words))

    def _answer(self, words: list[bytes]) -> bytes:
        name = b" ".join(words[: 2 if words[0] in (b"CLUSTER", b"CLIENT") else 1]).upper()
        known = {
            b"PING": b"+PONG\r\n",
            b"READONLY": b"+OK\r\n",
            b"CLIENT SETNAME": b"+OK\r\n",
            b"CLIENT SETINFO": b"+OK\r\n",
            b"CLUSTER INFO": bulk("cluster_state:ok\r\n"),
            b"CLUSTER NODES": bulk("".join(node.line(node is self) for node in self.nodes)),
            b"HELLO": array(bulk("version"), bulk("9.1"), bulk("modules"), array(*[bulk("m")] * self.modules)),
            b"COMMAND": array(*self.commands),
        }
        if name in known:
            return known[name]
        if name.startswith(b"CLUSTER"):
            return b"-ERR unknown subcommand\r\n"
        self.heard.append(words)
        return self.answers.get(name, b":%d\r\n" % self.port)

    def line(self, own: bool) -> str:
        first, last = self.slots
        flags = "myself,master" if own else "master"
        return f"{self.port:040} 127.0.0.1:{self.port}@1 {flags} - 0 0 1 connected {first}-{last}\n"


def scripted_cluster() -> list[ScriptedNode]:
    """Two nodes with half of the slots each."""
    nodes = [ScriptedNode(0, 8191), ScriptedNode(8192, 16383)]
    for node in nodes:
        node.nodes = nodes
    return nodes


class ScriptedFront:
    """Puerta with a route to each of two such clusters, `port` and `other`; `behind` is a proxy that announces its clients."""

    def __init__(self, directory: Path, nodes: list[ScriptedNode], strangers: list[ScriptedNode]) -> None:
        self.port, self.other, self.behind, self.admin = free_port(), free_port(), free_port(), free_port()
        seeds, others = (", ".join(f"127.0.0.1:{node.port}" for node in each) for each in (nodes, strangers))
        ports = {name: getattr(self, name) for name in ("port", "other", "behind", "admin")}
        config = CONFIG.format(seeds=seeds, strangers=others, **ports)
        self.running = Running(directory, config)
        self.running.start().wait_ready()

    def ask(self, *words: bytes | str | int, port: int = 0) -> bytes:
        """On a connection of its own, so that any worker may get it."""
        with Wire(port or self.port) as wire:
            return wire.ask(*words)

    def everywhere(self, *words: bytes | str | int) -> set[bytes]:
        """What all workers, with all likelihood, say."""
        return {self.ask(*words) for _ in range(12)}

    def metrics(self) -> bytes:
        return ask(self.admin, b"GET /metrics HTTP/1.0\r\n\r\n")

    def status(self, route: str = "cache") -> Any:
        """What /status says of a route."""
        found = json.loads(ask(self.admin, b"GET /status HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2])
        return next(each for each in found["routes"] if each["name"] == route)
