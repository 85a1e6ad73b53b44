"""Puerta itself as the demo runs it: the installed `puerta-master` as a child, looked at as an operator looks at it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.servers import die_with_parent, wait_until
from puerta.config.schema import Config

START_SECONDS = 30.0
SETTLE_SECONDS = 20.0
STOPPING = ((signal.SIGTERM, 3.0), (signal.SIGINT, 5.0), (signal.SIGKILL, 5.0))
"""How the master is asked to go, and the seconds it gets each time: sessions of guests need not be waited for."""


class Failed(Exception):
    """The show can't go on; says why, in words for whoever started it."""


class Front:
    """The proxy under the configuration at `path`, already loaded as `config`; its log and run_dir are in `directory`."""

    def __init__(self, path: str, config: Config, directory: Path) -> None:
        if config.admin.listen is None:
            raise Failed(f"{path}: admin.listen is off, but the demo reads the status page (set it to 127.0.0.1:9127)")
        if not config.log.access or config.log.format != "text":
            raise Failed(f"{path}: the demo reads the access log (set log: {{format: text, access: true}})")
        self.path, self.config = path, config
        self.url = f"http://{config.admin.listen}"
        self.log = directory / "puerta.log"
        self.process: subprocess.Popen[bytes] | None = None

    # -- its life

    def start(self) -> None:
        """Raises Failed, with the log, when it ends instead of getting ready."""
        program = Path(sys.executable).parent / "puerta-master"
        if not program.exists():
            raise Failed(f"{program} is missing (make build installs it)")
        self.process = subprocess.Popen(
            [program, "-c", self.path, "-e", str(self.log)],
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_parent,
        )
        try:
            wait_until(self.is_ready, START_SECONDS, "puerta-master to get ready")
        except TimeoutError as error:
            raise Failed(f"{error}:\n{self.tail()}") from None

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise Failed(f"puerta-master ended with status {self.process.returncode}:\n{self.tail()}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=2):
            return True
        return False

    def stop(self) -> None:
        """Raises Failed when it does not end well, or left a process behind. An end that came before was told already."""
        if self.process is None:
            return
        running = self.process.poll() is None
        for number, patience in STOPPING:
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                if self.process.poll() is None:
                    os.kill(self.process.pid, number)
                self.process.wait(patience)
                break
        status, left = self.process.returncode, group(self.process.pid)
        if (running and status) or left:
            raise Failed(f"puerta-master ended with status {status} and left the processes {left}:\n{self.tail()}")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # -- looking at it

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self) -> str:
        """The end of the log, for a report of failure."""
        return self.text()[-4000:]

    def status(self) -> dict[str, Any]:
        """What `/status` answers."""
        with urllib.request.urlopen(f"{self.url}/status", timeout=5) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def route(self, name: str) -> dict[str, Any]:
        return next(route for route in self.status()["routes"] if route["name"] == name)

    def seats(self) -> dict[str, int]:
        """The seat of each worker, by its pid as the access log writes it."""
        return {str(worker["pid"]): worker["seat"] for worker in self.status()["workers"]}

    def wait_backend(self, route: str, backend: str, state: str) -> None:
        """Wait until the supervisor says so."""

        def settled() -> bool:
            return any(each["id"] == backend and each["state"] == state for each in self.route(route)["backends"])

        wait_until(settled, SETTLE_SECONDS, f"backend {backend} to be {state}")

    def mark(self, route: str) -> "Mark":
        return Mark(len(self.text()), self.route(route)["connections_total"])

    def access(self, route: str, since: "Mark") -> dict[str, list[dict[str, str]]]:
        """The access log's lines of the route since then, by affinity key, once all of its connections have ended."""

        def read() -> list[dict[str, str]]:
            lines = re.findall(r"^\S+ access  (.*)$", self.text()[since.position :], re.MULTILINE)
            fields = [dict(field.split("=", 1) for field in line.split(" ")) for line in lines]
            return [each for each in fields if each["route"] == route]

        def complete() -> bool:
            told = self.route(route)
            return not told["connections"] and len(read()) >= told["connections_total"] - since.connections

        wait_until(complete, SETTLE_SECONDS, "the clients' connections to end and be logged")
        found: dict[str, list[dict[str, str]]] = {}
        for line in read():
            found.setdefault(line["key"], []).append(line)
        return found


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment: how long the log was, and how many connections there had been."""

    position: int
    connections: int


def group(leader: int) -> list[int]:
    """The living processes of the process group that `leader` began."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit():
                state, _, its_group = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == leader and state not in "ZX":
                    found.append(int(entry))
    return found
