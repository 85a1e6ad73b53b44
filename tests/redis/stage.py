"""Puerta before a cluster that does as it is told."""

from pathlib import Path
from types import TracebackType

from tests.harness import Running, free_port, wait_for
from tests.redis.nodes import Nodes
from tests.redis.wire import Wire, decoded

CONFIG = """
workers: 1
log: {{access: false}}
routes:
  - name: cache
    mode: redis
    listen: 127.0.0.1:{port}
    cluster: [{seeds}]
    {more}
"""


class Stage:
    """One route with one worker, in front of `nodes`; `more` are options of the route. A context manager.

    `down`: no node runs at the start.
    """

    def __init__(self, directory: Path, nodes: Nodes, more: str = "", seeds: str = "", down: bool = False) -> None:
        self.nodes, self.port, self.down = nodes, free_port(), down
        text = CONFIG.format(port=self.port, more=more, seeds=seeds or nodes[0].address)
        self.running = Running(directory, text)
        self.wires: list[Wire] = []

    def __enter__(self) -> "Stage":
        if not self.down:
            self.nodes.__enter__()
        self.running.start().wait_ready()
        if not self.down:
            masters = sum(bool(place.slots) for place in self.nodes.places)
            wait_for(lambda: self.info().get("cluster_masters") == masters, "the layout is known")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for wire in self.wires:
                wire.close()
            self.running.__exit__(kind, error, trace)
        finally:
            self.nodes.__exit__()
        assert "Traceback" not in self.running.text(), self.running.text()

    def connect(self, protocol: int = 2) -> Wire:
        wire = Wire(self.port)
        self.wires.append(wire)
        if protocol == 3:
            wire.ask("HELLO", 3)
        return wire

    def info(self) -> dict[str, int]:
        """The numbers of INFO."""
        with Wire(self.port) as wire:
            lines = decoded(wire.ask("INFO", "puerta")).decode().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        return {name: int(value) for name, value in found.items() if value.isdigit()}
