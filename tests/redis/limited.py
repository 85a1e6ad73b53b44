"""Routes of one worker, with limits, and how much memory that worker needs."""

import time

from playground.cluster import ValkeyCluster
from tests.proxy.front import Front
from tests.proxy.peers import PATIENCE, free_port

KIB, MIB = 1 << 10, 1 << 20

SLACK = 16 * MIB
"""What a worker may need besides, whatever the clients do: nodes' buffers, the allocator's own."""

TRIM_SECONDS = 5.0
"""As in puerta.worker, which a process that is no worker can't import: it patches the standard library."""


def route(name: str, cluster: ValkeyCluster, **limits: object) -> dict[str, object]:
    listen = f"127.0.0.1:{free_port()}"
    return {"name": name, "mode": "redis", "listen": listen, "cluster": cluster.addresses, "limits": limits}


class Memory:
    """What the worker has needed since: at its most, and now.

    `settled`: first let it give back what earlier tests needed, which would hide what is needed now.
    """

    def __init__(self, front: Front, settled: bool = False) -> None:
        self.front = front
        if settled:
            time.sleep(TRIM_SECONDS + 0.5)
        self.before = self.most = front.memory()

    def grown(self) -> int:
        now = self.front.memory()
        self.most = max(self.most, now)
        return now - self.before

    def stays_below(self, bound: int, seconds: float = 0.5) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.grown() < bound, f"{self.grown() / MIB:.1f} MiB, more than {bound / MIB:.1f}"
            time.sleep(0.01)

    def comes_back(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while (left := self.grown()) > SLACK:
            assert time.monotonic() < deadline, (
                f"{left / MIB:.1f} MiB are left of {(self.most - self.before) / MIB:.1f}"
            )
            time.sleep(0.1)
