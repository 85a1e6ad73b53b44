"""The harness itself: what becomes of a server when its test run does not come to stop it."""

import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT, free_port, processes, wait_for

RUN = """
import pathlib, sys, time
from tests.harness import Running

running = Running(pathlib.Path(sys.argv[1]), sys.argv[2]).start().wait_ready()
print(running.session, flush=True)
time.sleep(60)
"""


def test_a_killed_test_run_leaves_no_server(tmp_path: Path) -> None:
    config = f"""
workers: 1
routes:
  - {{name: r, mode: tcp, listen: "127.0.0.1:{free_port()}", backends: [{{address: "127.0.0.1:{free_port()}"}}]}}
"""
    words = [sys.executable, "-c", RUN, str(tmp_path), config]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        session = int(run.stdout.readline())
        run.kill()
    # One that has ended and that nobody has waited for yet is gone.
    wait_for(
        lambda: not [pid for pid, _, of, state in processes() if of == session and state != "Z"],
        "the server is gone, too",
    )
