"""Shard channels whose slot moved: subscribed again at the new owner, and their client sees nothing of it."""

from typing import Any

from puerta.protocol import slots

RETRY_SECONDS = 0.05


class Moving:
    """`channels` are the client's, but no node has confirmed them; `due` are those of them that no node is being asked for."""

    __slots__ = ("attempts", "channels", "due", "pubsub")

    def __init__(self, pubsub: Any) -> None:
        self.pubsub = pubsub
        self.attempts = 0
        self.channels: set[bytes] = set()
        self.due: set[bytes] = set()

    def add(self, channel: bytes) -> None:
        """Its node has ended the subscription."""
        self.channels.add(channel)
        self.put_off(channel)

    def put_off(self, channel: bytes) -> None:
        if channel in self.channels:
            if not self.due:
                self.pubsub.session.cluster.schedule(RETRY_SECONDS if self.attempts else 0, self.ask)
            self.due.add(channel)

    def ask(self) -> None:
        """All that are due, each where its slot is now. After a few attempts the client's connection ends, so that it knows."""
        session = self.pubsub.session
        if session.over or not self.due:
            return
        self.attempts += 1
        if self.attempts > 2 * session.cluster.config.max_redirects:
            session.end("backend_reset")
            return
        due, self.due = self.due, set()
        for channel in due:
            node = session.cluster.owner(slots.slot_of(channel))
            if not self.pubsub.ask(channel, node, node):
                self.put_off(channel)

    def refused(self, channel: bytes, line: bytes, host: str) -> None:
        self.pubsub.session.cluster.learn(line, host)
        self.put_off(channel)

    def confirmed(self, channel: bytes) -> None:
        self.channels.discard(channel)
        if not self.channels:
            self.attempts = 0
        self.pubsub.session.cluster.schedule(0, self.pubsub.trim)

    def forget(self, channels: list[bytes]) -> list[bytes]:
        """The client does not want these any more, or any when none are named; returns which they were."""
        gone = self.channels.intersection(channels) if channels else set(self.channels)
        self.channels -= gone
        self.due -= gone
        return sorted(gone)
