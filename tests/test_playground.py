"""The demo, as a newcomer runs it: it succeeds, ends at ^C, and leaves nothing behind, whatever ends it."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from playground.servers import free_port
from tests.harness import ROOT, processes, wait_for

SHOW_SECONDS = 100.0


class Demo:
    """`python -m playground` under a copy of etc/puerta.yaml whose ports are free, in a session of its own."""

    def __init__(self, directory: Path, ports: dict[str, int], *arguments: str) -> None:
        config = (ROOT / "etc" / "puerta.yaml").read_text()
        for port, other in ports.items():
            config = config.replace(f"127.0.0.1:{port}", f"127.0.0.1:{other}")
        (directory / "puerta.yaml").write_text(config)
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "playground", "-c", str(directory / "puerta.yaml"), *arguments],
                cwd=ROOT,
                env={**{name: value for name, value in os.environ.items() if name != "PORT"}, "TMPDIR": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # A shell's background job ignores ^C, and so would all that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self) -> int:
        wait_for(lambda: self.process.poll() is not None, f"the demo ends: {self.text()}", SHOW_SECONDS)
        return self.process.wait()

    def wait_text(self, pattern: str) -> None:
        wait_for(lambda: re.search(pattern, self.text()) or self.process.poll() is not None, pattern, SHOW_SECONDS)
        assert re.search(pattern, self.text()), self.text()

    def left(self) -> list[int]:
        return [pid for pid, _, session, state in processes() if session == self.process.pid and state not in "ZX"]

    def end(self) -> None:
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def ports() -> dict[str, int]:
    """The ports of etc/puerta.yaml → free ones that no outgoing connection can take while a server is dead."""
    config = (ROOT / "etc" / "puerta.yaml").read_text()
    wanted = sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", re.sub(r"#.*", "", config))))
    free: set[int] = set()
    while len(free) < len(wanted):
        free.add(free_port())
    return dict(zip(wanted, free, strict=True))


@pytest.fixture
def start() -> Iterator[Callable[..., Demo]]:
    demos: list[Demo] = []
    # Not tmp_path: what the demo makes in here are Unix sockets, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:

        def begin(ports: dict[str, int], *arguments: str) -> Demo:
            demos.append(Demo(Path(directory), ports, *arguments))
            return demos[-1]

        yield begin
        for demo in demos:
            demo.end()


def test_it_stays_up_until_interrupted(start: Callable[..., Demo], ports: dict[str, int]) -> None:
    demo = start(ports)
    demo.wait_text(f"status page http://127.0.0.1:{ports['9127']}/")
    assert "all as it should be" in demo.text()
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait() == 0, demo.text()
    assert not demo.left()


def test_an_interrupted_show_leaves_nothing(start: Callable[..., Demo], ports: dict[str, int]) -> None:
    demo = start(ports, "--once")
    demo.wait_text("pymongo clients")
    demo.process.send_signal(signal.SIGTERM)
    assert demo.wait() == 130, demo.text()
    assert not demo.left()


def test_a_killed_show_leaves_nothing(start: Callable[..., Demo], ports: dict[str, int]) -> None:
    demo = start(ports, "--once")
    demo.wait_text("pymongo clients")
    demo.process.kill()
    wait_for(lambda: not demo.left(), "everything is gone with the demo", 40.0)


def test_a_busy_port_is_named_with_a_way_out(start: Callable[..., Demo], ports: dict[str, int]) -> None:
    for port, way in (("27017", "PORT="), ("27102", "CONFIG=")):
        with socket.create_server(("127.0.0.1", ports[port])):
            demo = start(ports, "--once")
            assert demo.wait() == 1
        assert f"port {ports[port]} is in use" in demo.text()
        assert way in demo.text()
        assert "Traceback" not in demo.text()
        assert not demo.left()
