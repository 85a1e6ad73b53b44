"""Which backend a client belongs to, as one worker knows it, and how it agrees with the others.

    the worker's own bindings  →  one atomic claim in the shared store  →  the rendezvous hash alone

A binding is *live* while this worker has sessions of the client, and *idle* afterwards. Live bindings are never
dropped and are claimed again every third of the time to live, so the store keeps them as long as anybody has a session of
the client. Idle bindings are a bounded LRU (a plain dict in order of the last use) and are believed for a third of
the time to live; whoever moves a key in the store tells all workers, and a backend that goes down takes its bindings along.
What a worker remembers but can't believe is still its proposal: so a store that lost its memory gets it back.
No look-up takes a lock: one worker is one thread.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import cython

from puerta import log
from puerta.board import FOUND
from puerta.proxy import balance
from puerta.proxy.backend import UP
from puerta.proxy.store import CLAIMED, KEPT, MOVED, Store
from puerta.reactor import native

if not cython.compiled:
    from puerta.proxy.backend import Backend, candidates

FOUND_BY_STORE = {KEPT: "hit", CLAIMED: "claimed", MOVED: "moved"}
assert set(FOUND_BY_STORE.values()) <= set(FOUND)

REFRESH_BATCH = 256
"""Bindings claimed again in one go; the rest wait for the next tick, so that no refresh becomes a burst."""

REFRESH_SECONDS = 1.0
"""Time between two looks for bindings to claim again, at most; so often a store that refuses is bothered with them."""

Placed = Callable[[Backend | None, str], object]


class Binding:
    """One client's backend. `confirmed` is when the store last agreed (0 = never); `sessions` is None when idle.

    Kept small, for there is one for every client: three references, no dict, and the time is one float object shared
    by all that were confirmed in the same tick.
    """

    if not cython.compiled:
        __slots__ = ("backend", "confirmed", "sessions")

    def __init__(self, backend: Backend, confirmed: float) -> None:
        self.backend = backend
        self.confirmed = confirmed
        self.sessions: set[Any] | None = None


class Affinity:
    """The bindings of one route in one worker. `clock` is the worker's coarse time, advanced by `tick`.

    `asking` holds who waits for the store's answer about a key; nobody does when a binding is only claimed again.
    """

    def __init__(
        self, route: str, backends: list[Backend], policy: str, ttl: float, cache: int, store: Store | None
    ) -> None:
        self.route, self.backends, self.ttl, self.cache, self.store = route, backends, ttl, cache, store
        self.by_id = {backend.id: backend for backend in backends}
        self.propose = balance.POLICIES[policy]
        self.live: dict[bytes, Binding] = {}
        self.idle: dict[bytes, Binding] = {}
        self.asking: dict[bytes, list[Placed]] = {}
        self.overtaken: dict[bytes, str] = {}
        self.touched: deque[bytes] = deque(maxlen=REFRESH_BATCH * 16)
        self.due: list[bytes] = []
        self.next_look = 0.0
        self.doubted = 0.0
        self.clock = native.now()

    # -- look-up

    def find(self, key: bytes) -> Backend | None:
        """The client's backend if this worker knows it and it can be used now."""
        binding = self.live.get(key)
        if binding is None:
            binding = self.idle.get(key)
            if binding is None or binding.confirmed <= self.believed_since:
                return None
        return binding.backend if binding.backend.usable(self.clock) else None

    def known(self, key: bytes) -> Binding | None:
        binding = self.live.get(key)
        return self.idle.get(key) if binding is None else binding

    @property
    def believed_since(self) -> float:
        """What the store confirmed no later than this must be asked for again."""
        return max(self.doubted, self.clock - self.ttl / 3)

    def place(self, key: bytes, tried: tuple[Backend, ...], placed: Placed) -> None:
        """Find the client a backend, asking the store if there is one. `placed(backend or None, how)` may be called at once.

        `tried` are backends that just refused a connection: a binding to one of them is moved by compare-and-set.
        """
        proposal = self.proposal(key, tried)
        if proposal is None:
            placed(None, "none")
        elif self.store is None:
            placed(self.bind(key, proposal, confirmed=False), "hash")
        elif key in self.asking:
            self.asking[key].append(placed)
        else:
            self.asking[key] = [placed]
            avoid = self.unusable(key, tried)
            self.ask(key, proposal, avoid if avoid != proposal.id else "", tried)

    def unusable(self, key: bytes, tried: tuple[Backend, ...]) -> str:
        """The id of the backend that this worker knows the client by and can't use, or ""."""
        binding = self.known(key)
        if binding is not None and (binding.backend in tried or not binding.backend.usable(self.clock)):
            return binding.backend.id
        return ""

    def proposal(self, key: bytes, tried: tuple[Backend, ...]) -> Backend | None:
        """Where the client was, if that can be used; else what the policy says."""
        binding = self.known(key)
        if binding is not None and binding.backend not in tried and binding.backend.usable(self.clock):
            return binding.backend
        choice = candidates(self.backends, self.clock, tried)
        return self.propose(key, choice) if choice else None

    def ask(self, key: bytes, proposal: Backend, avoid: str, tried: tuple[Backend, ...]) -> None:
        assert self.store is not None
        self.store.claim(
            self.route,
            key,
            proposal.id,
            self.ttl,
            avoid,
            lambda kept, outcome: self.answered(key, tried, kept, outcome),
        )

    def answered(self, key: bytes, tried: tuple[Backend, ...], kept: str | None, outcome: int) -> None:
        """The store has spoken, or could not. It may name a backend that can't be used: then that one is moved."""
        newer = self.overtaken.pop(key, kept)
        if kept is None:
            self.decide_alone(key, tried)
            return
        backend = self.by_id.get(kept)
        moved_since = newer != kept
        if backend is None or moved_since or (outcome == KEPT and not self.acceptable(key, backend, tried)):
            proposal = self.proposal(key, tried)
            if proposal is None:
                self.tell(key, None, "none")
                return
            if moved_since or proposal is not backend:
                self.ask(key, proposal, "" if moved_since else kept, tried)
                return
        assert backend is not None
        self.tell(key, self.bind(key, backend, confirmed=True), FOUND_BY_STORE[outcome])

    def acceptable(self, key: bytes, backend: Backend, tried: tuple[Backend, ...]) -> bool:
        """Whether the client may stay where the store has it. When nobody wants to connect, all that is not believed
        is a backend that went down and that we know the client to have left."""
        if self.asking[key]:
            return backend not in tried and backend.usable(self.clock)
        binding = self.known(key)
        return backend.state <= UP or binding is None or binding.backend is backend

    def decide_alone(self, key: bytes, tried: tuple[Backend, ...]) -> None:
        """What this worker knows of the client first, else the hash that every worker computes alike."""
        if not self.asking[key]:
            del self.asking[key]
            return
        binding = self.known(key)
        if binding is not None and binding.backend not in tried and binding.backend.usable(self.clock):
            self.tell(key, binding.backend, "hash")
            return
        choice = candidates(self.backends, self.clock, tried)
        self.tell(key, self.bind(key, balance.rendezvous(key, choice), confirmed=False) if choice else None, "hash")

    def tell(self, key: bytes, backend: Backend | None, how: str) -> None:
        """Answer all who wait; one that fails ends, the others still get theirs."""
        for placed in self.asking.pop(key, ()):
            try:
                placed(backend, how)
            except Exception:
                log.logger.exception("a session could not be placed and was closed")
                placed(None, "none")

    # -- bindings

    def bind(self, key: bytes, backend: Backend, confirmed: bool) -> Backend:
        binding = self.known(key)
        if binding is None:
            binding = self.idle[key] = Binding(backend, 0.0)
            self.shrink()
        elif binding.backend is not backend:
            self.rebind(binding, backend)
        binding.confirmed = self.clock if confirmed else 0.0
        return backend

    @staticmethod
    def rebind(binding: Binding, backend: Backend) -> None:
        """The client belongs elsewhere now: sessions it still has on another backend would be a split, so they end."""
        binding.backend = backend
        for session in tuple(binding.sessions or ()):
            if session.backend is not backend:
                session.end("moved")

    def attach(self, key: bytes, session: Any, backend: Backend) -> bool:
        """A session of the client is connected to `backend` and begins to use it. False: while it connected, the
        client was moved or the backend went down, so it must be placed again."""
        binding = self.known(key)
        if backend.state > UP or (binding is not None and binding.backend is not backend):
            return False
        if binding is None:
            binding = Binding(backend, 0.0)
        self.idle.pop(key, None)
        self.live[key] = binding
        if binding.sessions is None:
            binding.sessions = set()
        binding.sessions.add(session)
        return True

    def detach(self, key: bytes, session: Any) -> None:
        """A session of the client ended; after the last one the binding is idle, and the store's time to live counts."""
        binding = self.live.get(key)
        if binding is None or binding.sessions is None:
            return
        binding.sessions.discard(session)
        if binding.sessions:
            return
        del self.live[key]
        binding.sessions = None
        if binding.backend.state > UP:
            return
        self.idle.pop(key, None)
        self.idle[key] = binding
        self.shrink()
        if self.clock - binding.confirmed > self.ttl / 30:
            self.touched.append(key)

    def shrink(self) -> None:
        while len(self.idle) > self.cache:
            del self.idle[next(iter(self.idle))]

    def forget(self, backend: Backend) -> None:
        """A backend went down: what is remembered of it must be asked for again, for others may have moved it meanwhile."""
        for key in [key for key, binding in self.idle.items() if binding.backend is backend]:
            del self.idle[key]

    def doubt(self) -> None:
        """Events may have been missed, or the store may have lost its memory: ask it again about every client."""
        self.doubted = self.clock
        self.next_look = 0.0

    def moved(self, key: bytes, id: str) -> None:
        """Somebody moved a client in the store. An answer on its way may be older than that."""
        if key in self.asking:
            self.overtaken[key] = id
        binding = self.known(key)
        backend = self.by_id.get(id)
        if binding is None or binding.backend is backend:
            return
        if backend is not None:
            self.rebind(binding, backend)
            binding.confirmed = self.clock
            return
        # A machine whose configuration is ahead of ours: there is nowhere to send the client, but its split must end.
        binding.confirmed = 0.0
        for session in tuple(binding.sessions or ()):
            session.end("moved")

    # -- upkeep

    def tick(self, now: float) -> None:
        """Ten times a second: advance the clock and claim again what is due, a batch at a time."""
        self.clock = now
        if self.store is None or not self.store.up:
            return
        if not self.due and now >= self.next_look:
            self.next_look = now + min(REFRESH_SECONDS, self.ttl / 6)
            since = self.believed_since
            self.due = [key for key, binding in self.live.items() if binding.confirmed <= since]
        for _ in range(min(REFRESH_BATCH, len(self.due))):
            self.reclaim(self.due.pop())
        for _ in range(min(REFRESH_BATCH, len(self.touched))):
            self.reclaim(self.touched.popleft())

    def reclaim(self, key: bytes) -> None:
        """Ask the store to keep what we have: extends its time, restores what a flush lost, and learns of a move."""
        binding = self.known(key)
        if binding is not None and key not in self.asking:
            self.asking[key] = []
            self.ask(key, binding.backend, "", ())
