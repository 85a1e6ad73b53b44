"""The fixture of the process tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import free_port
from tests.process.server import Fakes, Make, config


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes servers that were not started yet; whatever they leave is killed at the end of the test."""
    made: list[Fakes] = []

    def build(
        arguments: tuple[str, ...] = (), timing: dict[str, float] | None = None, port: int = 0, **options: Any
    ) -> Fakes:
        directory = options.pop("directory", tmp_path)
        port = port or free_port()
        environ = {"FAKE_TIMING": json.dumps(timing or {})}
        server = Fakes(
            directory,
            config(port, directory, **options),
            module="tests.process.launch",
            arguments=arguments,
            environ=environ,
        )
        server.port = port
        server.log = directory / f"log.{len(made)}"
        made.append(server)
        return server

    yield build
    for server in made:
        server.end()
