"""What happens at the same time as an agreement changes: each order of events, without a clock or a network."""

from collections.abc import Callable
from typing import Any

import pytest

from puerta.board import BACKEND_STATES, Board
from puerta.proxy.affinity import REFRESH_BATCH, Affinity
from puerta.proxy.backend import Backend
from puerta.proxy.store import CLAIMED, KEPT, MOVED
from puerta.reactor import native

KEY = b"0123456789abcdef"
A, B, C = "10.0.0.1:27017", "10.0.0.2:27017", "10.0.0.3:27017"


class Ledger:
    """The shared store: answers when told to, and by the rules of the claim."""

    def __init__(self) -> None:
        self.up = True
        self.kept: dict[bytes, str] = {}
        self.claims: list[tuple[bytes, str, str, Callable[[str | None, int], object]]] = []
        self.workers: list[Affinity] = []

    def claim(self, route: str, key: bytes, backend: str, ttl: float, avoid: str, answer: Any) -> None:
        if self.up:
            self.claims.append((key, backend, avoid, answer))
        else:
            answer(None, KEPT)

    def decide(self) -> Callable[[], object]:
        """Take the oldest claim in; its answer is on its way until the result is called. Moves are told at once."""
        key, backend, avoid, answer = self.claims.pop(0)
        kept = self.kept.get(key)
        if kept and kept != avoid:
            return lambda: answer(kept, KEPT)
        self.kept[key] = backend
        if not avoid:
            return lambda: answer(backend, CLAIMED)
        for worker in self.workers:
            worker.moved(key, backend)
        return lambda: answer(backend, MOVED)

    def settle(self) -> None:
        while self.claims:
            self.decide()()


class Session:
    """One that asked for a backend."""

    def __init__(self, affinity: Affinity, key: bytes = KEY) -> None:
        self.affinity, self.key = affinity, key
        self.backend: Backend | None = None
        self.reason = ""
        self.found = ""

    def placed(self, backend: Backend | None, how: str) -> None:
        self.backend, self.found = backend, how

    def place(self, *tried: Backend) -> "Session":
        self.affinity.place(self.key, tried, self.placed)
        return self

    def attach(self) -> bool:
        assert self.backend is not None
        return self.affinity.attach(self.key, self, self.backend)

    def end(self, reason: str) -> None:
        self.reason = reason
        self.affinity.detach(self.key, self)


def worker(ledger: Ledger | None, ttl: float = 60.0) -> Affinity:
    """One worker's affinity, with a board of its own: what it thinks of backends is its own affair."""
    board = Board(1 << 20)
    backends = [Backend("mongo", id, 1, board, 0) for id in (A, B, C)]
    for backend in backends:
        backend.endpoint = native.Endpoint(backend.id.partition(":")[0], 27017)
    made = Affinity("mongo", backends, "rendezvous", ttl, 1024, ledger)  # type: ignore[arg-type]
    if ledger is not None:
        ledger.workers.append(made)
    return made


def lose(affinity: Affinity, id: str) -> None:
    """This worker learns that a backend went down."""
    backend = affinity.by_id[id]
    backend.verdict.set(0, "state", BACKEND_STATES.index("down"))
    backend.verdict.set(0, "downs", backend.downs + 1)
    assert backend.refresh()
    affinity.forget(backend)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def settled(affinity: Affinity, ledger: Ledger, id: str) -> Session:
    """A client of this worker that is connected to backend `id`."""
    ledger.kept[KEY] = id
    session = Session(affinity).place()
    ledger.settle()
    assert session.backend is affinity.by_id[id]
    assert session.attach()
    return session


def test_two_workers_move_a_client_at_once(ledger: Ledger) -> None:
    one, two = worker(ledger), worker(ledger)
    old = [settled(each, ledger, A) for each in (one, two)]
    for each, choice in ((one, B), (two, C)):
        lose(each, A)
        each.propose = lambda key, candidates, wanted=choice: next(c for c in candidates if c.id == wanted)
    new = [Session(one).place(), Session(two).place()]
    assert {claim[1] for claim in ledger.claims} == {B, C}
    first, second = ledger.decide(), ledger.decide()
    second(), first(), ledger.settle()
    assert len({session.backend.id for session in new if session.backend}) == 1
    assert [session.reason for session in old] == ["moved", "moved"]
    assert all(session.attach() for session in new)


def test_moved_while_it_connects(ledger: Ledger) -> None:
    affinity = worker(ledger)
    ledger.kept[KEY] = A
    session = Session(affinity).place()
    ledger.settle()
    affinity.moved(KEY, B)
    assert not session.attach()
    session.place()
    assert affinity.find(KEY) is affinity.by_id[B]


def test_backend_goes_down_while_it_connects(ledger: Ledger) -> None:
    affinity = worker(ledger)
    ledger.kept[KEY] = A
    session = Session(affinity).place()
    ledger.settle()
    lose(affinity, A)
    assert not session.attach()
    session.place()
    ledger.settle()
    assert session.found == "moved"
    assert session.attach()


def test_answer_that_a_move_has_overtaken(ledger: Ledger) -> None:
    affinity = worker(ledger)
    ledger.kept[KEY] = A
    session = Session(affinity).place()
    answer = ledger.decide()
    ledger.kept[KEY] = B
    affinity.moved(KEY, B)
    answer()
    assert session.backend is None, "it believed the older word"
    ledger.settle()
    assert session.backend is affinity.by_id[B]


def test_claiming_again_does_not_undo_a_move(ledger: Ledger) -> None:
    affinity = worker(ledger)
    session = settled(affinity, ledger, A)
    affinity.doubt()
    affinity.tick(affinity.clock + 1)
    answer = ledger.decide()
    ledger.kept[KEY] = B
    affinity.moved(KEY, B)
    answer()
    ledger.settle()
    assert session.reason == "moved"
    assert Session(affinity).place().backend is None or affinity.by_id[B] is affinity.find(KEY)
    ledger.settle()
    assert affinity.known(KEY).backend is affinity.by_id[B]  # type: ignore[union-attr]


def test_moved_to_a_backend_that_is_not_in_our_configuration(ledger: Ledger) -> None:
    """Better to be moved here once more than to be on two backends."""
    affinity = worker(ledger)
    session = settled(affinity, ledger, A)
    ledger.kept[KEY] = "10.0.0.9:27017"
    affinity.moved(KEY, "10.0.0.9:27017")
    assert session.reason == "moved"
    again = Session(affinity).place()
    ledger.settle()
    assert again.found == "moved"
    assert again.backend is affinity.by_id[ledger.kept[KEY]]


def test_store_that_comes_back_with_an_old_word(ledger: Ledger) -> None:
    """While it was away its backend died and the client moved: it is told so, and the client stays."""
    affinity = worker(ledger)
    settled(affinity, ledger, A)
    ledger.up = False
    lose(affinity, A)
    session = Session(affinity).place()
    assert session.found == "hash"
    assert session.attach()
    ledger.up = True
    affinity.doubt()
    affinity.tick(affinity.clock + 1)
    ledger.settle()
    assert session.backend is not None
    assert (session.reason, ledger.kept[KEY]) == ("", session.backend.id)


def test_store_without_memory_is_told(ledger: Ledger) -> None:
    """By those who have the client, and by those who had it."""
    having, had = worker(ledger), worker(ledger)
    away = next(id for id in (A, B, C) if having.propose(KEY, having.backends).id != id)
    session = settled(having, ledger, away)
    settled(had, ledger, away).end("client_closed")
    for each, act in ((having, lambda: having.tick(having.clock + 1)), (had, lambda: Session(had).place())):
        ledger.kept.clear()
        each.doubt()
        act()
        ledger.settle()
        assert ledger.kept == {KEY: away}
    assert session.reason == ""


def test_idle_client_is_asked_for_when_in_doubt(ledger: Ledger) -> None:
    affinity = worker(ledger)
    settled(affinity, ledger, A).end("client_closed")
    assert affinity.find(KEY) is affinity.by_id[A]
    affinity.doubt()
    assert affinity.find(KEY) is None


def test_one_that_fails_does_not_hold_the_others(ledger: Ledger) -> None:
    affinity = worker(ledger)
    told: list[str] = []

    def fails(backend: Backend | None, how: str) -> None:
        told.append("none" if backend is None else "placed")
        if backend is not None:
            raise OSError("no descriptors")

    affinity.place(KEY, (), fails)
    other = Session(affinity).place()
    ledger.settle()
    assert told == ["placed", "none"]
    assert other.backend is not None


def test_claims_again_in_batches_and_not_faster_than_it_is_answered(ledger: Ledger) -> None:
    affinity = worker(ledger, ttl=60.0)
    for number in range(REFRESH_BATCH + 10):
        session = Session(affinity, number.to_bytes(16, "big")).place()
        ledger.settle()
        assert session.attach()
    affinity.doubt()
    affinity.tick(affinity.clock + 0.1)
    assert len(ledger.claims) == REFRESH_BATCH
    for _ in range(5):
        affinity.tick(affinity.clock + 0.1)
    assert len(ledger.claims) == REFRESH_BATCH + 10
    for _, _, _, answer in ledger.claims:
        answer(None, KEPT)  # it takes no claims
    ledger.claims.clear()
    affinity.tick(affinity.clock + 0.1)
    assert not ledger.claims, "a store that refuses is asked ten times a second"
