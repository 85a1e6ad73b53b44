"""A MongoDB client: its first message (hello, or a TLS ClientHello passed through) says who it is."""

from typing import Any

import cython

from puerta.protocol import mongodb

if not cython.compiled:
    from puerta.proxy.session import Session

LIKENESS = 1024
LIKENESSES = 1024
"""First messages remembered by a route, and the longest of them: at most a mebibyte."""


class MongodbSession(Session):
    """Reads the first message whole, refuses what is none, and forwards it untouched."""

    if not cython.compiled:
        __slots__ = ("first",)

    reads_first = True

    def parse_first_message(self) -> bool:
        # All connections of a driver begin with the same bytes but for the request's number (bytes 4 to 8).
        known = self.route.first_messages
        likeness = self.head[:4] + self.head[8:]
        first = known.get(likeness)
        if first is None:
            first = mongodb.first_message(self.head)
            if first is None:
                return False
            if len(likeness) <= LIKENESS and first.length == len(self.head):
                if len(known) >= LIKENESSES:
                    known.clear()
                known[likeness] = first
        self.first: Any = first
        return True

    def identify(self) -> None:
        first = self.first
        if isinstance(first, mongodb.ClientHello):
            self.key = self.affinity_key(None, first.server_name)
        elif first.load_balanced:
            # The driver pins cursors and transactions to connections by itself: spread its connections instead.
            self.policy = "least-connections"
        else:
            self.key = self.affinity_key(first.application, None)
        self.place()
