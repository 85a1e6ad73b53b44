"""WAIT and WAITAOF, asked again and again: they must not block a connection that others share.

A shared connection's offset is at least that of the session's own writes, so the answer is never too good.
"""

from typing import Any

from puerta.protocol import resp
from puerta.protocol.resp import elements
from puerta.proxy.redis_caller import RAW
from puerta.proxy.redis_gather import Gather, number

POLL_SECONDS = 0.01


def wait(session: Any, spec: Any, arguments: list[bytes]) -> bool:
    """The session's later commands wait as well."""
    wanted = [resp.whole(value) for value in arguments[1:-1]]
    patience = resp.whole(arguments[-1])
    counts = [value for value in wanted if value is not None]
    if len(counts) < len(wanted):
        session.reply(b"-ERR value is not an integer or out of range\r\n")
    elif patience is None:
        session.reply(b"-ERR timeout is not an integer or out of range\r\n")
    elif patience < 0:
        session.reply(b"-ERR timeout is negative\r\n")
    else:
        Wait(session, spec, arguments, counts, patience).ask()
        session.fence()
    return True


class Wait(Gather):
    """Asks every master without waiting there (1 ms) until enough replicas have answered or the time is over."""

    __slots__ = ("deadline", "request", "wanted")

    def __init__(self, session: Any, spec: Any, arguments: list[bytes], wanted: list[int], patience: int) -> None:
        super().__init__(session, spec, self.least)
        self.request = resp.command(*arguments[:-1], b"1")
        self.wanted = wanted
        self.deadline = session.loop.now + patience / 1000 if patience else float("inf")
        session.state.waiting = self

    def ask(self) -> None:
        main, session = self.main, self.session
        if main is None or main.caller is None:
            return
        self.legs.clear()
        session.held -= self.held
        self.held = 0
        self.outstanding = 1
        for node in session.cluster.masters():
            self.add(main.spec, RAW, session.cluster.shared_of(node, session.protocol), self.request)
        self.seal()

    def finish(self) -> None:
        if self.main is None:
            return
        replies = [leg.reply for leg in self.legs]
        failed = any(reply[:1] == b"-" for reply in replies)
        if failed or not replies or self.session.loop.now >= self.deadline or self.enough(replies):
            self.session.state.waiting = None
            super().finish()
        else:
            self.session.cluster.schedule(POLL_SECONDS, self.ask)

    def close(self) -> None:
        """The session ends, and this with it: see `caller_left`."""

    def counts(self, reply: bytes) -> list[int]:
        return [number(reply)] if reply[:1] == b":" else [number(value) for value in elements(reply)]

    def enough(self, replies: list[bytes]) -> bool:
        return all(
            count >= want for reply in replies for count, want in zip(self.counts(reply), self.wanted, strict=True)
        )

    def least(self, replies: list[bytes]) -> bytes:
        """Of all masters."""
        if not replies:
            return b"-CLUSTERDOWN The cluster is down\r\n"
        columns = [min(column) for column in zip(*map(self.counts, replies), strict=True)]
        if replies[0][:1] == b":":
            return resp.integer(columns[0])
        return resp.array([resp.integer(value) for value in columns])
