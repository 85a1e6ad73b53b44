"""The worker's line to the shared store: claims of affinity, batched, bounded in time, and never in a client's way for long.

One greenlet sends whatever claims have gathered as one pipeline and hands each asker its answer. A store that is
down or hung costs the claims of that batch at most the configured timeout; from then on they are answered at once
with None (decide alone) until a probe, made without any client waiting, finds the store well again. One that is full
or read-only answers: it costs a round trip, and still tells what it knows.

When no claim is due the store is asked once a second how it is, so that its death is noticed before a client comes,
and so is the loss of its memory: a key of ours without an expiry, the *epoch*, is gone or another one then.
"""

import contextlib
import hashlib
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import gevent
import redis
from gevent.event import Event
from redis.backoff import NoBackoff
from redis.retry import Retry

from puerta import log
from puerta.reactor import native

BATCH = 256
BEAT_SECONDS = 1.0
"""A store that nobody asked anything for so long is asked for its epoch."""

PROBE_SECONDS = 1.0
"""The breaker's period: how long a store that failed is left alone before the next probe."""

LISTEN_SECONDS = 4.0
"""A silent subscription is pinged after this long, and given up when it stays silent as long again."""

MAX_EVENT = 4096

QUEUE = 65536
"""Claims that may wait for the next batch; beyond it an asker decides alone."""

CLAIM = """
local kept = redis.call('GET', KEYS[1])
if kept and kept ~= ARGV[3] then
  redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
  return {kept, 0}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if ARGV[3] ~= '' then
  redis.pcall('PUBLISH', ARGV[4], ARGV[5])
  return {ARGV[1], 2}
end
return {ARGV[1], 1}
"""
"""One atomic step for all: a key without a backend is claimed, one whose backend the asker found unusable is moved by
compare-and-set (and everybody is told, even if the store had forgotten it), any other is kept and its time to live
starts anew."""

SHA = hashlib.sha1(CLAIM.encode(), usedforsecurity=False).hexdigest()
KEPT, CLAIMED, MOVED = OUTCOMES = range(3)

Answer = Callable[[str | None, int], object]
"""Called with the backend's id and KEPT, CLAIMED or MOVED; or with None when the store could not say."""


class Store:
    """Claims for one worker. `up`: it answers; `refusing`: but takes no claims; `latency` in seconds.

    `on_doubt` is called when what was agreed may not hold any more: the store was away, lost its memory, or moves may
    have been missed.
    """

    def __init__(self, url: str, namespace: str, timeout: float) -> None:
        self.namespace = namespace
        self.channel = f"{namespace}:events"
        self.epoch_key = f"{namespace}:epoch"
        self.timeout = timeout
        self.client: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            max_connections=2,
            client_name="puerta",
        )
        self.listener: Any = redis.Redis.from_url(
            url,
            socket_timeout=5.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="puerta-events",
        )
        self.up = True
        self.refusing = False
        self.latency = 0.0
        self.epoch: bytes | None = None
        self.waiting: list[tuple[tuple[str, ...], Answer]] = []
        self.wanted = Event()
        self.wanted.set()  # connect before the first client comes
        self.complained = float("-inf")
        self.on_doubt: Callable[[], object] = lambda: None

    # -- claims

    def claim(self, route: str, key: bytes, backend: str, ttl: float, avoid: str, answer: Answer) -> None:
        """Agree on a backend for `key`: `backend` is this worker's proposal, `avoid` the one it found unusable ("" = none)."""
        if not self.up or len(self.waiting) >= QUEUE:
            answer(None, KEPT)
            return
        event = json.dumps({"event": "moved", "route": route, "key": key.hex(), "backend": backend}) if avoid else ""
        name = f"{self.namespace}:affinity:{route}:{key.hex()}"
        self.waiting.append(((name, backend, str(int(ttl * 1000)), avoid, self.channel, event), answer))
        self.wanted.set()

    def run(self) -> None:
        """The claims' greenlet. Nothing that the store does or sends may end it: clients wait for its answers."""
        while True:
            self.wanted.wait(BEAT_SECONDS)
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            if not self.waiting:
                self.wanted.clear()
            try:
                epoch, *replies = self.exchange([arguments for arguments, _ in batch])
            except Exception as error:  # redis-py's, the socket's, or whatever a server that is none makes of them
                self.answer(batch, [error] * len(batch))
                self.failed(error)
            else:
                self.answer(batch, replies)
                self.recognize(epoch)

    def exchange(self, claims: list[tuple[str, ...]]) -> list[Any]:
        """There and back, within the timeout if anybody waits: the epoch, then the replies to the claims."""
        started = native.now()
        with gevent.Timeout(self.timeout if claims else BEAT_SECONDS, TimeoutError("no answer in time")):
            replies = self.send(claims)
            if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
                self.client.script_load(CLAIM)
                replies = self.send(claims)
        self.latency = native.now() - started
        return replies

    def send(self, claims: list[tuple[str, ...]]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        pipeline.get(self.epoch_key)
        for arguments in claims:
            pipeline.evalsha(SHA, 1, *arguments)
        return list(pipeline.execute(raise_on_error=False))

    def answer(self, batch: list[tuple[tuple[str, ...], Answer]], replies: list[Any]) -> None:
        """Tell each asker; one that fails is its own problem, the others still get theirs."""
        for (_, answer), reply in zip(batch, replies, strict=True):
            kept, outcome = self.read(reply)
            try:
                answer(kept, outcome)
            except Exception:
                log.logger.exception("an answer of the store could not be used")
        if batch:
            self.refusing = any(map(refuses, replies))

    def read(self, reply: Any) -> tuple[str | None, int]:
        """A claim's reply as its asker wants it."""
        try:
            if not isinstance(reply, Exception):
                return reply[0].decode(), OUTCOMES[reply[1]]
        except (TypeError, LookupError, AttributeError, UnicodeDecodeError):
            reply = redis.ResponseError("a reply to a claim makes no sense")
        self.complain(reply)
        return None, KEPT

    def recognize(self, epoch: Any) -> None:
        """Is this still the store we knew? Without its epoch it lost its memory; it gets a new one, from the first worker
        that can write. While the store refuses claims, writing the epoch also tells whether it goes on doing so."""
        if isinstance(epoch, Exception):
            return
        if epoch != self.epoch:
            if self.epoch is not None:
                log.logger.warning("store: it lost its memory; every client in use is claimed again")
                self.doubt()
            self.epoch = epoch
        if epoch is not None and not self.refusing:
            return
        try:
            self.client.set(self.epoch_key, epoch or uuid.uuid4().hex, nx=epoch is None)
            self.refusing = False
        except redis.ResponseError as error:
            self.refusing = True
            self.complain(error)
        except (redis.RedisError, OSError):
            pass  # the next exchange fails as well, and acts on it

    def complain(self, error: Exception) -> None:
        """At most one line in ten seconds."""
        now = native.now()
        if now - self.complained > 10:
            self.complained = now
            log.logger.warning("store: %s: %s; clients are placed by the hash alone", type(error).__name__, error)

    def failed(self, error: Exception) -> None:
        """Open the breaker: nobody waits for the store any more; probe it until it answers."""
        self.up = False
        self.complain(error)
        waiting, self.waiting = self.waiting, []
        self.answer(waiting, [error] * len(waiting))
        while not self.up:
            gevent.sleep(PROBE_SECONDS * random.uniform(0.8, 1.2))
            with contextlib.suppress(Exception), gevent.Timeout(PROBE_SECONDS, TimeoutError()):
                self.client.ping()
                self.up = True
        log.logger.info("store: up again")
        self.wanted.set()
        self.doubt()

    def doubt(self) -> None:
        """Have what was agreed looked at again. A fault of ours in that must not end the greenlet that clients wait for."""
        try:
            self.on_doubt()
        except Exception:
            log.logger.exception("store: what was agreed could not be looked at again")

    # -- events

    def follow(self, on_event: Callable[[dict[str, Any]], object]) -> None:
        """The events' greenlet. Whenever it begins to listen, some events may have been missed."""
        while True:
            try:
                with self.listener.pubsub(ignore_subscribe_messages=True) as subscription:
                    subscription.subscribe(self.channel)
                    subscription.get_message(timeout=1.0)  # the confirmation: from here on nothing is missed
                    self.doubt()
                    self.listen(subscription, on_event)
            except (redis.RedisError, OSError):
                pass  # the claims' greenlet complains
            except Exception:
                log.logger.exception("store: following its events failed")
            gevent.sleep(PROBE_SECONDS * random.uniform(0.8, 1.2))

    def listen(self, subscription: Any, on_event: Callable[[dict[str, Any]], object]) -> None:
        """Hand on events until the subscription fails or is silent for too long."""
        pinged = False
        while True:
            message = subscription.get_message(timeout=LISTEN_SECONDS)
            if message is not None:
                pinged = False
                if message["type"] == "message":
                    self.heard(message["data"], on_event)
            elif pinged:
                raise redis.TimeoutError("the subscription is silent")
            else:
                pinged = True
                subscription.ping()

    @staticmethod
    def heard(data: bytes, on_event: Callable[[dict[str, Any]], object]) -> None:
        """Anybody may publish anything: what is no event of ours is ignored."""
        try:
            event = json.loads(data) if len(data) <= MAX_EVENT else None
            if isinstance(event, dict):
                on_event(event)
        except (ValueError, TypeError, KeyError, RecursionError):
            log.logger.warning("store: an event that is not one was ignored")
        except Exception:
            log.logger.exception("store: an event could not be acted on")


def refuses(reply: object) -> bool:
    """Whether a reply says that the store takes no claims: it is read-only, full, or forbids us. A key of a wrong type
    says nothing about the others."""
    return isinstance(reply, redis.ResponseError) and not str(reply).startswith("WRONGTYPE")
