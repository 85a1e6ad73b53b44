"""Clients with long pipelines beside clients that send one command at a time, all of one worker: nobody waits for the others.

Measured in round trips, not in seconds: while the clients with pipelines have theirs answered, the others must get on at
least as often, for whatever they do is less.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from playground.cluster import ValkeyCluster
from tests.proxy.front import Front
from tests.redis.limited import route
from tests.redis.repeat import VALUE, Repeated
from tests.redis.wire import Wire

SECONDS = 2.0
PIPELINES = 8

LAG = 0.02
"""Seconds by which a worker's own work may be late, as the median: 512 commands of each pipeline take much longer."""


@pytest.fixture(scope="module")
def front(cluster: ValkeyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with Front(tmp_path_factory.mktemp("fairness"), route("cache", cluster)) as running:
        yield running
        assert "Traceback" not in running.text(), running.text()


def arrive(wire: Wire) -> None:
    """A new client, which is accepted and served."""
    with Wire(wire.socket.getpeername()[1]) as another:
        assert another.ask("PING") == b"+PONG\r\n"


def test_single_commands_beside_long_pipelines(front: Front) -> None:
    port, keys, lags = front.port("cache"), [f"key{number}" for number in range(100)], []
    with Wire(port) as wire:
        wire.pipeline([("SET", key, VALUE) for key in keys])
    others = Repeated(port)
    others.add("get", lambda wire: wire.ask("GET", keys[0]))
    others.add("mget", lambda wire: wire.ask("MGET", *keys[:3]))
    others.add("connect", arrive)

    def look() -> None:
        time.sleep(0.1)
        lags.append(front.status()["workers"][0]["loop_lag_ms"] / 1000)

    words = [sys.executable, "-m", "tests.redis.repeat", str(port), str(SECONDS), str(PIPELINES), *keys]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        rounds = others.run(SECONDS, look)
        pipelines = list(json.loads(process.stdout.readline()).values())
    print(rounds, pipelines, lags)
    assert len(pipelines) == PIPELINES and min(pipelines) * 2 > max(pipelines), "a pipeline is put last"
    for name, count in rounds.items():
        assert count >= max(pipelines), f"{name} waits for more than one pipeline: {count} round trips, {pipelines}"
    assert statistics.median(lags) < LAG
