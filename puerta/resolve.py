"""Which of a name's addresses is meant: workers must take the same one, and checks the one that workers take."""

import ipaddress
import socket


def lowest(host: str) -> str:
    """The lowest of the IPv4 addresses, else of the IPv6 addresses, of `host`; an address is its own. May wait for a
    resolver. Raises OSError for a name that can't be resolved."""
    try:
        ipaddress.ip_address(host)
        return host
    except ValueError:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found = {ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in answers}
    return str(min(found, key=lambda address: (address.version, address.packed)))
