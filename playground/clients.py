"""Real pymongo clients that do what breaks when a client's connections are split over several mongos.

Each client has threads that run multi-batch cursors and transactions over one connection pool: the batches of one cursor
and the statements of one transaction travel over whatever connection is free. A server that did not open the cursor
answers CursorNotFound, one that did not begin the transaction answers NoSuchTransaction.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

THREADS = 4
ROUNDS = 10
DOCUMENTS = 240
BATCH = 20

SPLIT = {43: "CursorNotFound", 251: "NoSuchTransaction"}
"""The errors that a split client meets, by their codes."""

LOST, OTHER = "connection lost", "other errors"


class Client:
    """One application: `name` is its application name, by which Puerta knows all its connections. `tally` counts."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self.tally: Counter[str] = Counter()
        self.first_error = ""
        self.mongo: MongoClient[dict[str, Any]] = MongoClient(
            host, port, appname=name, serverSelectionTimeoutMS=10_000, connectTimeoutMS=5_000, socketTimeoutMS=10_000
        )
        self.database = self.mongo["demo_" + name]
        self.threads: list[threading.Thread] = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    def seed(self) -> None:
        """Begin with the same documents, wherever the client is now: the playground's servers share no data."""
        self.mongo.drop_database(self.database.name)
        self.database["orders"].insert_many([{"_id": number} for number in range(DOCUMENTS)])
        for thread in range(THREADS):
            self.database[f"ledger{thread}"].insert_one({"_id": -1})

    def start(self, rounds: int | None) -> None:
        """Set the threads to work: for so many rounds each, or (None) until `finish` or the first error."""
        self.threads = [threading.Thread(target=self._work, args=(n, rounds), daemon=True) for n in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def finish(self, now: bool) -> None:
        """Wait for the threads; `now` ends them after the round they are in."""
        if now:
            self.stopping.set()
        for thread in self.threads:
            thread.join()

    def close(self) -> None:
        self.stopping.set()
        self.mongo.close()

    @property
    def errors(self) -> dict[str, int]:
        """The errors among what was counted, by kind."""
        return {kind: self.tally[kind] for kind in (*SPLIT.values(), LOST, OTHER) if self.tally[kind]}

    def _work(self, thread: int, rounds: int | None) -> None:
        done = 0
        while not self.stopping.is_set() and done != rounds:
            done += 1
            try:
                self._read_all()
                self._transfer(thread, done)
            except (PyMongoError, AssertionError) as error:
                self._note(error)
                if rounds is None:
                    return

    def _read_all(self) -> None:
        """A cursor of many batches: one `find` and a dozen `getMore`."""
        found = sum(1 for _ in self.database["orders"].find({}, batch_size=BATCH))
        assert found == DOCUMENTS, f"a cursor returned {found} of {DOCUMENTS} documents"
        self._count("cursors")

    def _transfer(self, thread: int, number: int) -> None:
        """A transaction: it writes, reads what it wrote, and commits."""
        ledger = self.database[f"ledger{thread}"]
        with self.mongo.start_session() as session, session.start_transaction():
            ledger.replace_one({"_id": number}, {"by": self.name}, upsert=True, session=session)
            seen = ledger.find_one({"_id": number}, session=session)
            assert seen is not None and seen["by"] == self.name, "a transaction did not see its own write"
        self._count("transactions")

    def _count(self, what: str) -> None:
        with self.lock:
            self.tally[what] += 1

    def _note(self, error: Exception) -> None:
        kind = OTHER
        if isinstance(error, ConnectionFailure):
            kind = LOST
        elif isinstance(error, OperationFailure):
            kind = SPLIT.get(error.code or 0, OTHER)
        self._count(kind)
        self.first_error = self.first_error or f"{type(error).__name__}: {error}"


class Clients:
    """Several of them, closed together."""

    def __init__(self, names: Sequence[str], host: str, port: int) -> None:
        self.all = [Client(name, host, port) for name in names]

    def __iter__(self) -> Iterator[Client]:
        return iter(self.all)

    def work(self, rounds: int) -> None:
        """Count anew: seed, then so many rounds in every thread of every client."""
        for client in self:
            client.tally.clear()
            client.seed()
        for client in self:
            client.start(rounds)
        self.finish(now=False)

    def finish(self, now: bool) -> None:
        for client in self:
            client.finish(now)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self:
            client.close()


def split_by_hand(first: tuple[str, int], second: tuple[str, int]) -> str:
    """What happens without affinity: begin a cursor on one server, ask the other one for its next batch."""
    with direct(*first) as one, direct(*second) as other:
        one["split"]["orders"].insert_many([{} for _ in range(3)])
        cursor = one["split"]["orders"].find({}, batch_size=1)
        cursor.next()
        try:
            other["split"].command("getMore", cursor.cursor_id, collection="orders")
        except OperationFailure as error:
            return SPLIT.get(error.code or 0, str(error))
        finally:
            one.drop_database("split")
    return "nothing"


def direct(host: str, port: int) -> MongoClient[dict[str, Any]]:
    """A client that looks past Puerta."""
    return MongoClient(host, port, directConnection=True, serverSelectionTimeoutMS=5_000, appname="demo")
