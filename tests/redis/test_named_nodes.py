"""Nodes that the cluster names by host names: looked up before anybody needs them."""

from tests.redis.runner import entry, master, runner_with


def test_a_worker_is_ready_when_it_knows_where_the_nodes_are() -> None:
    known: dict[str, str] = {}
    asked: list[str] = []

    def resolve(host: str) -> str | None:
        asked.append(host)
        return known.get(host)

    layout = {"masters": [master("one.example", 0, 16383)], "spares": [entry("two.example")], "looked_ns": 0}
    with runner_with(layout, resolve) as runner:
        assert {"one.example", "two.example"} <= set(asked), "a node may get slots that has none yet"
        assert not runner.ready()
        known["one.example"] = "127.0.0.1"
        assert runner.ready(), "for one that is not in office nobody waits"
