"""Machines that run Puerta, for the end-to-end tests."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from playground.servers import free_port
from tests.e2e.peers import PATTERN
from tests.harness import Running, ask, wait_for

ROUTE_OPTIONS = {"balance", "affinity", "health", "limits"}


class Machine(Running):
    """One master with its workers, as if on a machine of its own. `routes` are their options by name; `options` are those
    of the whole. The route of most tests is called mongo. `beside`: more routes, as text, that the tests do not look at."""

    def __init__(self, directory: Path, backends: Sequence[str] = (), **options: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.routes: dict[str, dict[str, Any]] = options.pop("routes", None) or {"mongo": {"backends": list(backends)}}
        self.ports = {name: free_port() for name in self.routes}
        for name in options.keys() & ROUTE_OPTIONS:
            self.routes["mongo"][name] = options.pop(name)
        self.beside = str(options.pop("beside", ""))
        self.options = options
        super().__init__(directory, self.render(**options), module=options.pop("module", "puerta"))

    @property
    def port(self) -> int:
        return self.ports["mongo"]

    def configure(self, route: str = "mongo", **changes: Any) -> None:
        """Write the configuration anew with `changes` of a route; a reload takes it."""
        self.routes[route].update(changes)
        self.write_config(self.render(**self.options))

    def render(
        self,
        name: str = "puerta",
        workers: int = 2,
        store: str = "embedded",
        store_timeout: str = "1s",
        stop: str = "30s",
    ) -> str:
        lines = [f"name: {name}", f"workers: {workers}", f"stop_timeout: {stop}"]
        lines += [f'store: {{url: "{store}", timeout: {store_timeout}}}', "routes:"]
        for route, options in self.routes.items():
            lines += self.render_route(route, **options)
        lines += [self.beside] if self.beside else []
        return "\n".join(lines) + "\n"

    def render_route(
        self,
        name: str,
        backends: Sequence[str],
        balance: str = "rendezvous",
        affinity: str = f"session_pattern: {PATTERN}",
        health: str = "every: 1s, timeout: 500ms",
        limits: str = "",
    ) -> list[str]:
        listed = ", ".join(f"{{address: {address}}}" for address in backends)
        return [
            f"  - name: {name}",
            "    mode: mongodb",
            f"    listen: 127.0.0.1:{self.ports[name]}",
            "    expect: any",
            f"    backends: [{listed}]",
            f"    balance: {balance}",
            f"    affinity: {{{affinity}}}",
            f"    health: {{{health}}}",
            f"    limits: {{{limits}}}",
        ]

    def boot(self) -> Self:
        """Start it, unless it was, and wait until it serves; one that does not is not left behind."""
        try:
            if self.process is None:
                self.start()
            return self.wait_ready().wait_up()
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self.boot()

    def status(self) -> dict[str, Any]:
        reply = ask(str(self.run_dir / "puerta.sock"), b"GET /status HTTP/1.0\r\n\r\n")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0] + b" ", head
        told: dict[str, Any] = json.loads(body)
        return told

    def route(self, name: str = "mongo") -> dict[str, Any]:
        """What /status says of a route."""
        [found] = [route for route in self.status()["routes"] if route["name"] == name]
        return dict(found)

    def backends(self, route: str = "mongo") -> dict[str, dict[str, Any]]:
        return {backend["id"]: backend for backend in self.route(route)["backends"]}

    def connections(self, route: str = "mongo") -> dict[str, int]:
        """Open connections of each backend, as /status tells them; those without any are left out."""
        return {id: backend["connections"] for id, backend in self.backends(route).items() if backend["connections"]}

    def wait_up(self) -> Self:
        """Wait until all backends of all routes are up."""

        def up() -> bool:
            return all(backend["state"] == "up" for route in self.routes for backend in self.backends(route).values())

        wait_for(up, "all backends are up")
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
