"""Asks one node of a Redis Cluster how it is, and what it thinks the cluster looks like.

One connection is kept, so that a node's death is noticed when it breaks, and one check is one round trip: PING for the
verdict, CLUSTER INFO for signs of change, and for a look also what `views` reads, and HELLO for the node's version and
modules: when those changed it is asked for its commands, too. redis-py speaks the protocol; the commands go through its bare
connection, because all answers are wanted, errors among them.
"""

import contextlib
import select
import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from puerta.config.schema import Address, Auth
from puerta.health import views
from puerta.health.dial import ERROR_LENGTH, Bounded, Result, words
from puerta.resolve import lowest

NAME = "puerta-health"

SIGNS = (
    "cluster_state", "cluster_slots_ok", "cluster_known_nodes", "cluster_size", "cluster_current_epoch",
    "cluster_my_epoch",
)  # fmt: skip
"""Lines of CLUSTER INFO that change when the layout does."""

COMMANDS_PAUSE = 2.0
"""Seconds between two times that a node is asked for all of its commands, at least: it is a long answer."""

MOST = 16 << 20
"""Bytes of one check's answers, or of one to COMMAND. 1000 nodes, and each slot a range of its own, are less than 1 MiB."""

STATE_FAILED = "its cluster_state is not ok: it refuses commands"


class Connection(redis.Connection):
    """redis-py's, over a socket whose reads are bounded."""

    def _connect(self) -> Any:
        made = Bounded(super()._connect())  # type: ignore[no-untyped-call]
        made.begin(MOST, float(self.socket_timeout or 0.0))
        return made


class RedisCheck:
    """Checks of one node. `view` is what the last look saw, None unless the last check was good; `signs` are what the
    last check's CLUSTER INFO said of SIGNS; `build` is the node's version and modules, as far as it says. Used by one thread."""

    def __init__(self, address: Address, timeout: float, auth: Auth) -> None:
        self.address, self.timeout, self.auth = address, timeout, auth
        self.connection: Any = None
        self.has_shards = True
        self.view: views.View | None = None
        self.signs: tuple[str, ...] = ()
        self.build = self.listed = ""
        self.connects, self.asked = 0, float("-inf")

    def check(self, look: bool = True) -> Result:
        """One check; `look`: read the layout too. After a bad one the connection is closed and `view` is None."""
        started = time.monotonic()
        try:
            result = self._ask_kept(look)
        except (OSError, RedisError, ValueError) as error:
            result = Result(False, error=said(error))
        if result.ok and time.monotonic() - started > self.timeout:
            result = Result(False, latency=result.latency, error="timed out")
        if not result.ok:
            self.forget()
        return result

    def commands(self) -> Any:
        """The node's answer to COMMAND, raw; None if it gave one before as it is now. Raises OSError or RedisError."""
        if self.connection is None or self.listed == self.build or time.monotonic() - self.asked < COMMANDS_PAUSE:
            return None
        self.asked = time.monotonic()
        try:
            self.connection._sock.begin(MOST, self.timeout)
            self.connection.send_command("COMMAND")
            answer = self._answer()
        except BaseException:
            self.close()
            raise
        self.listed = self.build
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    def forget(self) -> None:
        """Begin the next check anew: what this one left can't be trusted."""
        self.view = None
        self.close()

    def wait(self, bell: int, seconds: float) -> None:
        """Sleep, but not beyond the ring of a bell (a descriptor that becomes readable) or the connection's end."""
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        if self.connection is not None and self.connection._sock is not None:
            poll.register(self.connection._sock, select.POLLIN)  # nothing was asked: what comes can only be its end
        poll.poll(seconds * 1000)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(OSError, RedisError):
                connection.disconnect()

    def _ask_kept(self, look: bool) -> Result:
        """Ask; once more on a new connection if the kept one had ended: a node may close what is idle."""
        if self.connection is None:
            return self._ask(look)
        try:
            return self._ask(look)
        except redis.ConnectionError:
            self.close()
            return self._ask(look)

    def _ask(self, look: bool) -> Result:
        if self.connection is None:
            self.connection = self._connect()
        places = "SHARDS" if self.has_shards else "SLOTS"
        self.connection._sock.begin(MOST, self.timeout)
        asked = time.monotonic()
        commands = [("PING",), ("CLUSTER", "INFO")]
        commands += [("HELLO",), ("CLUSTER", "NODES"), ("CLUSTER", places)] if look else []
        self.connection.send_packed_command(self.connection.pack_commands(commands))
        pong = self._answer()
        latency = time.monotonic() - asked
        info, *rest = [self._answer() for _ in commands[1:]]
        if isinstance(pong, ResponseError):
            return Result(False, latency=latency, error=said(pong))
        if isinstance(info, ResponseError):
            return Result(False, latency=latency, error=f"not a node of a cluster we may look at: {said(info)}")
        if look:
            self.build = build(rest[0]) or f"connection {self.connects}"
            self.view = self._view(*rest[1:])
        return Result(True, latency=latency, warnings=self._read_signs(info))

    def _view(self, nodes: Any, places: Any) -> views.View:
        """Raises ResponseError or ValueError where the node does not say what the cluster looks like."""
        if isinstance(places, ResponseError) and self.has_shards:
            self.has_shards = False  # Redis 6
            self.connection.send_packed_command(self.connection.pack_commands([("CLUSTER", "SLOTS")]))
            places = self._answer()
        if isinstance(nodes, ResponseError):
            raise nodes
        view = views.parse_nodes(text(nodes, "CLUSTER NODES"), self.address.host)
        if isinstance(places, ResponseError):
            return view
        parse = views.parse_shards if self.has_shards else views.parse_slots
        return views.at(view, parse(places, self.address.host))

    def _read_signs(self, info: Any) -> tuple[str, ...]:
        """Note the signs; returns what is worth a warning."""
        lines = dict(line.partition(":")[::2] for line in text(info, "CLUSTER INFO").split("\r\n"))
        self.signs = tuple(lines.get(name, "") for name in SIGNS)
        return () if lines.get("cluster_state") == "ok" else (STATE_FAILED,)

    def _connect(self) -> Any:
        connection: Any = Connection(  # type: ignore[no-untyped-call]
            host=lowest(self.address.host),
            port=self.address.port,
            username=self.auth.username,
            password=self.auth.password,
            socket_timeout=self.timeout,
            socket_connect_timeout=self.timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            encoding_errors="replace",
        )
        connection.connect()
        self.connects += 1
        connection.send_packed_command(connection.pack_commands([("CLIENT", "SETNAME", NAME)]))
        with contextlib.suppress(ResponseError):  # our user may not be allowed to
            connection.read_response(disconnect_on_error=False)
        return connection

    def _answer(self) -> Any:
        """The next answer; an error is one too."""
        try:
            return self.connection.read_response(disconnect_on_error=False)
        except ResponseError as error:
            return error


def text(answer: Any, command: str) -> str:
    """The text that a command was answered by. Raises ValueError if it is none."""
    if not isinstance(answer, bytes):
        raise ValueError(f"not an answer to {command}")
    return answer.decode("ascii", "replace")


def build(hello: Any) -> str:
    """The version and the modules that an answer to HELLO names; "" if it is none (a Redis 5)."""
    if not isinstance(hello, list):
        return ""
    fields = {key: value for key, value in zip(hello[::2], hello[1::2], strict=False) if isinstance(key, bytes)}
    return repr([fields.get(name) for name in (b"server", b"version", b"modules")])


def said(error: BaseException) -> str:
    """An error in few words: redis-py puts the address and the system's own words in sentences of its own."""
    if isinstance(error, redis.TimeoutError):
        return "timed out"
    if isinstance(error, redis.AuthenticationError):
        return f"authentication failed: {error}"[:ERROR_LENGTH]
    cause = error.__context__
    if isinstance(error, redis.ConnectionError) and isinstance(cause, OSError) and cause.strerror:
        return words(cause)
    return words(error)
