"""Who gets a new client: the policies by themselves, and over the real server with a thousand clients."""

import hashlib
import itertools
import random
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from puerta.proxy import balance
from tests.harness import wait_for
from tests.proxy.conftest import Make
from tests.proxy.front import Front, named, route
from tests.proxy.peers import echo, hello, receive, receive_all

pytestmark = pytest.mark.dataplane

KEYS = [hashlib.sha256(bytes([number >> 8, number & 255])).digest()[:16] for number in range(1000)]
SIGMAS = 4.5
"""Deviations from the expected count of a fair draw that are still taken for chance: once in 100,000 times."""


class Entry:
    """What a policy looks at."""

    def __init__(self, id: str, share: float = 1.0, load: int = 0) -> None:
        self.id, self.share, self.load, self.turn = id, share, load, 0.0


def entries(*shares: float) -> list[Entry]:
    return [Entry(f"127.0.0.1:{27101 + index}", share) for index, share in enumerate(shares)]


def assert_fair(counts: Sequence[int], shares: Sequence[float]) -> None:
    total = sum(counts)
    for count, share in zip(counts, shares, strict=True):
        part = share / sum(shares)
        assert abs(count - total * part) <= SIGMAS * (total * part * (1 - part)) ** 0.5, (counts, shares)


# -- the policies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(1, 1), (1, 1, 1), (1, 2, 5), (1, 0.1, 1), (100, 1), (1,) * 10])
@pytest.mark.parametrize("policy", ["rendezvous", "random-two", "least-connections"])
def test_keys_are_spread_by_weight(policy: str, shares: tuple[float, ...]) -> None:
    backends = entries(*shares)
    counts = Counter(balance.POLICIES[policy](key, backends).id for key in KEYS)
    found = [counts[backend.id] for backend in backends]
    if policy == "random-two":  # with equal loads per weight the heavier of two is preferred
        assert (sum(found) == len(KEYS) and min(found) > 0) or min(shares) < 1 or max(shares) > 50
    elif policy == "least-connections":  # only the heaviest have the fewest connections per weight
        heaviest = [share == max(shares) for share in shares]
        assert_fair([count for count, heavy in zip(found, heaviest, strict=True) if heavy], [1] * sum(heaviest))
    else:
        assert_fair(found, shares)


def test_the_hash_is_the_same_everywhere_and_moves_nobody_without_need() -> None:
    backends = entries(1, 1, 1, 2)
    homes = {key: balance.rendezvous(key, backends).id for key in KEYS}
    shuffled = random.Random(1).sample(backends, 4)
    assert {key: balance.rendezvous(key, shuffled).id for key in KEYS} == homes
    gone, *left = backends
    for key, home in homes.items():
        assert balance.rendezvous(key, left).id == home or home == gone.id
    heavier = entries(1, 1, 1, 4)
    for key, home in homes.items():
        assert balance.rendezvous(key, heavier).id in (home, heavier[3].id)


def test_the_hash_is_pinned() -> None:
    """Workers of two versions must agree, so the choice may not change by accident."""
    backends = entries(1, 1, 2)
    assert [backends.index(balance.rendezvous(key, backends)) for key in KEYS[:12]] == [
        2,
        2,
        2,
        1,
        0,
        2,
        1,
        2,
        2,
        0,
        1,
        2,
    ]


def test_round_robin_is_exact_and_smooth() -> None:
    backends = entries(5, 1, 1)
    chosen = [backends.index(balance.round_robin(b"", backends)) for _ in range(70)]
    assert chosen[:7] == [0, 0, 1, 0, 2, 0, 0]
    assert chosen == chosen[:7] * 10


def test_least_connections_fills_up_by_weight() -> None:
    backends = entries(1, 2, 3)
    for key in KEYS[:600]:
        balance.least_connections(key, backends).load += 1
    assert [backend.load for backend in backends] == [100, 200, 300]


def test_random_two_keeps_loads_together() -> None:
    random.seed(2)
    backends = entries(1, 1, 1, 1)
    for key in KEYS:
        balance.random_two(key, backends).load += 1
    loads = [backend.load for backend in backends]
    assert max(loads) - min(loads) < 30


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def front(backend: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    def weighted(*weights: int) -> list[dict[str, object]]:
        return [{"address": backend(echo).address, "weight": weight} for weight in weights]

    accept = {"accept": "127.0.0.1"}
    keyless = {"affinity": {"by": "none"}}
    routes = [
        route("keys", *weighted(1, 1, 1), proxy_protocol=accept),
        route("weights", *weighted(1, 3, 0), proxy_protocol=accept),
        route("least", *weighted(1, 1, 2), balance="least-connections", **keyless),
        route("storm", *weighted(1, 1, 1), balance="least-connections", **keyless),
        route("round", *weighted(1, 1, 2), balance="round-robin", **keyless),
        route("two", *weighted(1, 1, 1), balance="random-two", **keyless),
    ]
    with Front(tmp_path_factory.mktemp("balancing"), *routes) as running:
        yield running


def served(front: Front, name: str) -> list[int]:
    return [each["connections_total"] for each in front.quiet(name)["backends"]]


@pytest.mark.parametrize(("name", "weights"), [("keys", (1, 1, 1)), ("weights", (1, 3, 0))])
def test_a_thousand_clients_over_the_server(front: Front, name: str, weights: tuple[int, ...]) -> None:
    for number in range(1000):
        header = f"PROXY TCP4 10.{number >> 8}.{number & 255}.7 10.0.0.1 1 1\r\n".encode()
        with front.connect(name, header + b"x") as client:
            assert receive(client, 1) == b"x"
    counts = served(front, name)
    assert sum(counts) == 1000
    assert_fair(counts, weights)
    assert [count > 0 for count in counts] == [weight > 0 for weight in weights]


@pytest.mark.parametrize("name", ["least", "round"])
def test_connections_without_affinity_are_spread_exactly(front: Front, name: str) -> None:
    clients = []
    for _ in range(40):
        clients.append(front.connect(name, b"x"))
        assert receive(clients[-1], 1) == b"x"
    assert [each["connections"] for each in front.route(name)["backends"]] == [10, 10, 20]
    for client in clients:
        client.close()
    front.quiet(name)


def test_two_at_random_are_balanced(front: Front) -> None:
    clients = []
    for _ in range(90):
        clients.append(front.connect("two", b"x"))
        assert receive(clients[-1], 1) == b"x"
    loads = [each["connections"] for each in front.route("two")["backends"]]
    assert sum(loads) == 90 and max(loads) - min(loads) <= 12, loads
    for client in clients:
        client.close()


def test_a_storm_of_connections_is_spread_as_it_comes(front: Front) -> None:
    """All of them arrive before the first is connected: those on their way count too."""
    with front.connect("storm", b"x") as first:
        receive(first, 1)
        clients = [front.connect("storm") for _ in range(60)]
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            receive(client, 1)
        loads = sorted(each["connections"] for each in front.route("storm")["backends"])
        assert loads == [20, 20, 21]
        for client in clients:
            client.close()


def greet(sock: socket.socket) -> None:
    sock.sendall(b"!")
    receive_all(sock)


def home(front: Front, application: str) -> str:
    """The backend of one client."""
    with front.connect("mongo", hello(application)) as client:
        answer, name = client.recv(1), named(client)
    line = front.access(name)
    assert answer == b"!", line
    return str(line["backend"])


def test_a_backend_of_weight_0_keeps_the_clients_it_has(backend: Make, tmp_path: Path) -> None:
    kept, other = backend(greet), backend(greet)
    mongo = route(
        "mongo", {"address": kept.address, "weight": 1}, {"address": other.address, "weight": 0}, mode="mongodb"
    )
    with Front(tmp_path, mongo) as front:
        assert home(front, "old") == kept.address
        swapped = {"weight: 0": "weight: 1", "weight: 1": "weight: 0"}
        front.write_config(re.sub("weight: [01]", lambda found: swapped[found[0]], front.config.read_text()))
        front.signal(signal.SIGHUP)
        names = (f"new {number}" for number in itertools.count())
        wait_for(lambda: home(front, next(names)) == other.address, "new clients go to the other one")
        assert {home(front, "old") for _ in range(3)} == {kept.address}
