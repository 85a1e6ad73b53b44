"""A MongoDB client: its first message (hello, or a TLS ClientHello passed through) says who it is."""

from puerta.protocol import mongodb
from puerta.proxy.session import Session


class MongodbSession(Session):
    """Reads the first message whole, refuses what is none, and forwards it untouched."""

    __slots__ = ("first",)

    reads_first = True

    def parse_first_message(self) -> bool:
        first = mongodb.first_message(self.head)
        if first is None:
            return False
        self.first = first
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
