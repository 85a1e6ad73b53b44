"""Host names to addresses, ahead of their use: a worker's sessions never wait for a resolver.

A name that can't be resolved now keeps its last address.
"""

import ipaddress

import gevent

from puerta import log
from puerta.resolve import lowest

REFRESH_SECONDS = 30.0
BOOT_SECONDS = 5.0


class Names:
    """What is known so far. `address` starts a look-up of a name it meets for the first time."""

    def __init__(self) -> None:
        self.known: dict[str, str | None] = {}

    def address(self, host: str) -> str | None:
        """The IP address of `host`, or None as long as none is known."""
        try:
            ipaddress.ip_address(host)
            return host
        except ValueError:
            pass
        if host not in self.known:
            self.known[host] = None
            gevent.spawn(self.look_up, host)
        return self.known[host]

    def look_up(self, host: str) -> None:
        try:
            found = lowest(host)
        except OSError as error:
            log.logger.warning("%s: cannot resolve: %s", host, error)
            return
        if self.known.get(host) != found:
            self.known[host] = found
            log.logger.info("%s: resolved to %s", host, found)

    def look_up_all(self, hosts: list[str]) -> None:
        """Before the first session: wait for the names, but not for ever."""
        for host in hosts:
            self.address(host)
        unknown = [host for host in hosts if host in self.known]
        gevent.joinall([gevent.spawn(self.look_up, host) for host in unknown], timeout=BOOT_SECONDS)

    def refresh_often(self) -> None:
        """The names' greenlet."""
        while True:
            gevent.sleep(REFRESH_SECONDS)
            gevent.joinall([gevent.spawn(self.look_up, host) for host in self.known], timeout=REFRESH_SECONDS)
