"""Real client libraries and tools, unmodified, as against one server: redis-py, redis-cli, redis-benchmark.

The tools are no part of what the project installs: their tests say so and are left out where there are none.
"""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis import asyncio as aioredis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from tests.redis.conftest import PASSWORD, Front
from tests.redis.wire import PATIENCE, Wire, until

Connect = Callable[..., Wire]

KEYS = [f"k{number}" for number in range(100)]
"""On all nodes."""


@pytest.fixture(params=[2, 3, None], ids=["RESP2", "RESP3", "default"])
def client(request: pytest.FixtureRequest, front: Front, connect: Connect) -> Iterator[Any]:
    """redis-py, with either protocol, and as it comes."""
    options = {} if request.param is None else {"protocol": request.param}
    with redis.Redis(port=front.port, decode_responses=True, socket_timeout=PATIENCE, **options) as made:
        yield made


# -- redis-py


def test_everyday_commands(client: Any) -> None:
    assert client.ping() and client.set("a", "1", ex=100) and client.incr("a") == 2 and 0 < client.ttl("a") <= 100
    assert client.mset({key: key for key in KEYS}) and client.mget(KEYS) == KEYS
    assert client.exists(*KEYS, "no") == 100 and client.delete(*KEYS[:50], "no") == 50 and client.dbsize() == 51
    assert client.hset("h", mapping={"f": "1", "g": "2"}) == 2 and client.hgetall("h") == {"f": "1", "g": "2"}
    assert client.zadd("z", {"x": 1.5, "y": 2}) == 2 and client.zscore("z", "x") == 1.5
    assert [list(pair) for pair in client.zrange("z", 0, -1, withscores=True)] == [["x", 1.5], ["y", 2.0]]
    assert client.sadd("s", "m", "n") == 2 and client.smembers("s") == {"m", "n"}
    assert client.xadd("x", {"f": "v"}, id="1-1") == "1-1" and client.xlen("x") == 1
    assert client.get("no") is None and client.type("h") == "hash"
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.get("h")
    with pytest.raises(redis.ResponseError, match="same slot"):
        client.msetnx({"a": "1", "b": "2"})
    assert client.info()["redis_mode"] == "standalone" and client.client_id() > 0 and client.time()[0] > 0
    assert client.config_get("save") == {"save": ""} and client.echo("x") == "x"
    assert client.flushall() and client.randomkey() is None and client.keys() == []


def test_pipelines_and_transactions(client: Any) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for key in KEYS:
            pipeline.set(key, key).get(key).mget(KEYS[:3]).incr(key)
        found = pipeline.execute(raise_on_error=False)
    assert found[1::4] == KEYS and all(isinstance(each, redis.ResponseError) for each in found[3::4])
    with client.pipeline() as pipeline:
        assert pipeline.set("{t}a", "1").incr("{t}a").get("{t}b").execute() == [True, 2, None]
        pipeline.set("a", "1").set("b", "1")
        with pytest.raises(redis.ResponseError, match="same slot"):
            pipeline.execute()
    assert client.get("a") is client.get("b") is None


def test_a_transaction_that_watches(client: Any) -> None:
    """Eight threads count with WATCH, and nothing gets lost."""
    failed = []

    def add(pipeline: Any) -> None:
        value = int(pipeline.get("{c}n") or 0)
        pipeline.multi()
        pipeline.set("{c}n", value + 1).rpush("{c}l", value)

    def count() -> None:
        try:
            for _ in range(10):
                client.transaction(add, "{c}n")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and client.get("{c}n") == "80"
    assert client.lrange("{c}l", 0, -1) == [str(number) for number in range(80)]
    with client.pipeline() as pipeline:
        pipeline.watch("{c}n")
        client.set("{c}n", "other")
        pipeline.multi()
        pipeline.set("{c}n", "mine")
        with pytest.raises(redis.WatchError):
            pipeline.execute()


def test_iterations(client: Any) -> None:
    client.mset({key: key for key in KEYS})
    client.hset("hash", mapping=dict.fromkeys(KEYS, "v"))
    assert sorted(client.scan_iter(count=7)) == sorted([*KEYS, "hash"])
    assert sorted(client.scan_iter(match="k1*")) == sorted(key for key in KEYS if key.startswith("k1"))
    assert list(client.scan_iter(_type="hash")) == ["hash"]
    assert sorted(field for field, _ in client.hscan_iter("hash", count=10)) == sorted(KEYS)


def test_messages(client: Any) -> None:
    with client.pubsub() as pubsub:
        pubsub.subscribe("news")
        pubsub.psubscribe("n*")
        kinds = [pubsub.get_message(timeout=PATIENCE)["type"] for _ in range(2)]
        assert kinds == ["subscribe", "psubscribe"]
        client.publish("news", "hello")
        found = [pubsub.get_message(timeout=PATIENCE) for _ in range(2)]
        assert sorted(each["type"] for each in found) == ["message", "pmessage"]
        assert {each["data"] for each in found} == {"hello"}
        pubsub.ping()
        pubsub.unsubscribe()
        pubsub.punsubscribe()
        until(lambda: pubsub.get_message(timeout=0.1) is None and not pubsub.subscribed, "it has unsubscribed")
    with client.pubsub() as pubsub:
        seen: list[str] = []
        pubsub.subscribe(threads=lambda message: seen.append(message["data"]))
        thread = pubsub.run_in_thread(sleep_time=0.01)
        until(lambda: client.pubsub_numsub("threads")[0][1] == 1, "it is subscribed")
        for number in range(50):
            client.publish("threads", number)
        until(lambda: len(seen) == 50, "all have come")
        thread.stop()
        thread.join()
    assert seen == [str(number) for number in range(50)]


def test_waiting_and_locks(client: Any) -> None:
    popped: list[Any] = []
    thread = threading.Thread(target=lambda: popped.append(client.blpop(["{q}1", "{q}2"], timeout=10)))
    thread.start()
    client.rpush("{q}2", "job")
    thread.join()
    assert [list(each) for each in popped] == [["{q}2", "job"]]
    assert client.blpop("{q}1", timeout=0.05) is None
    order: list[int] = []

    def work(number: int) -> None:
        with client.lock("lock", timeout=10, blocking_timeout=PATIENCE, sleep=0.005):
            order.append(number)
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(order) == 12 and order[::2] == order[1::2]
    with pytest.raises(redis.exceptions.LockError):
        client.lock("free").release()


def test_scripts(client: Any) -> None:
    """A registered script is loaded again where a node does not know it."""
    client.script_flush()
    script = client.register_script("return {KEYS[1], ARGV[1]}")
    assert [script(keys=[key], args=["x"]) for key in KEYS[:20]] == [[key, "x"] for key in KEYS[:20]]
    client.script_flush()
    assert client.script_exists(script.sha) == [False]
    with client.pipeline(transaction=False) as pipeline:
        for key in KEYS[:20]:
            script(keys=[key], args=["y"], client=pipeline)
        assert pipeline.execute() == [[key, "y"] for key in KEYS[:20]]


def test_with_a_password(front: Front) -> None:
    for protocol in (2, 3):
        options: dict[str, Any] = {"port": front.guarded, "protocol": protocol, "retry": Retry(NoBackoff(), 0)}
        with redis.Redis(password=PASSWORD, client_name="me", decode_responses=True, **options) as known:
            assert known.ping() and known.client_getname() == "me" and known.acl_whoami() == "default"
        for given in ({}, {"password": "x"}, {"username": "nobody", "password": PASSWORD}):
            with redis.Redis(**given, **options) as unknown, pytest.raises(redis.AuthenticationError):
                unknown.get("a")


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_cluster_client_is_shown_a_cluster_of_one(front: Front, connect: Connect, protocol: int) -> None:
    """It works, and does not bypass Puerta."""
    before = front.info()["redirects_moved"]
    with RedisCluster(host="127.0.0.1", port=front.port, protocol=protocol, decode_responses=True) as client:
        assert {(node.host, node.port) for node in client.get_nodes()} == {("127.0.0.1", front.port)}
        assert client.mset_nonatomic({key: key for key in KEYS}) and client.mget_nonatomic(KEYS) == KEYS
        assert (
            client.dbsize() == 100
            and sorted(client.scan_iter()) == sorted(KEYS)
            and sorted(client.keys()) == sorted(KEYS)
        )
        with client.pipeline() as pipeline:
            for key in KEYS:
                pipeline.get(key)
            assert pipeline.execute() == KEYS
        assert client.delete(*KEYS[:10]) == 10 and client.ping() and client.cluster_keyslot("foo{bar}") == 5061
        with client.pubsub() as pubsub:
            pubsub.subscribe("c")
            assert pubsub.get_message(timeout=PATIENCE)["type"] == "subscribe"
            client.publish("c", "x")
            assert pubsub.get_message(timeout=PATIENCE)["data"] == "x"
        assert client.cluster_info()["cluster_state"] == "ok" and len(client.cluster_nodes()) == 1
    assert front.info()["redirects_moved"] == before


def test_asyncio(front: Front, connect: Connect) -> None:
    async def talk() -> list[Any]:
        async with aioredis.Redis(port=front.port, decode_responses=True) as client:
            await client.mset({key: key for key in KEYS})
            single = await asyncio.gather(*(client.get(key) for key in KEYS))
            async with client.pipeline(transaction=True) as pipeline:
                done = await pipeline.set("{t}a", "1").incr("{t}a").execute()
            async with client.pubsub() as pubsub:
                await pubsub.subscribe("c")
                await pubsub.get_message(timeout=PATIENCE)
                await client.publish("c", "x")
                heard = await pubsub.get_message(timeout=PATIENCE)
            return [single, done, heard["data"], sorted([key async for key in client.scan_iter()])]

    assert asyncio.run(talk()) == [KEYS, [True, 2], "x", sorted([*KEYS, "{t}a"])]


# -- the tools


def tool(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed: its test was LEFT OUT")
    return found


def run(*command: str, given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Traceback" not in done.stderr, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def cli(front: Front, connect: Connect) -> Callable[..., str]:
    name = tool("valkey-cli", "redis-cli")
    return lambda *words, given="": run(name, "-p", str(front.port), *words, given=given)


@pytest.mark.parametrize("protocol", [(), ("-3",)], ids=["RESP2", "RESP3"])
def test_the_command_line_client(cli: Callable[..., str], protocol: tuple[str, ...]) -> None:
    """Commands, lines of commands, its own walks over all keys, and mass insertion."""
    assert cli("SET", "a", "1") == "OK\n"
    assert cli(*protocol, "--no-raw", "GET", "a") == '"1"\n' and cli(*protocol, "--no-raw", "GET", "no") == "(nil)\n"
    lines = (
        "MULTI\nSET {t}a 1\nINCR {t}a\nEXEC\nMGET a no {t}a\nNOSUCH\nHGETALL no\nINFO puerta\nCOMMAND COUNT\nDBSIZE\n"
    )
    said = cli(*protocol, given=lines)
    assert "QUEUED" in said and "cluster_masters:3" in said and "unknown command" in said
    orders = "".join(f"SET {key} {key}\r\n" for key in KEYS)
    assert "errors: 0, replies: 100" in cli("--pipe", given=orders)
    assert sorted(cli("--scan", "--pattern", "k*").split()) == sorted(KEYS)
    assert "Sampled 102 keys" in cli("--bigkeys") and "Sampled 102 keys" in cli("--memkeys")
    assert cli("-c", "GET", "k99") == "k99\n"
    assert cli("EVAL", "return KEYS[1]", "1", "k1") == "k1\n"


def test_the_command_line_client_subscribes(cli: Callable[..., str], front: Front) -> None:
    name = tool("valkey-cli", "redis-cli")
    command = [name, "-p", str(front.port), "SUBSCRIBE", "news"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as reader:
        until(lambda: "1" in cli("PUBSUB", "NUMSUB", "news").split(), "it is subscribed")
        cli("PUBLISH", "news", "hello")
        assert reader.stdout is not None
        found = [reader.stdout.readline().decode().strip() for _ in range(6)]
        reader.terminate()
    assert found[-3:] == ["message", "news", "hello"]


@pytest.mark.parametrize("more", [(), ("-P", "16"), ("-3",)], ids=lambda more: " ".join(more))
def test_the_benchmark_tool(front: Front, connect: Connect, more: tuple[str, ...]) -> None:
    """Its own test commands, with keys in all slots."""
    name = tool("valkey-benchmark", "redis-benchmark")
    tests = "ping,set,get,incr,lpush,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset"
    options = ["-p", str(front.port), "-n", "400", "-c", "20", "-r", "1000", "-q", "-t", tests, *more]
    said = run(name, *options)
    for word in ("SET", "GET", "INCR", "SPOP", "ZADD", "LRANGE_100"):
        assert f"{word}" in said, said
    assert "rror" not in said and "requests per second" in said
    with front.connect() as wire:
        assert int(wire.ask("DBSIZE")[1:]) > 300
