"""What the end-to-end tests share: machines that run Puerta, one address in front of several of them, raw clients."""

import asyncio
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import bson
from pymongo import MongoClient

from playground.servers import Mongo, free_port
from tests.harness import Running, ask, wait_for

OP_MSG = 2013
HEADER = struct.Struct("<iiii")
PATTERN = '"@(.*)"'
"""The session_pattern of all tests: `orders@17` is the process 17."""


class Machine(Running):
    """One master with its workers, as if on a machine of its own, with one route to `backends`."""

    def __init__(self, directory: Path, backends: Sequence[str], **options: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.options: dict[str, Any] = {"backends": list(backends), **options}
        super().__init__(directory, "")
        self.configure()

    def configure(self, **changes: Any) -> None:
        """Write the configuration anew with `changes`; a reload takes it."""
        self.options.update(changes)
        self.write_config(self.render(**self.options))

    def render(
        self,
        backends: Sequence[str],
        name: str = "puerta",
        workers: int = 2,
        store: str = "embedded",
        store_timeout: str = "1s",
        stop: str = "30s",
        balance: str = "rendezvous",
        affinity: str = f"session_pattern: {PATTERN}",
        health: str = "every: 1s, timeout: 500ms",
        limits: str = "",
    ) -> str:
        listed = ", ".join(f"{{address: {address}}}" for address in backends)
        return f"""
name: {name}
workers: {workers}
stop_timeout: {stop}
store: {{url: "{store}", timeout: {store_timeout}}}
routes:
  - name: mongo
    mode: mongodb
    listen: 127.0.0.1:{self.port}
    expect: any
    backends: [{listed}]
    balance: {balance}
    affinity: {{{affinity}}}
    health: {{{health}}}
    limits: {{{limits}}}
"""

    def status(self) -> dict[str, Any]:
        reply = ask(str(self.run_dir / "puerta.sock"), b"GET /status HTTP/1.0\r\n\r\n")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0] + b" ", head
        told: dict[str, Any] = json.loads(body)
        return told

    def route(self) -> dict[str, Any]:
        told: dict[str, Any] = self.status()["routes"][0]
        return told

    def backends(self) -> dict[str, dict[str, Any]]:
        return {backend["id"]: backend for backend in self.route()["backends"]}

    def connections(self) -> dict[str, int]:
        """Open connections of each backend, as /status tells them; those without any are left out."""
        return {id: backend["connections"] for id, backend in self.backends().items() if backend["connections"]}

    def wait_up(self, count: int | None = None) -> Self:
        """Wait until all backends, or `count` of them, are up."""
        wanted = len(self.options["backends"]) if count is None else count
        wait_for(lambda: sum(b["state"] == "up" for b in self.backends().values()) == wanted, f"{wanted} backends are up")
        return self

    def access(self) -> list[dict[str, str]]:
        """The access log so far."""
        lines = re.findall(r"^\S+ access  (.*)$", self.text(), re.MULTILINE)
        return [dict(field.split("=", 1) for field in line.split(" ")) for line in lines]

    def placed(self) -> dict[str, set[str]]:
        """Affinity key → backends its connections had, from the access log."""
        found: dict[str, set[str]] = {}
        for line in self.access():
            found.setdefault(line["key"], set()).add(line["backend"])
        return found


class Splitter:
    """One address in front of several: every new connection goes to the next target, from `sources` in turn."""

    def __init__(self, targets: Sequence[int], sources: Sequence[str] = ("127.0.0.1",)) -> None:
        self.targets, self.sources = targets, sources
        self.taken = 0
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.pumps: set[asyncio.Task[None]] = set()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.started = threading.Event()

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self.started.set()
        self.loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn, self.taken = self.taken, self.taken + 1
        target, source = self.targets[turn % len(self.targets)], self.sources[turn % len(self.sources)]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target, local_addr=(source, 0))
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            writer.transport.abort()
        finally:
            writer.close()


def hello(application: str) -> bytes:
    """The first message of a client called `application`."""
    body = bson.encode(
        {
            "hello": 1,
            "$db": "admin",
            "client": {"application": {"name": application}, "driver": {"name": "test", "version": "1"}},
        }
    )
    return HEADER.pack(HEADER.size + 5 + len(body), 1, 0, OP_MSG) + b"\0\0\0\0\0" + body


class Raw:
    """One connection that says hello and is then held. `backend` is the server's own name for itself."""

    def __init__(self, port: int, application: str, source: str = "127.0.0.1", wait: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))
        self.message = hello(application)
        self.socket.sendall(self.message)
        self.backend = self.answer() if wait else ""

    def answer(self) -> str:
        length = HEADER.unpack(self._exactly(HEADER.size))[0]
        document = bson.decode(self._exactly(length - HEADER.size)[5:])
        return str(document["topologyVersion"]["processId"])

    def again(self) -> str:
        """Another hello on the same connection. Raises OSError when it was closed."""
        self.socket.sendall(self.message)
        return self.answer()

    def is_open(self) -> bool:
        """Whether the other side has neither closed nor reset the connection."""
        self.socket.setblocking(False)
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.socket.settimeout(10)

    def close(self) -> None:
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("closed before the answer")
            data += piece
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def name_of(server: Mongo) -> str:
    """What `Raw.backend` says of this server."""
    with Raw(server.port, "direct") as direct:
        return direct.backend


def client(port: int, application: str, **options: Any) -> "MongoClient[dict[str, Any]]":
    options = {"serverSelectionTimeoutMS": 10000, **options}
    return MongoClient("127.0.0.1", port, appname=application, **options)


def in_threads(count: int, work: Callable[[int], None]) -> Counter[str]:
    """Run `work(index)` in `count` threads at once; what it raised, by error code or class."""
    raised: Counter[str] = Counter()

    def run(index: int) -> None:
        try:
            work(index)
        except Exception as error:
            raised[str(getattr(error, "code", None) or type(error).__name__)] += 1

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised
