"""`puerta-master` under a handicap: `python -m tests.proxy.launch -c FILE`.

DESCRIPTORS in the environment is how many it may open. With FAULTS its sessions fail where a client asks for it: each
step of a client whose first bytes hold `fail in STEP` raises at that step.
"""

import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from puerta import cli
from puerta.process.household import ENTRIES
from puerta.role import Role

STEPS = ("identify", "on_placed", "dial", "start_relay", "on_half", "on_end", "summary")
"""Methods of a session, from its first message to its last line in the log."""


class Fault(Exception):
    """What no code expects."""


def faulty(step: str, method: Callable[..., Any]) -> Callable[..., Any]:
    marker = f"fail in {step}".encode()

    def run(session: Any, *arguments: Any) -> Any:
        first = getattr(session, "first", None)
        if first is not None and first.application and marker in first.application:
            raise Fault(step)
        return method(session, *arguments)

    return run


def worker(role: Role) -> int:
    """A worker whose sessions can fail. Its modules come with the fork, not before: the master has no gevent."""
    from puerta import worker

    usual = worker.SESSIONS["mongodb"]
    worker.SESSIONS["mongodb"] = type("Faulty", (usual,), {step: faulty(step, getattr(usual, step)) for step in STEPS})
    return worker.main(role)


if __name__ == "__main__":
    if "DESCRIPTORS" in os.environ:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(os.environ["DESCRIPTORS"]),) * 2)
    entries = {**ENTRIES, **({"worker": "tests.proxy.launch:worker"} if "FAULTS" in os.environ else {})}
    sys.exit(cli.main(entries=entries))
