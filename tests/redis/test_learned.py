"""Commands that Puerta does not know by itself, of modules or of a newer server: they can be used as soon as a node has them."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.cluster import ValkeyCluster
from puerta.protocol.slots import slot_of
from tests.harness import Running, ask, free_port, wait_for
from tests.redis.scripted import ScriptedNode, described, scripted_cluster
from tests.redis.wire import Wire

pytestmark = pytest.mark.dataplane

CONFIG = """
workers: 2
log: {{access: false}}
admin: {{listen: 127.0.0.1:{admin}}}
routes:
  - {{name: cache, mode: redis, listen: 127.0.0.1:{port}, cluster: [{seeds}], topology_refresh: 1s}}
  - {{name: other, mode: redis, listen: 127.0.0.1:{other}, cluster: [{strangers}], topology_refresh: 1s}}
"""
UNKNOWN = b"-ERR unknown command 'M.GET'"

TWO_KEYS = [described("m.get", "readonly"), described("m.at", "write", keys=(2, 2, 1), arity=-3)]


@pytest.fixture
def nodes() -> Iterator[list[ScriptedNode]]:
    made = scripted_cluster()
    yield made
    for node in made:
        node.close()


@pytest.fixture
def strangers() -> Iterator[list[ScriptedNode]]:
    made = scripted_cluster()
    yield made
    for node in made:
        node.close()


class Front:
    def __init__(self, directory: Path, nodes: list[ScriptedNode], strangers: list[ScriptedNode]) -> None:
        self.port, self.other, self.admin = free_port(), free_port(), free_port()
        seeds, others = (", ".join(f"127.0.0.1:{node.port}" for node in each) for each in (nodes, strangers))
        config = CONFIG.format(seeds=seeds, strangers=others, port=self.port, other=self.other, admin=self.admin)
        self.running = Running(directory, config)
        self.running.start().wait_ready()

    def ask(self, *words: bytes | str | int, port: int = 0) -> bytes:
        """On a connection of its own, so that any worker may get it."""
        with Wire(port or self.port) as wire:
            return wire.ask(*words)

    def everywhere(self, *words: bytes | str | int) -> set[bytes]:
        """What all workers, with all likelihood, say."""
        return {self.ask(*words) for _ in range(12)}


@pytest.fixture
def front(tmp_path: Path, nodes: list[ScriptedNode], strangers: list[ScriptedNode]) -> Iterator[Front]:
    made = Front(tmp_path, nodes, strangers)
    with made.running:
        yield made
        assert "Traceback" not in made.running.text(), made.running.text()


def owner(nodes: list[ScriptedNode], key: bytes) -> bytes:
    (found,) = [node for node in nodes if node.slots[0] <= slot_of(key) <= node.slots[1]]
    return b":%d\r\n" % found.port


def test_a_command_is_learned_and_goes_to_the_node_of_its_keys(front: Front, nodes: list[ScriptedNode]) -> None:
    assert front.ask("M.GET", "a").startswith(UNKNOWN)
    many = [described(f"z.{number}", "readonly") for number in range(300)]
    nodes[1].load(*many, *TWO_KEYS)  # one node alone has it: which one a client needs not know
    wait_for(lambda: all(said[:1] == b":" for said in front.everywhere("M.GET", "a")), "it is learned")
    for key in (b"a", b"b", b"foo", b"bar", b"{tag}x"):
        assert front.everywhere("m.get", key) == front.everywhere("M.At", "x", key) == {owner(nodes, key)}
    assert front.ask("M.AT", "x") == b"-ERR wrong number of arguments for 'm.at' command\r\n"
    assert [b"m.get", b"foo"] in nodes[0].heard + nodes[1].heard
    assert front.ask("M.GET", "a", port=front.other).startswith(UNKNOWN)
    wait_for(lambda: b'command="m.get",le="+Inf"' in metrics(front), "its latency has its name")
    assert b'command="other"' not in metrics(front)
    assert front.ask("Z.299", "a") == owner(nodes, b"a")  # beyond what has a histogram of its own
    wait_for(lambda: b'command="other",le="+Inf",route="cache"} 1.0' in metrics(front), "it is measured all the same")


def metrics(front: Front) -> bytes:
    return ask(front.admin, b"GET /metrics HTTP/1.0\r\n\r\n")


def test_workers_born_later_know_it_from_their_first_command_on(front: Front, nodes: list[ScriptedNode]) -> None:
    nodes[0].load(*TWO_KEYS)
    wait_for(lambda: all(said[:1] == b":" for said in front.everywhere("M.GET", "a")), "it is learned")
    supervisor, worker = front.running.child("supervisor"), front.running.worker(0)
    for node in nodes:
        node.load()  # and now no node says that it has it
    for pid in (supervisor, worker):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    wait_for(lambda: front.running.workers().get(0, [worker]) != [worker], "a new worker")
    assert front.everywhere("M.GET", "a") == {owner(nodes, b"a")}
    front.running.signal(signal.SIGHUP)
    front.running.wait_log("reloaded: generation 2 is up")
    assert front.everywhere("M.GET", "a") == {owner(nodes, b"a")}


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
            assert wire.pipeline([("MULTI",), ("TOY.COUNT", "a"), ("EXEC",)])[2] == b"*1\r\n:2\r\n"
