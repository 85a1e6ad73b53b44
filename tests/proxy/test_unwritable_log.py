"""A log that can't be written costs lines, never connections."""

from pathlib import Path

import pytest

from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, route
from tests.proxy.peers import echo, receive

pytestmark = pytest.mark.dataplane


def test_a_full_disk_stops_no_traffic(backend: Make, tmp_path: Path) -> None:
    front = Front(tmp_path, route("echo", backend(echo)))
    front.command += ["-e", str(tmp_path / "errors")]
    (tmp_path / "errors").symlink_to("/dev/full")
    front.start()
    try:
        wait_for(lambda: front.serves("echo"), "it serves")
        for _ in range(20):
            with front.connect("echo", b"x") as client:
                assert receive(client, 1) == b"x"
        assert front.quiet("echo")["closed"]["internal_error"] == 0
        front.stop()
    finally:
        front.end()
