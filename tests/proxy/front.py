"""The real server in front of scripted backends, and ways to look at it."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.request import urlopen

import yaml

from tests.harness import Running, wait_for
from tests.proxy.peers import PATIENCE, free_port


class Addressed(Protocol):
    @property
    def address(self) -> str: ...


def route(name: str, *backends: Addressed | Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """A route's entry: `mode: tcp` unless told otherwise, on a port of its own, its backends checked once at the start.

    A backend may also be a mapping, for a weight. `fall` is out of reach, so that a test decides when a backend is down.
    """
    entries = [each if isinstance(each, Mapping) else {"address": each.address} for each in backends]
    made = {"name": name, "mode": "tcp", "listen": f"127.0.0.1:{free_port()}", "backends": entries, **options}
    if made["mode"] == "mongodb":
        made.setdefault("expect", "any")
    return made | {"health": {"every": "1h", "timeout": "500ms", "fall": 100, **options.get("health", {})}}


class Front(Running):
    """A server with these routes, its access log in JSON. `top` are further keys of the configuration."""

    def __init__(
        self,
        directory: Path,
        *routes: dict[str, Any],
        workers: int = 1,
        environ: Mapping[str, str] | None = None,
        module: str = "puerta",
        **top: Any,
    ) -> None:
        self.routes = {entry["name"]: entry for entry in routes}
        self.admin = free_port()
        self.marks: dict[str, int] = {}
        self.went: dict[str, str] = {}
        config = {
            "workers": workers,
            "stop_timeout": "200ms",
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "log": {"format": "json"},
            "routes": list(routes),
            **top,
        }
        directory.mkdir(exist_ok=True)
        super().__init__(directory, yaml.safe_dump(config), module=module, environ=environ)

    def __enter__(self) -> Self:
        super().__enter__()
        wait_for(self.checked, "every backend was checked")
        return self

    def checked(self) -> bool:
        backends = [each for entry in self.status()["routes"] for each in entry["backends"]]
        return all(each["check"]["age_seconds"] is not None for each in backends)

    # -- in ------------------------------------------------------------------------------------------------------------

    def port(self, name: str) -> int:
        return int(self.routes[name]["listen"].rpartition(":")[2])

    def connect(self, name: str, data: bytes = b"", source: str = "") -> socket.socket:
        """A client of that route, from `source` (any of 127/8), that begins with `data`."""
        host = self.routes[name]["listen"].rpartition(":")[0].strip("[]")
        sock = socket.create_connection((host, self.port(name)), PATIENCE, (source, 0) if source else None)
        self.marks[named(sock)] = self.log.stat().st_size
        self.went[named(sock)] = name
        if data:
            sock.sendall(data)
        return sock

    # -- out -----------------------------------------------------------------------------------------------------------

    def status(self) -> Any:
        with urlopen(f"http://127.0.0.1:{self.admin}/status", timeout=PATIENCE) as answer:
            return json.load(answer)

    def route(self, name: str) -> Any:
        """The route's status, with everything that had happened by now: workers tell their numbers with each tick."""
        asked = time.monotonic()

        def ticked() -> bool:
            passed = time.monotonic() - asked
            workers = [each for each in self.status()["workers"] if each["state"] == "up"]
            return all((each["heartbeat_age_seconds"] or passed) < passed for each in workers)

        wait_for(ticked, "every worker ticks")
        return next(entry for entry in self.status()["routes"] if entry["name"] == name)

    def counted(self, name: str, **counts: int) -> None:
        """Wait until the route's counters of ended connections say so, by reason."""

        def told() -> bool:
            closed = self.route(name)["closed"]
            return all(closed[reason] == count for reason, count in counts.items())

        wait_for(told, f"{name} counted {counts}, not {self.route(name)['closed']}")

    def serves(self, name: str) -> bool:
        """Whether the route's backends are up and a worker accepts for it."""
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port(name)), PATIENCE).close()
            return all(each["state"] == "up" for each in self.route(name)["backends"])
        return False

    def quiet(self, name: str) -> Any:
        """Wait until no connection of the route is open, and return its status."""
        wait_for(lambda: self.route(name)["connections"] == 0, f"{name} has no connection")
        return self.route(name)

    def lines(self, mark: int = 0) -> list[dict[str, Any]]:
        """Every record of the log from `mark` on."""
        with self.log.open("rb") as log:
            log.seek(mark)
            whole = log.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def accesses(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["level"] == "access" and line["route"] == name]

    def access(self, client: str) -> dict[str, Any]:
        """The access log's line of one client, by the address it came from; waits for the connection to end.

        Ports come back, so what was logged before this client connected does not count. Workers write their lines a
        little later than they close, so neither does what is logged of a client of another route.
        """
        mark, route = self.marks.get(client, 0), self.went.get(client)

        def find() -> dict[str, Any] | None:
            lines = (line for line in self.lines(mark) if line.get("client") == client)
            return next((line for line in lines if route in (None, line["route"])), None)

        found: dict[str, Any] = wait_for(find, f"an access log line of {client}")
        return found

    def memory(self, seat: int = 0) -> int:
        """Resident bytes of a worker, without the pages it shares with the master."""
        return rollup(self.worker(seat), "Private_Dirty")

    def cpu(self, seat: int = 0) -> float:
        """Seconds of processor time that a worker has used."""
        fields = Path(f"/proc/{self.worker(seat)}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def named(sock: socket.socket) -> str:
    """The client's end of a connection, as the access log writes it."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def rollup(pid: int | str, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name} of {pid}")
