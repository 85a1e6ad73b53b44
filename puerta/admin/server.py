"""Serves the admin application on the listeners the master made, with waitress: threads, bounded in number.

Each listener has a server of its own, so that a crowd on the TCP address can't keep an operator from the Unix socket.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from waitress.server import create_server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

LIMITS: dict[str, Any] = {
    "threads": 4,
    "connection_limit": 100,
    "channel_timeout": 10,
    "cleanup_interval": 5,
    "backlog": 128,
    "max_request_header_size": 16 << 10,
    "max_request_body_size": 4 << 10,
    "inbuf_overflow": 64 << 10,
    "asyncore_use_poll": True,
}
"""Per listener. Seconds, bytes and counts; waitress' manual has their meaning."""

JUST_NOW = 0.2
"""Seconds within which a client that connected is waited for to ask, when its server stops."""

AT_LEAST = 0.1
"""Seconds for each of its threads to end, however long the answers took."""


class Server:
    """One listener's server and its thread."""

    def __init__(self, app: "WSGIApplication", listener: socket.socket) -> None:
        self.map: dict[int, Any] = {}
        # A copy: waitress closes what it is given, and the master's listener is not ours to close.
        self.server: Any = create_server(
            app, map=self.map, sockets=[listener.dup()], ident=None, clear_untrusted_proxy_headers=True, **LIMITS
        )
        self.thread = threading.Thread(target=self.server.run, name="puerta-admin", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Accept no more, let out what is being answered, close the connections; the loop ends when its map is empty. The
        listener stays open for who comes next."""
        deadline = time.monotonic() + timeout
        deaf = threading.Event()
        self.server.trigger.pull_trigger(lambda: self._accept_no_more(deaf))
        deaf.wait(timeout)
        while self._is_answering() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.server.trigger.pull_trigger(self._close)
        self.thread.join(max(AT_LEAST, deadline - time.monotonic()))
        self.server.task_dispatcher.shutdown(cancel_pending=True, timeout=max(AT_LEAST, deadline - time.monotonic()))
        if not self.thread.is_alive():
            self.server.close()

    def _accept_no_more(self, done: threading.Event) -> None:
        """In the loop's thread."""
        self.server.del_channel(self.map)
        done.set()

    def _is_answering(self) -> bool:
        """Whether somebody has asked and has not all of the answer, or came just now and is about to ask."""
        channels = [each for each in list(self.map.values()) if each not in (self.server, self.server.trigger)]
        return any(
            each.requests or each.total_outbufs_len or time.time() - each.creation_time < JUST_NOW for each in channels
        )

    def _close(self) -> None:
        """In the loop's thread. The trigger stays open: we, or a thread with a reply, may be about to write to it."""
        for channel in list(self.map.values()):
            if channel not in (self.server, self.server.trigger):
                channel.close()
        self.map.clear()


def serve(app: "WSGIApplication", listeners: Iterable[socket.socket]) -> list[Server]:
    """Start a server on each listener."""
    logging.getLogger("waitress").setLevel(logging.CRITICAL)  # it reports what every stray client does
    servers = [Server(app, listener) for listener in listeners]
    for server in servers:
        server.start()
    return servers
