"""The kinds of check, by the mode of a route."""

import time
from collections.abc import Callable

from puerta.config.schema import Address, Backend, MongodbRoute, TcpRoute
from puerta.health.dial import PROXY_LOCAL, Check, Result, connect, words
from puerta.health.mongodb import BareHelloCheck, MongodbCheck

Lost = Callable[[], None]
"""Called by a check that notices between two checks that its backend went away."""


class TcpCheck:
    """A backend that accepts a connection is healthy: no byte of its protocol is known."""

    def __init__(self, address: Address, timeout: float, send: str | None) -> None:
        self.address, self.timeout = address, timeout
        self.greeting = PROXY_LOCAL[send] if send else b""

    def check(self) -> Result:
        asked = time.monotonic()
        try:
            with connect(self.address, self.timeout) as peer:
                latency = time.monotonic() - asked
                if self.greeting:
                    peer.sendall(self.greeting)
        except OSError as error:
            return Result(False, error=words(error))
        return Result(True, latency=latency)

    def close(self) -> None:
        """Nothing is kept."""


def tcp(route: TcpRoute, backend: Backend, lost: Lost) -> Check:
    return TcpCheck(backend.address, route.health.timeout, route.proxy_protocol.send)


def mongodb(route: TcpRoute, backend: Backend, lost: Lost) -> Check:
    expect = route.expect if isinstance(route, MongodbRoute) else "any"
    address, timeout, send = backend.address, route.health.timeout, route.proxy_protocol.send
    if send or (address.path and not address.path.endswith(".sock")):
        return BareHelloCheck(address, timeout, expect, send)
    return MongodbCheck(address, timeout, expect, lost)


CHECKS: dict[str, Callable[[TcpRoute, Backend, Lost], Check]] = {"tcp": tcp, "mongodb": mongodb}


def make(route: TcpRoute, backend: Backend, lost: Lost) -> Check:
    """The check that fits the route's mode."""
    return CHECKS[route.mode](route, backend, lost)
