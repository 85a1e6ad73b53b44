"""The worker's line to the shared store: claims of affinity, batched, bounded in time, and never in a client's way for long.

One greenlet sends whatever claims have gathered as one pipeline and hands each asker its answer. A store that is
down, hung, full or read-only costs the claims of that batch at most the configured timeout; from then on they are
answered at once with None (decide alone) until a probe, made without any client waiting, finds the store well again.
"""

import hashlib
import json
import random
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
PROBE_SECONDS = 1.0
"""The breaker's period: how long a store that failed is left alone before the next probe."""

QUEUE = 65536
"""Claims that may wait for the next batch; beyond it an asker decides alone."""

CLAIM = """
local kept = redis.call('GET', KEYS[1])
if kept and kept ~= ARGV[3] then
  redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
  return {kept, 0}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if kept then
  redis.pcall('PUBLISH', ARGV[4], ARGV[5])
  return {ARGV[1], 2}
end
return {ARGV[1], 1}
"""
"""One atomic step for all: a key without a backend is claimed, one whose backend the asker found unusable is moved by
compare-and-set (and everybody is told), any other is kept and its time to live starts anew."""

SHA = hashlib.sha1(CLAIM.encode(), usedforsecurity=False).hexdigest()
KEPT, CLAIMED, MOVED = range(3)

Answer = Callable[[str | None, int], object]
"""Called with the backend's id and KEPT, CLAIMED or MOVED; or with None when the store could not say."""


class Store:
    """Claims for one worker. `up` and `latency` (seconds) say how the store does."""

    def __init__(self, url: str, namespace: str, timeout: float) -> None:
        self.namespace = namespace
        self.channel = f"{namespace}:events"
        self.timeout = timeout
        self.client = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            max_connections=2,
            client_name="puerta",
        )
        self.listener: Any = redis.Redis.from_url(
            url,
            socket_timeout=5.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
            client_name="puerta-events",
        )
        self.up = True
        self.latency = 0.0
        self.waiting: list[tuple[tuple[str, ...], Answer]] = []
        self.wanted = Event()
        self.complained = 0.0
        self.on_recovery: Callable[[], object] = lambda: None

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
        """The claims' greenlet."""
        while True:
            self.wanted.wait()
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            if not self.waiting:
                self.wanted.clear()
            started = native.now()
            try:
                replies = self.ask([arguments for arguments, _ in batch])
            except (redis.RedisError, OSError) as error:
                self.answer(batch, [error] * len(batch))
                self.failed(error)
                continue
            self.latency = native.now() - started
            self.answer(batch, replies)

    def ask(self, claims: list[tuple[str, ...]]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for arguments in claims:
            pipeline.evalsha(SHA, 1, *arguments)
        replies = pipeline.execute(raise_on_error=False)
        if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
            self.client.script_load(CLAIM)
            return self.ask(claims)
        return list(replies)

    def answer(self, batch: list[tuple[tuple[str, ...], Answer]], replies: list[Any]) -> None:
        """Tell each asker; one that fails is its own problem, the others still get theirs."""
        for (_, answer), reply in zip(batch, replies, strict=True):
            try:
                if isinstance(reply, Exception):
                    self.complain(reply)
                    answer(None, KEPT)
                else:
                    answer(reply[0].decode(), reply[1])
            except Exception:
                log.logger.exception("an answer of the store could not be used")

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
        self.wanted.clear()
        for _, answer in waiting:
            answer(None, KEPT)
        while not self.up:
            gevent.sleep(PROBE_SECONDS * random.uniform(0.8, 1.2))
            try:
                self.client.ping()
                self.up = True
            except (redis.RedisError, OSError):
                continue
        log.logger.info("store: up again")
        self.on_recovery()

    def follow(self, on_event: Callable[[dict[str, Any]], object], on_gap: Callable[[], object]) -> None:
        """The events' greenlet: `on_event` for each, `on_gap` when some may have been missed."""
        while True:
            try:
                with self.listener.pubsub(ignore_subscribe_messages=True) as subscription:
                    subscription.subscribe(self.channel)
                    on_gap()
                    self.listen(subscription, on_event)
            except (redis.RedisError, OSError):
                gevent.sleep(PROBE_SECONDS * random.uniform(0.8, 1.2))

    def listen(self, subscription: Any, on_event: Callable[[dict[str, Any]], object]) -> None:
        while True:
            message = subscription.get_message(timeout=4.0)
            if message is None:
                subscription.ping()
                continue
            if message["type"] != "message":
                continue
            try:
                event = json.loads(message["data"])
                if isinstance(event, dict):
                    on_event(event)
            except (ValueError, TypeError, KeyError):
                log.logger.warning("store: an event that is not one was ignored")
