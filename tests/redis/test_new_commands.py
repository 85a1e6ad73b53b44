"""Commands that Puerta does not know by itself, of modules or of a newer server: they can be used as soon as a node has them."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from playground.cluster import ValkeyCluster
from puerta.protocol.slots import slot_of
from tests.harness import Running, free_port, wait_for
from tests.redis.scripted import ScriptedFront, ScriptedNode, described
from tests.redis.wire import Wire

pytestmark = pytest.mark.dataplane

UNKNOWN = b"-ERR unknown command 'M.GET'"

TWO_KEYS = [described("m.get", "readonly"), described("m.at", "write", keys=(2, 2, 1), arity=-3)]


def owner(nodes: list[ScriptedNode], key: bytes) -> bytes:
    (found,) = [node for node in nodes if node.slots[0] <= slot_of(key) <= node.slots[1]]
    return b":%d\r\n" % found.port


def test_a_command_is_learned_and_goes_to_the_node_of_its_keys(
    scripted: ScriptedFront, nodes: list[ScriptedNode]
) -> None:
    assert scripted.ask("M.GET", "a").startswith(UNKNOWN)
    many = [described(f"z.{number}", "readonly") for number in range(300)]
    nodes[1].load(*many, *TWO_KEYS)  # one node alone has it: which one a client needs not know
    wait_for(lambda: all(said[:1] == b":" for said in scripted.everywhere("M.GET", "a")), "it is learned")
    for key in (b"a", b"b", b"foo", b"bar", b"{tag}x"):
        assert scripted.everywhere("m.get", key) == scripted.everywhere("M.At", "x", key) == {owner(nodes, key)}
    assert scripted.ask("M.AT", "x") == b"-ERR wrong number of arguments for 'm.at' command\r\n"
    assert [b"m.get", b"foo"] in nodes[0].heard + nodes[1].heard
    assert scripted.ask("M.GET", "a", port=scripted.other).startswith(UNKNOWN)
    wait_for(lambda: b'command="m.get",le="+Inf"' in scripted.metrics(), "its latency has its name")
    assert b'command="other"' not in scripted.metrics()
    assert scripted.ask("Z.299", "a") == owner(nodes, b"a")  # beyond what has a histogram of its own
    wait_for(
        lambda: b'command="other",le="+Inf",route="cache"} 1.0' in scripted.metrics(), "it is measured all the same"
    )


def test_workers_born_later_know_it_from_their_first_command_on(
    scripted: ScriptedFront, nodes: list[ScriptedNode]
) -> None:
    nodes[0].load(*TWO_KEYS)
    wait_for(lambda: all(said[:1] == b":" for said in scripted.everywhere("M.GET", "a")), "it is learned")
    supervisor, worker = scripted.running.child("supervisor"), scripted.running.worker(0)
    for node in nodes:
        node.load()  # and now no node says that it has it
    for pid in (supervisor, worker):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    wait_for(lambda: scripted.running.workers().get(0, [worker]) != [worker], "a new worker")
    assert scripted.everywhere("M.GET", "a") == {owner(nodes, b"a")}
    scripted.running.signal(signal.SIGHUP)
    scripted.running.wait_log("reloaded: generation 2 is up")
    assert scripted.everywhere("M.GET", "a") == {owner(nodes, b"a")}


# -- a real module

MODULE = r"""
typedef struct Context Context; typedef struct Text Text;
typedef int (*Command)(Context *, Text **, int);
static int (*reply)(Context *, long long);
static int count(Context *context, Text **argv, int argc) { (void)argv; return reply(context, argc); }
int RedisModule_OnLoad(Context *context, Text **argv, int argc) {
    int (*get)(const char *, void *) = *(int (**)(const char *, void *))context;
    void (*name)(Context *, const char *, int, int);
    int (*create)(Context *, const char *, Command, const char *, int, int, int);
    (void)argv; (void)argc;
    get("RedisModule_SetModuleAttribs", &name);
    get("RedisModule_CreateCommand", &create);
    get("RedisModule_ReplyWithLongLong", &reply);
    name(context, "playground", 1, 1);
    return create(context, "toy.count", count, "readonly", 1, 1, 1);
}
"""
"""One command, which answers how many arguments it got; its first is a key."""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path_factory.mktemp("module") / "toy.c"
    source.write_text(MODULE)
    built = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
    return built


def test_a_module_that_is_loaded_while_clients_are_there(module: Path, tmp_path: Path) -> None:
    with ValkeyCluster(options=("--enable-module-command", "local")) as cluster:
        port = free_port()
        config = f"""
workers: 1
log: {{access: false}}
routes:
  - {{name: cache, mode: redis, listen: "127.0.0.1:{port}", cluster: ["{cluster.masters[0].address}"], topology_refresh: 1s}}
"""
        with Running(tmp_path, config).start().wait_ready(), Wire(port) as wire:
            assert wire.ask("TOY.COUNT", "k").startswith(b"-ERR unknown command 'TOY.COUNT'")
            for node in cluster.masters:
                assert node.ask("MODULE", "LOAD", str(module)) == b"OK"
            wait_for(lambda: wire.ask("TOY.COUNT", "k") == b":2\r\n", "it is learned")
            asked = [("TOY.COUNT", f"key{number}", *["x"] * (number % 4)) for number in range(200)]
            assert wire.pipeline(asked) == [b":%d\r\n" % len(words) for words in asked]
            assert b"redirects_moved:0\r\n" in wire.ask("INFO")
            for words in (), ("a", "b", "c"):
                assert wire.ask("TOY.COUNT", *words) == b":%d\r\n" % (len(words) + 1)
            assert wire.pipeline([("MULTI",), ("TOY.COUNT", "a"), ("EXEC",)])[2] == b"*1\r\n:2\r\n"
