"""What nodes say on a test's behalf."""

import itertools
from collections.abc import Callable

from puerta.protocol.slots import slot_of
from tests.redis.nodes import Node, Nodes, Script

TOO_MANY = b"-ERR too many cluster redirections\r\n"
"""What Puerta says at the end."""

MORE_TRIES = 5
"""max_redirects, by default."""


def moved(key: bytes, to: Node, host: str | None = None) -> bytes:
    return b"-MOVED %d %s:%d\r\n" % (slot_of(key), (to.host if host is None else host).encode(), to.port)


def ask(key: bytes, to: Node) -> bytes:
    return b"-ASK %d %s:%d\r\n" % (slot_of(key), to.host.encode(), to.port)


def always(reply: Callable[[bytes], bytes], *keys: bytes) -> Script:
    """This answer to whatever is asked of one of the keys."""
    return lambda peer, words: reply(words[1]) if words[1:2] and words[1] in keys else None


def first_times(count: int, reply: bytes, *keys: bytes) -> Script:
    """This answer to so many commands on the keys; then as usual."""
    left = itertools.count(count, -1)
    return lambda peer, words: reply if words[1:2] and words[1] in keys and next(left) > 0 else None


def three_keys(nodes: Nodes) -> list[bytes]:
    return [next(nodes.keys(number)) for number in range(3)]
