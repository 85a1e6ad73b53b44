"""A master with fake roles, made to measure."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness import Running, ask, ask_json, wait_for


class Fakes(Running):
    """`Running` with the fake roles: what they answer, and how to make them misbehave."""

    port: int

    def hello(self, address: int | str | None = None) -> dict[str, Any]:
        """Who answered one connection."""
        told: dict[str, Any] = json.loads(ask(address or self.port))
        return told

    def seats(self, count: int = 40) -> set[tuple[int, int]]:
        """(worker's seat, listener's seat) of `count` connections: each must be answered."""
        told = [self.hello() for _ in range(count)]
        return {(answer["seat"], answer["listener"]) for answer in told}

    def generations(self, count: int = 40) -> set[int]:
        return {self.hello()["generation"] for _ in range(count)}

    def board(self) -> dict[str, Any]:
        told: dict[str, Any] = ask_json(str(self.run_dir / "puerta.sock"))
        return told

    def states(self) -> dict[str, str]:
        """`worker 0` → state, for the newest child of each seat."""
        children = sorted(self.board()["children"], key=lambda child: int(child["generation"]))
        return {f"{child['role']} {child['seat']}".replace(" -1", ""): child["state"] for child in children}

    def fail_half_way(self, generation: int, back: int) -> None:
        """Reload, and lose seat 1's new child when seat 0 was handed over already: all return to generation `back`."""
        cause = self.tell("slow", 1)
        self.signal(signal.SIGHUP)
        self.wait_log(rf"worker 0 \(\d+\) is up, generation {generation}")
        successor = wait_for(lambda: self.workers()[1][1:], "the successor of seat 1 was started")[0]
        cause.unlink()
        os.kill(successor, signal.SIGKILL)
        self.wait_log(f"reload failed: worker 1 of generation {generation} ended before it was ready")
        self.wait_log(rf"worker 0 \(\d+\) is up, generation {back}", 2)

    def tell(self, verb: str, who: object) -> Path:
        """Make a role misbehave from its next look on; unlink the returned file to end it."""
        self.run_dir.mkdir(exist_ok=True)
        path = self.run_dir / f"{verb}.{who}"
        path.touch()
        return path


def config(port: int, directory: Path, *, workers: int = 2, stop: str = "1s", extra: str = "", routes: str = "") -> str:
    return f"""
name: test
workers: {workers}
run_dir: {directory}/run
stop_timeout: {stop}
{extra or "store: {url: 'redis://127.0.0.1:1'}"}
routes:
  - name: one
    mode: tcp
    listen: 127.0.0.1:{port}
    backends: [{{address: "127.0.0.1:1"}}]
{routes}
"""


Make = Callable[..., Fakes]
