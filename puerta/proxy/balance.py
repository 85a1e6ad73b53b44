"""Which backend is proposed to a client that has none: four policies, all weighted. Pure but for the random numbers.

Rendezvous hashing (highest random weight; Thaler and Ravishankar 1998, weights by Schindelhauer and Schomaker 2005)
needs no state: every worker on every machine names the same backend for a key, and when a backend goes only its own clients move.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Protocol, TypeVar

_SCALE = 2.0**-64


class Candidate(Protocol):
    """What a policy needs to know of a backend. `share` is its weight now; `load` its connections over all workers."""

    id: str
    share: float
    turn: float

    @property
    def load(self) -> int: ...


C = TypeVar("C", bound=Candidate)


def rendezvous(key: bytes, candidates: Sequence[C]) -> C:
    """The candidate with the best hash of (key, id): each draws an exponential variable, the shortest wins."""

    def draw(candidate: C) -> float:
        digest = blake2b(candidate.id.encode(), key=key[:64], digest_size=8).digest()
        return -log((int.from_bytes(digest, "big") + 0.5) * _SCALE) / candidate.share

    return min(candidates, key=draw)


def least_connections(key: bytes, candidates: Sequence[C]) -> C:
    """The fewest connections per weight; rendezvous decides among equals, so that workers do not all pick the first."""
    best = min((candidate.load + 1) / candidate.share for candidate in candidates)
    return rendezvous(key, [c for c in candidates if (c.load + 1) / c.share <= best * 1.000001])


def round_robin(key: bytes, candidates: Sequence[C]) -> C:
    """Smooth weighted round-robin: each candidate gains its weight a turn, the richest is served and pays for all."""
    total = 0.0
    for candidate in candidates:
        candidate.turn += candidate.share
        total += candidate.share
    chosen = max(candidates, key=lambda candidate: candidate.turn)
    chosen.turn -= total
    return chosen


def random_two(key: bytes, candidates: Sequence[C]) -> C:
    """Two drawn by weight, the less loaded one taken (Mitzenmacher 2001): no herd towards the idlest."""
    first, second = random.choices(candidates, [candidate.share for candidate in candidates], k=2)
    return min(first, second, key=lambda candidate: (candidate.load + 1) / candidate.share)


POLICIES = {
    "rendezvous": rendezvous,
    "least-connections": least_connections,
    "round-robin": round_robin,
    "random-two": random_two,
}
