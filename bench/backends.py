"""What stands behind every side: real Valkey servers with known keys, or a server that only answers hello.

The Valkey servers count what they served; a scenario compares that with what its load claims.
"""

import binascii
import contextlib
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bson

from playground.servers import Server, Valkey, free_port, several, wait_until

SLOTS = 16384
MASTERS = 3
FILL_SECONDS = 60.0
OPTIONS = ("--maxclients", "12000", "--tcp-backlog", "4096", "--loglevel", "warning")


@dataclass(frozen=True)
class Keys:
    """`count` keys PREFIX:000000000000 and so on, the names that redis-benchmark -r makes, of `size` bytes each."""

    prefix: str
    count: int
    size: int

    def name(self, number: int) -> bytes:
        return f"{self.prefix}:{number:012d}".encode()


@dataclass
class Backend:
    """Servers that are up. `ports` are what a side is given; `single` knows no cluster."""

    ports: tuple[int, ...]
    single: int = 0
    counted: tuple[int, ...] = ()
    """Ports of the Valkey servers whose counters tell what was served."""

    files: dict[str, str] = field(default_factory=dict)
    """hello only: paths of the program and of the request."""

    def served(self) -> tuple[int, int]:
        """Keys found and keys missed so far, over all servers."""
        hits = misses = 0
        for port in self.counted:
            counters = information(port)
            hits += int(counters["keyspace_hits"])
            misses += int(counters["keyspace_misses"])
        return hits, misses


# -- the few words of RESP that a fixture needs ------------------------------------------------------------------------


def words(*parts: bytes | str | int) -> bytes:
    """One command in RESP."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


def ask(port: int, *parts: bytes | str | int, timeout: float = 5.0) -> bytes:
    """One command on a connection of its own; its reply without the type byte. Raises OSError, RuntimeError on an error."""
    with socket.create_connection(("127.0.0.1", port), timeout) as peer, peer.makefile("rb") as stream:
        peer.sendall(words(*parts))
        line = stream.readline().rstrip(b"\r\n")
        if line[:1] in (b"-", b""):
            raise RuntimeError(f"{parts[0]!r} on port {port}: {line.decode(errors='replace') or 'closed'}")
        return stream.read(int(line[1:])) if line[:1] == b"$" and line[1:] != b"-1" else line[1:]


def information(port: int) -> dict[str, str]:
    """INFO of the section stats."""
    lines = ask(port, "INFO", "stats").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def slot(key: bytes) -> int:
    """The Redis Cluster slot of a key without a hash tag: CRC16 (XMODEM) modulo 16384."""
    return binascii.crc_hqx(key, 0) % SLOTS


def master_of(key: bytes, masters: int) -> int:
    """Which of the masters of `open_cluster` holds the key."""
    return slot(key) * masters // SLOTS


def slots_of(index: int, masters: int) -> range:
    """The slots of one of the masters: equal shares, as near as can be."""
    return range(-(-index * SLOTS // masters), -(-(index + 1) * SLOTS // masters))


def fill(port: int, names: list[bytes], size: int) -> None:
    """SET every key, pipelined. Raises RuntimeError when the server refuses one."""
    value = b"x" * size
    step = max(1, min(1000, (1 << 20) // (size + 64)))
    with socket.create_connection(("127.0.0.1", port), FILL_SECONDS) as peer, peer.makefile("rb") as stream:
        for start in range(0, len(names), step):
            batch = names[start : start + step]
            peer.sendall(b"".join(words("SET", name, value) for name in batch))
            replies = stream.read(5 * len(batch))
            if replies != b"+OK\r\n" * len(batch):
                raise RuntimeError(f"SET on port {port}: {replies[:80]!r}")


# -- fixtures ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_single(keys: tuple[Keys, ...]) -> Iterator[Backend]:
    """One Valkey with the keys."""
    with Valkey(options=OPTIONS) as server:
        for some in keys:
            fill(server.port, [some.name(number) for number in range(some.count)], some.size)
        yield Backend((server.port,), single=server.port, counted=(server.port,))


@contextlib.contextmanager
def open_cluster(keys: tuple[Keys, ...]) -> Iterator[Backend]:
    """A Redis Cluster of three masters without replicas, and beside it one server of its own; both hold the keys."""
    options = (*OPTIONS, "--cluster-enabled", "yes", "--cluster-node-timeout", "15000")
    buses = [free_port() for _ in range(MASTERS)]  # their usual place, 10,000 above, may be in use by a connection
    nodes = [Valkey(options=(*options, "--cluster-port", str(bus))) for bus in buses]
    with several(list(nodes)), open_single(keys) as single:
        ports = tuple(node.port for node in nodes)
        form_cluster(ports, buses)
        for some in keys:
            shares: dict[int, list[bytes]] = defaultdict(list)
            for number in range(some.count):
                name = some.name(number)
                shares[master_of(name, MASTERS)].append(name)
            for index, names in shares.items():
                fill(ports[index], names, some.size)
        yield Backend(ports, single=single.single, counted=(*ports, single.single))


def form_cluster(ports: tuple[int, ...], buses: list[int]) -> None:
    """Give each node an equal range of slots and make them meet. Raises TimeoutError when they don't agree."""
    count = len(ports)
    for index, port in enumerate(ports):
        slots = slots_of(index, count)
        ask(port, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        ask(port, "CLUSTER", "ADDSLOTSRANGE", slots[0], slots[-1])
    for port, bus in zip(ports[1:], buses[1:], strict=True):
        ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus)

    def agreed() -> bool:
        states = [ask(port, "CLUSTER", "INFO").decode() for port in ports]
        return all("cluster_state:ok" in state and f"cluster_known_nodes:{count}" in state for state in states)

    wait_until(agreed, 20.0, "the cluster to form")


class HelloServer(Server):
    """hello.c as a server, on several ports at once: the mongos of mongo-connect."""

    def __init__(self, program: str, count: int) -> None:
        super().__init__()
        self.program = program
        self.ports = (self.port, *(free_port() for _ in range(count - 1)))
        self.write("query-reply", reply_to_query())
        self.write("msg-reply", reply_to_msg())
        self.write("request", hello())

    def write(self, name: str, content: bytes) -> None:
        (self.directory / name).write_bytes(content)

    def path(self, name: str) -> str:
        return str(Path(self.directory) / name)

    def command(self) -> list[str]:
        replies = [self.path("query-reply"), self.path("msg-reply")]
        return [self.program, "serve", *replies, *(str(port) for port in self.ports)]


@contextlib.contextmanager
def open_hello(program: str, count: int = 3) -> Iterator[Backend]:
    """`count` servers that answer hello and nothing else."""
    with HelloServer(program, count) as server:
        assert isinstance(server, HelloServer)
        yield Backend(server.ports, files={"program": program, "request": server.path("request")})


# -- MongoDB messages (MongoDB Wire Protocol: OP_QUERY 2004, OP_REPLY 1, OP_MSG 2013) ----------------------------------


def message(opcode: int, body: bytes, request: int = 0) -> bytes:
    return struct.pack("<iiii", 16 + len(body), request, 0, opcode) + body


def hello() -> bytes:
    """The first message of a driver: the legacy hello, with its metadata."""
    client = {
        "application": {"name": "bench"},
        "driver": {"name": "PyMongo|c", "version": "4.20.0"},
        "os": {"type": "Linux", "name": "Linux", "architecture": "x86_64", "version": "6.1.0"},
        "platform": "CPython 3.11.2.final.0",
    }
    document = bson.encode({"ismaster": 1, "helloOk": True, "client": client})
    return message(2004, struct.pack("<i", 4) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1) + document, request=7)


def hello_reply() -> bytes:
    """What a mongos says of itself, as far as drivers and health checks ask."""
    return bson.encode(
        {
            "isWritablePrimary": True,
            "ismaster": True,
            "msg": "isdbgrid",
            "helloOk": True,
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "ok": 1.0,
        }
    )


def reply_to_query() -> bytes:
    return message(1, struct.pack("<iqii", 8, 0, 0, 1) + hello_reply())


def reply_to_msg() -> bytes:
    return message(2013, struct.pack("<i", 0) + b"\0" + hello_reply())
