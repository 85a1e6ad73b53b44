"""What Puerta is for: one MongoClient with many threads keeps its cursors and transactions over several machines."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from playground.servers import Server, Valkey, several
from tests.e2e.machines import Machine
from tests.e2e.peers import Backend, Splitter, client, in_threads
from tests.harness import wait_for

THREADS = 10
ROUNDS = 200
POOL = 8
PAUSE = 0.002
"""Seconds a thread works on what it got. One that never pauses gets the connection back that it has just returned, and
nothing would ever be asked for over another connection than the one it came from."""

CURSOR_NOT_FOUND, NO_SUCH_TRANSACTION = 43, 251


class KilledCursors(CommandListener):
    """Counts what the servers answered to killCursors."""

    def __init__(self) -> None:
        self.killed = self.lost = 0

    def started(self, event: CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if event.command_name == "killCursors":
            self.killed += len(event.reply["cursorsKilled"])
            self.lost += len(event.reply["cursorsNotFound"])

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@contextmanager
def two_machines(directory: Path, **options: Any) -> Iterator[tuple[list[Machine], int]]:
    """Two machines of four workers with one store and two backends that have the same data; the port that leads to
    both machines in turn."""
    with ExitStack() as stack:
        store = Valkey()
        backends: list[Server] = [Backend(), Backend()]
        stack.enter_context(several([store, *backends]))
        machines = [
            Machine(
                directory / name,
                [backend.address for backend in backends],
                name=name,
                workers=4,
                store=f"redis://{store.address}",
                **options,
            ).start()
            for name in ("east", "west")
        ]
        for machine in machines:
            stack.callback(machine.end)
        for machine in machines:
            stack.enter_context(machine)
        for backend in backends:
            prepare(backend.port)
        splitter = stack.enter_context(Splitter([machine.port for machine in machines]))
        yield machines, splitter.port


def read(mongo: "MongoClient[dict[str, Any]]", thread: int) -> None:
    """A cursor of several batches."""
    count = 0
    for _ in mongo.lab.items.find({}, batch_size=25):
        count += 1
        if count % 25 == 0:
            time.sleep(PAUSE)
    assert count == 100


def close_early(mongo: "MongoClient[dict[str, Any]]", thread: int) -> None:
    """A cursor that is closed before its end: killCursors."""
    cursor = mongo.lab.items.find({}, batch_size=10)
    next(cursor)
    time.sleep(PAUSE)
    cursor.close()


def transact(mongo: "MongoClient[dict[str, Any]]", thread: int) -> None:
    """A transaction of several statements."""
    with mongo.start_session() as session, session.start_transaction():
        for step in range(3):
            mongo.lab[f"t{thread}"].insert_one({"step": step}, session=session)
            time.sleep(PAUSE)


def use(mongo: "MongoClient[dict[str, Any]]", rounds: int) -> Counter[str]:
    """Rounds in many threads; the errors by code. Every thread goes on after an error."""
    errors: Counter[str] = Counter()
    turns = iter(range(rounds))

    def work(thread: int) -> None:
        for _ in turns:
            for step in (read, close_early, transact):
                try:
                    step(mongo, thread)
                except PyMongoError as error:
                    errors[str(getattr(error, "code", None) or type(error).__name__)] += 1

    assert not in_threads(THREADS, work)
    return errors


def prepare(port: int) -> None:
    with client(port, "prepare") as mongo:
        mongo.lab.items.insert_many({"number": number} for number in range(100))
        for thread in range(THREADS):
            mongo.lab.create_collection(f"t{thread}")


def test_threads_cursors_and_transactions_over_two_machines(tmp_path: Path) -> None:
    listener = KilledCursors()
    with two_machines(tmp_path) as (machines, port):
        with client(port, "shop@1", event_listeners=[listener], minPoolSize=POOL, maxPoolSize=POOL) as mongo:
            assert use(mongo, ROUNDS) == {}
            counts = [sum(mongo.lab[f"t{thread}"].count_documents({}) for thread in range(THREADS))]
            busy = [machine.connections() for machine in machines]
        assert counts == [ROUNDS * 3]
        assert (listener.killed, listener.lost) == (ROUNDS, 0)
        assert all(len(each) == 1 for each in busy), busy  # both machines carried it, to one backend each …
        assert busy[0].keys() == busy[1].keys()  # … the same
        assert sum(busy[0].values()) >= POOL // 2 <= sum(busy[1].values())
        wait_for(lambda: not any(machine.route()["connections"] for machine in machines), "all connections are closed")
        seats = [sum(worker["state"] == "up" for worker in machine.status()["workers"]) for machine in machines]
        assert seats == [4, 4]
    keys = {key for machine in machines for key in machine.placed()}
    assert len(keys) == 1
    print(f"one backend for {sum(len(machine.access()) for machine in machines)} connections")


def test_without_affinity_the_same_client_fails(tmp_path: Path) -> None:
    """The control: what the test above proves does not come by itself."""
    listener = KilledCursors()
    with (
        two_machines(tmp_path, affinity="by: none", balance="round-robin") as (_, port),
        client(port, "shop@1", event_listeners=[listener], minPoolSize=POOL, maxPoolSize=POOL) as mongo,
    ):
        errors = use(mongo, ROUNDS // 4)
    print(f"without affinity: {dict(errors)}, {listener.lost} cursors leaked")
    assert errors[str(CURSOR_NOT_FOUND)] > 0
    assert errors[str(NO_SUCH_TRANSACTION)] > 0
    assert listener.lost > 0
