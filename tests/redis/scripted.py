"""Nodes of a cluster that has no server in it: each answers for its cluster as it is told to, and says what it was asked."""

import contextlib
import socket
import threading


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def array(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def described(name: str, *flags: str, keys: tuple[int, int, int] = (1, 1, 1), arity: int = -2) -> bytes:
    """One element of a COMMAND reply."""
    numbers = [b":%d\r\n" % number for number in keys]
    return array(bulk(name), b":%d\r\n" % arity, array(*[b"+%s\r\n" % flag.encode() for flag in flags]), *numbers)


class ScriptedNode:
    """Commands that are not about the cluster are answered by the node's port, and kept in `heard`; by its reply in
    `answers`, when there is one."""

    def __init__(self, first: int, last: int) -> None:
        self.slots = (first, last)
        self.nodes: list[ScriptedNode] = [self]
        self.modules = 0
        self.commands: list[bytes] = []
        self.heard: list[list[bytes]] = []
        self.answers: dict[bytes, bytes] = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def load(self, *commands: bytes) -> None:
        """As a module does."""
        self.commands = list(commands)
        self.modules += 1

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
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
