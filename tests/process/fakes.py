"""Roles for the tests of the process layer: a plain accept loop, and a supervisor that shows the board.

A file `{verb}.{who}` in run_dir makes a role misbehave; who is a seat, `supervisor`, or `g2` for a whole generation:
`die` ends at once with status 1, `never` with status 3, `raise` by an exception, `slow` is never ready, `freeze` is ready
but never beats again, `linger` drains until the drain limit.
"""

import json
import os
import selectors
import signal
import time
from pathlib import Path
from typing import Any

from puerta.board import CHILD_STATES, MASTER_STATES, ROLES, ROWS
from puerta.role import EXIT_NEVER_BOOTS, WORKER, Listener, Role

TURN = 0.05


time.sleep(float(os.environ.get("FAKE_IMPORT_SECONDS", "0")))  # as long as a child still imports it takes no signals


class Fake:
    def __init__(self, role: Role) -> None:
        self.role = role
        self.draining = self.quitting = False
        self.open: dict[int, Listener] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(role.lifeline, selectors.EVENT_READ)
        signal.signal(signal.SIGTERM, self.on_term)
        signal.signal(signal.SIGQUIT, self.on_quit)
        signal.signal(signal.SIGUSR1, self.on_usr1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])

    def on_term(self, *_: Any) -> None:
        self.draining = True

    def on_quit(self, *_: Any) -> None:
        self.quitting = True

    def on_usr1(self, *_: Any) -> None:
        os.write(2, f"reopened in {os.getpid()}\n".encode())

    def told_to(self, verb: str) -> bool:
        who = str(self.role.seat) if self.role.name == WORKER else self.role.name
        run_dir = Path(self.role.config.run_dir)
        return any((run_dir / f"{verb}.{name}").exists() for name in (who, f"g{self.role.generation}"))

    def boot(self) -> int | None:
        if self.told_to("die"):
            return 1
        if self.told_to("never"):
            return EXIT_NEVER_BOOTS
        if self.told_to("raise"):
            raise RuntimeError("told to")
        self.beat()
        if not self.told_to("slow"):
            self.role.board.workers.set(self.role.row, "ready", self.role.generation + 1)
        return None

    def beat(self) -> None:
        self.role.board.workers.set(self.role.row, "beat_ns", time.monotonic_ns())

    def mine(self) -> dict[int, Listener]:
        """What to accept on now, by descriptor."""
        adoptions = self.role.board.adoptions
        adopted = {row for row in range(ROWS) if adoptions.get(row, "row_plus_one") == self.role.row + 1}
        served = {-1, self.role.seat} | adopted
        return {entry.socket.fileno(): entry for entry in self.role.listeners if entry.seat in served}

    def sync(self) -> None:
        wanted = {} if self.draining else self.mine()
        for descriptor in self.open.keys() - wanted.keys():
            self.selector.unregister(descriptor)
        for descriptor in wanted.keys() - self.open.keys():
            self.selector.register(descriptor, selectors.EVENT_READ)
        self.open = wanted

    def answer(self, listener: Listener) -> bytes:
        role = self.role
        told = {"seat": role.seat, "pid": os.getpid(), "generation": role.generation, "route": listener.route}
        return json.dumps(told | {"listener": listener.seat}).encode()

    def run(self) -> int:
        status = self.boot()
        if status is not None:
            return status
        linger = 0.0
        while not self.quitting:
            self.beat()
            self.sync()
            if self.draining:
                for listener in self.role.listeners if self.role.name == WORKER else ():
                    listener.socket.close()
                self.role.board.workers.set(self.role.row, "state", CHILD_STATES.index("draining"))
                linger = linger or time.monotonic() + self.role.config.stop_timeout * self.told_to("linger")
                if time.monotonic() >= linger:
                    return 0
            if self.told_to("freeze"):
                self.freeze()
            for key, _ in self.selector.select(TURN):
                if key.fileobj == self.role.lifeline:
                    return 0
                self.accept(self.open[key.fd])
        return 0

    def freeze(self) -> None:
        while True:
            time.sleep(0.1)

    def accept(self, listener: Listener) -> None:
        try:
            connection, _ = listener.socket.accept()
        except BlockingIOError:
            return
        with connection:
            connection.sendall(self.answer(listener))


class FakeSupervisor(Fake):
    """Answers each connection with the board, in words."""

    def mine(self) -> dict[int, Listener]:
        return {entry.socket.fileno(): entry for entry in self.role.listeners}

    def answer(self, listener: Listener) -> bytes:
        board = self.role.board
        master = board.master.row(0)
        children = [board.children.row(row) for row in range(ROWS)]
        told = {
            "master": master | {"state": MASTER_STATES[master["state"]]},
            "children": [
                child | {"role": ROLES[child["role"]], "state": CHILD_STATES[child["state"]]}
                for child in children
                if child["role"]
            ],
            "adopters": [board.adoptions.get(row, "row_plus_one") - 1 for row in range(20)],
            "self": {"generation": self.role.generation, "pid": os.getpid(), "store": self.role.store_url},
            "user": [os.getuid(), os.getgid(), os.getgroups()],
            "tables": sorted(board.tables),
        }
        return json.dumps(told).encode()


def worker(role: Role) -> int:
    return Fake(role).run()


def supervisor(role: Role) -> int:
    return FakeSupervisor(role).run()
