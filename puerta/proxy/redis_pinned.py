"""Commands that need more than one reply's worth of a connection: transactions, blocking commands, subscriptions."""

from collections.abc import Callable
from typing import Any

from puerta.proxy.redis_blocking import block, read_streams
from puerta.proxy.redis_exec import execute
from puerta.proxy.redis_pubsub import subscribe, unsubscribe
from puerta.proxy.redis_transaction import discard, multi, unwatch
from puerta.proxy.redis_watch import watch

HANDLERS: dict[bytes, Callable[[Any, Any, list[bytes]], bool]] = {
    b"multi": multi,
    b"exec": execute,
    b"discard": discard,
    b"watch": watch,
    b"unwatch": unwatch,
    b"blocking": block,
    b"xread": read_streams,
    b"subscribe": subscribe,
    b"unsubscribe": unsubscribe,
}
"""By the table's `handler`; each returns False when the command has to wait and is to be taken again."""


def take(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    return HANDLERS[spec.handler](session, spec, arguments)
