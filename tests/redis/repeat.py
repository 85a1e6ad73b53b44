"""Clients that do one thing again and again for a while, each in a thread: how often each got its answer.

`python -m tests.redis.repeat PORT SECONDS COUNT KEY…` is a process of its own for COUNT clients with pipelines, so that they
do not take turns with a test's own clients: it says `begun` when all have had their first answer, and how often each had it.
"""

import json
import sys
import threading
import time
from collections.abc import Callable

from tests.redis.wire import Wire, request

PIPELINE = 16 << 10
"""Bytes of a pipeline."""

VALUE = b"v" * 40


class Repeated:
    """`add` the clients, then `run` them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.began = threading.Event()
        self.deadline = 0.0
        self.threads: list[threading.Thread] = []
        self.rounds: dict[str, int] = {}

    def add(self, name: str, work: Callable[[Wire], object]) -> None:
        first = threading.Event()
        thread = threading.Thread(target=self._repeat, args=(name, work, first), daemon=True)
        thread.start()
        self.threads.append(thread)
        assert first.wait(20), f"{name}: no answer"

    def _repeat(self, name: str, work: Callable[[Wire], object], first: threading.Event) -> None:
        with Wire(self.port) as wire:
            work(wire)
            first.set()
            self.began.wait()
            rounds = 0
            while time.monotonic() < self.deadline:
                work(wire)
                rounds += 1
            self.rounds[name] = rounds

    def run(self, seconds: float, meanwhile: Callable[[], object] = lambda: time.sleep(0.1)) -> dict[str, int]:
        self.deadline = time.monotonic() + seconds
        self.began.set()
        while time.monotonic() < self.deadline:
            meanwhile()
        for thread in self.threads:
            thread.join()
        assert len(self.rounds) == len(self.threads), f"only {list(self.rounds)} came to their end"
        return self.rounds


def pipeline(keys: list[str]) -> Callable[[Wire], object]:
    """GETs of keys that all have VALUE; the answers must be right."""
    asked, count = b"", 0
    while len(asked) < PIPELINE:
        asked += request("GET", keys[count % len(keys)])
        count += 1
    wanted = (b"$%d\r\n%s\r\n" % (len(VALUE), VALUE)) * count

    def work(wire: Wire) -> None:
        wire.send(asked)
        got = bytearray()
        while len(got) < len(wanted):
            piece = wire.socket.recv(1 << 16)
            assert piece, "the end"
            got += piece
        assert got == wanted

    return work


def main(port: int, seconds: float, count: int, *keys: str) -> None:
    clients = Repeated(port)
    for number in range(count):
        clients.add(f"pipeline {number}", pipeline(list(keys)))
    print("begun", flush=True)
    print(json.dumps(clients.run(seconds)))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
