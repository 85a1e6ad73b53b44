"""The demo of a `mode: redis` route: a client that knows nothing of clusters uses three nodes as if they were one server.

What it prints is checked: the replies by their values, and where the keys went by asking each node itself.
"""

from typing import Any

import redis

from playground.cluster import ClusterNode, ValkeyCluster
from playground.front import Failed, Front
from playground.table import table
from puerta.config.schema import RedisRoute

KEYS = 300


class RedisShow:
    """One act: pipelines, multi-key commands, a transaction and a message, through Puerta."""

    def __init__(self, route: RedisRoute) -> None:
        self.route = route
        self.host, self.port = route.listen[0].host, route.listen[0].port
        self.cluster = ValkeyCluster(ports=tuple(seed.port for seed in route.cluster))
        self.servers: list[ClusterNode] = self.cluster.nodes
        self.guide = f"redis-cli -h {self.host} -p {self.port}"

    def prepare(self) -> None:
        """Make a cluster of the nodes."""
        self.cluster.form()

    def play(self, front: Front) -> None:
        print(f"\none redis-py client that knows nothing of clusters, RESP2 and RESP3, on {len(self.servers)} nodes")
        rows: list[tuple[str, str, str]] = []
        for protocol in (2, 3):
            client: Any = redis.Redis(host=self.host, port=self.port, protocol=protocol, socket_timeout=10)
            try:
                rows.extend((f"RESP{protocol}", what, found) for what, found in self.acts(client, protocol))
            finally:
                client.close()
        print(table(("protocol", "what", "answer"), rows))
        print("\nwhere the keys went")
        held = [(node.address, int(node.ask("DBSIZE"))) for node in self.servers]
        print(table(("node", "keys"), held))
        if any(count == 0 for _, count in held):
            raise Failed("a node of the cluster got no key")

    def acts(self, client: Any, protocol: int) -> list[tuple[str, str]]:
        """What is done and what came back. Raises Failed for a wrong answer."""
        names = [f"demo:{protocol}:{number}" for number in range(KEYS)]
        pipeline = client.pipeline(transaction=False)
        for number, name in enumerate(names):
            pipeline.set(name, number).get(name)
        replies = pipeline.execute()
        expect(
            replies == [reply for number in range(KEYS) for reply in (True, b"%d" % number)], "the pipeline's replies"
        )
        expect(client.mget(names) == [b"%d" % number for number in range(KEYS)], "MGET over all nodes")
        found = len(list(client.scan_iter(f"demo:{protocol}:*", count=50)))
        expect(found == KEYS, "SCAN over all nodes")
        with client.pipeline() as transaction:
            transaction.incr(f"{{demo{protocol}}}:a").incr(f"{{demo{protocol}}}:b")
            expect(transaction.execute() == [1, 1], "the transaction")
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("demo")
            channel.get_message(timeout=5)
            client.publish("demo", "hello")
            message = channel.get_message(timeout=5)
        expect(message is not None and message["data"] == b"hello", "the message")
        return [
            (f"a pipeline of {2 * KEYS} commands", "all replies, in order"),
            (f"MGET of {KEYS} keys", "all values, in order"),
            ("SCAN", f"{found} keys of all nodes"),
            ("MULTI … EXEC", "both executed"),
            ("SUBSCRIBE and PUBLISH", "received"),
        ]


def expect(truth: bool, what: str) -> None:
    if not truth:
        raise Failed(f"{what}: not what a single server would have answered")
