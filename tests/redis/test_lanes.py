"""What is kept of calls that are sent again goes when they are answered, or when nobody waits for them any more."""

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from puerta.proxy.redis_caller import Call, Caller
from puerta.proxy.redis_exec import Exec
from puerta.proxy.redis_resend import Resender
from puerta.reactor.loop import Loop
from puerta.reactor.relay import Meter
from tests.reactor.sockets import Turned

pytestmark = pytest.mark.dataplane

MOVED = b"-MOVED 5 10.0.0.2:1\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
DOWN = b"-CLUSTERDOWN The cluster is down\r\n"


class Sent:
    """A connection that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.node = SimpleNamespace(host="10.0.0.1")
        self.closed, self.protocol, self.first = False, 2, None

    def full(self) -> bool:
        return False

    def send(self, call: Any, request: bytes) -> None:
        self.calls.append(call)


class Client(Caller):
    """A session without commands."""

    def __init__(self, loop: Loop, fd: int, cluster: Any) -> None:
        super().__init__(loop, fd, 1 << 20, Meter())
        self.cluster = cluster


@pytest.fixture
def upstream() -> Sent:
    return Sent()


@pytest.fixture
def client(upstream: Sent) -> Iterator[Client]:
    loop = Turned().loop
    cluster: Any = SimpleNamespace(
        config=SimpleNamespace(max_redirects=5),
        route=SimpleNamespace(count_redis=lambda column, amount: None),
        loop=loop,
        reads_replicas=False,
        learn=lambda line, origin: line.startswith(b"-MOVED"),
        shared_for=lambda slot, protocol, readonly: upstream,
        schedule=lambda seconds, function: None,
        measure=lambda call: None,
    )
    cluster.again = Resender(cluster)
    one, other = socket.socketpair()
    with one, other:
        yield Client(loop, one.fileno(), cluster)


@pytest.mark.parametrize("refusal", [MOVED, DOWN])
def test_a_client_that_leaves_while_its_transaction_is_sent_again(
    client: Client, upstream: Sent, refusal: bytes
) -> None:
    transaction: Any = SimpleNamespace(slot=5, commands=[b"x"], watching=None, asking=False)
    made = Exec(client, None, transaction)
    made.begin()
    again = client.cluster.again
    for call, reply in zip(upstream.calls[:3], [b"+OK\r\n", refusal, ABORTED], strict=True):
        call.gather.leg_answered(call, reply)
    assert len(again.lanes) == len(again.turns) == 1
    made.main.caller = None
    made.caller_left()
    for call in upstream.calls[3:]:
        call.gather.leg_answered(call, b"+OK\r\n")
    client.loop.now += 60
    again.wake()
    assert not again.lanes and not again.turns and not again.delayed


def test_a_client_that_leaves_while_its_call_rests(client: Client, upstream: Sent) -> None:
    again = client.cluster.again
    first, second = (Call(client, None, 5, False, 0.0) for _ in range(2))
    for call in (first, second):
        again.later(call, b"x", 2, DOWN)
    assert len(again.lanes) == len(again.turns) == 1
    first.caller = second.caller = None
    client.loop.now += 60
    again.wake()
    assert not again.lanes and not again.turns and not again.delayed and not upstream.calls
