"""A Redis Cluster that does as it is told: nodes that answer what the supervisor asks, keep keys, and follow a test's script.

For what no real cluster can be made to do at will: to redirect in circles, to die in the middle of a reply, to hang.
All nodes share one memory, so that a test sees in it what was executed, and how often.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from playground.servers import free_port
from puerta.protocol.slots import SLOTS, slot_of
from tests.redis.wire import array, bulk, commands

Words = list[bytes]
Script = Callable[["Peer", Words], bytes | None]
"""The reply to a command; None: as usual; SILENCE: none at all."""

SILENCE = b""
OK = b"+OK\r\n"
KEYS_A_TEST = 120
HEALTH = (b"PING", b"CLUSTER", b"CLIENT")


@dataclass(frozen=True)
class Place:
    """What is said of one node: its slots and their epoch, its master, and the endpoint that clients shall use."""

    node: "Node"
    slots: tuple[tuple[int, int], ...] = ()
    epoch: int = 1
    master: "Node | None" = None
    endpoint: str = ""

    def line(self, asked: "Node") -> str:
        role = f"slave {self.master.id}" if self.master is not None else "master -"
        ranges = " ".join(f"{first}-{last}" for first, last in self.slots)
        me = "myself," if self.node is asked else ""
        return f"{self.node.id} {self.node.host}:{self.node.port}@1 {me}{role} 0 0 {self.epoch} connected {ranges}\n"

    def described(self) -> bytes:
        role = "replica" if self.master is not None else "master"
        pairs = [("id", bulk(self.node.id)), ("port", b":%d\r\n" % self.node.port), ("ip", bulk(self.node.host))]
        pairs += [("endpoint", bulk(self.endpoint or self.node.host)), ("role", bulk(role)), ("health", bulk("online"))]
        return array([part for name, value in pairs for part in (bulk(name), value)])


@dataclass(eq=False)
class Peer:
    """One connection to a node; `asking` and `readonly` are what it said of itself."""

    node: "Node"
    socket: socket.socket
    number: int
    said: list[Words] = field(default_factory=list)
    health: bool = False
    open: bool = True

    @property
    def worker(self) -> bool:
        """Whether a worker speaks here. Of a connection that has at most authenticated itself nobody knows yet."""
        return not self.health and any(words[0] not in (b"AUTH", b"HELLO") for words in self.said)

    def close(self, reset: bool = False) -> None:
        with contextlib.suppress(OSError):  # it may have ended by itself
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(data)


class Node:
    """One server. `peers` are the connections to it, `ran` is all that workers said on theirs, with the connection.

    While `flowing` is clear it is frozen: it accepts, and answers nothing. `places`, when set, is this node's own opinion
    of the cluster; `receive` bounds what the kernel takes for it.
    """

    def __init__(self, cluster: "Nodes", number: int, host: str = "127.0.0.1", receive: int = 0) -> None:
        self.cluster, self.number, self.host, self.receive = cluster, number, host, receive
        self.id = f"{number + 1:040x}"
        self.port = free_port() if ":" not in host else free_port6(host)
        self.script: Script | None = None
        self.places: list[Place] | None = None
        self.peers: list[Peer] = []
        self.ran: list[tuple[Peer, Words]] = []
        self.looks = 0
        self.flowing = threading.Event()
        self.flowing.set()
        self.listener: socket.socket | None = None

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self) -> "Node":
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive)
        listener.bind((self.host, self.port))
        listener.listen(512)
        self.listener = listener
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        return self

    def kill(self, reset: bool = True) -> None:
        """Refuse connections, and end those that are."""
        listener, self.listener = self.listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
            listener.close()
        self.drop(reset, True)

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Who connects is not answered, as if packets were lost: the queue of a listener that never accepts is full."""
        self.kill()
        with socket.socket() as listener, contextlib.ExitStack() as stack:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((self.host, self.port))
            yield
        self.start()

    def drop(self, reset: bool = True, health: bool = False) -> None:
        """End the connections only; those of the supervisor's checks too, if `health`."""
        for peer in list(self.peers):
            if health or not peer.health:
                peer.close(reset)

    def accept(self, listener: socket.socket) -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                connected, _ = listener.accept()
                number += 1
                peer = Peer(self, connected, number)
                self.peers.append(peer)
                threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: Peer) -> None:
        data = b""
        with peer.socket, contextlib.suppress(OSError):
            while True:
                chunk = peer.socket.recv(1 << 16)
                self.flowing.wait()
                if not chunk:
                    break
                found, data = commands(data + chunk)
                replies = []
                for words in found:
                    replies.append(self.answer(peer, words))
                if any(replies):
                    peer.socket.sendall(b"".join(replies))
        peer.open = False
        with contextlib.suppress(ValueError):
            self.peers.remove(peer)

    # -- answers

    def answer(self, peer: Peer, words: Words) -> bytes:
        name = words[0].upper()
        if peer.health and name in (b"HELLO", b"COMMAND"):
            return b"-ERR unknown command\r\n"  # as if of old, so that the built-in table is all there is
        if name in HEALTH:
            return self.health(peer, name, words)
        with self.cluster.lock:
            peer.said.append(words)
            self.ran.append((peer, words))
        found = self.script(peer, words) if self.script is not None else None
        return self.execute(name, words) if found is None else found

    def health(self, peer: Peer, name: bytes, words: Words) -> bytes:
        if name == b"PING":
            return b"+PONG\r\n"
        if name == b"CLIENT":
            peer.health = peer.health or words[1:2] == [b"SETNAME"]
            return OK
        places = self.places or self.cluster.places
        if words[1] == b"INFO":
            return bulk("cluster_state:ok\r\ncluster_current_epoch:1\r\n")
        if words[1] == b"NODES":
            self.looks += 1
            return bulk("".join(place.line(self) for place in places))
        slots = [[b":%d\r\n" % slot for pair in place.slots for slot in pair] for place in places]
        shards = [
            array([bulk("slots"), array(own), bulk("nodes"), array([place.described()])])
            for place, own in zip(places, slots, strict=True)
        ]
        return array(shards)

    def execute(self, name: bytes, words: Words) -> bytes:
        """What little of a server the tests need."""
        with self.cluster.lock:
            memory = self.cluster.memory
            if name == b"GET":
                return bulk(memory.get(words[1]))
            if name == b"MGET":
                return array([bulk(memory.get(key)) for key in words[1:]])
            if name == b"SET":
                memory[words[1]] = words[2]
            elif name == b"MSET":
                memory.update(zip(words[1::2], words[2::2], strict=True))
            elif name == b"APPEND":
                memory[words[1]] = memory.get(words[1], b"") + words[2]
                return b":%d\r\n" % len(memory[words[1]])
            elif name == b"HELLO":
                return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        return OK

    def said(self, *names: bytes) -> list[Words]:
        """All that was asked of this node, of commands with these names, or of any."""
        return [words for _, words in self.ran if not names or words[0].upper() in names]


class Nodes:
    """The cluster: `places` is what all nodes say that have no opinion of their own."""

    def __init__(self, masters: int = 3, replicas: int = 0, hosts: tuple[str, ...] = (), receive: int = 0) -> None:
        self.lock = threading.RLock()
        self.memory: dict[bytes, bytes] = {}
        self.skipped = 0
        count = masters * (1 + replicas)
        self.all = [Node(self, number, (hosts or ("127.0.0.1",) * count)[number], receive) for number in range(count)]
        cuts = [index * SLOTS // masters for index in range(masters + 1)]
        self.places = [
            Place(node, ((cuts[index], cuts[index + 1] - 1),), index + 1)
            for index, node in enumerate(self.all[:masters])
        ]
        self.places += [Place(node, master=self.all[index % masters]) for index, node in enumerate(self.all[masters:])]

    def __getitem__(self, number: int) -> Node:
        return self.all[number]

    def say(self, node: Node, **changes: object) -> None:
        """Change what is said of a node; an epoch that is not given grows."""
        epoch = max(place.epoch for place in self.places) + 1
        changed = []
        for place in self.places:
            changed.append(replace(place, **{"epoch": epoch, **changes}) if place.node is node else place)  # type: ignore[arg-type]
        self.places = changed

    def add(self, **place: object) -> Node:
        """A node that is not started yet and has no slots."""
        node = Node(self, len(self.all))
        self.all.append(node)
        self.places = [*self.places, Place(node, **place)]  # type: ignore[arg-type]
        return node

    def reset(self) -> None:
        """For the next test: no scripts, nothing said or kept, and other keys."""
        for node in self.all:
            node.script = None
            node.ran.clear()
        self.memory.clear()
        self.skipped += KEYS_A_TEST

    def keys(self, number: int) -> Iterator[bytes]:
        """Keys of slots that were the node's at the beginning, no two of one slot."""
        seen: set[int] = set()
        (first, last), *_ = self.places[number].slots
        for count in range(1 << 20):
            key = b"k%d" % count
            slot = slot_of(key)
            if first <= slot <= last and slot not in seen:
                seen.add(slot)
                if len(seen) > self.skipped:
                    yield key

    def __enter__(self) -> "Nodes":
        for node in self.all:
            node.start()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.all:
            node.flowing.set()
            node.kill()


def free_port6(host: str) -> int:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
