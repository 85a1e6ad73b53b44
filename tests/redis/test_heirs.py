"""A redirection to a master's replica: it has taken the master's place, and nobody asks both; nor does an older look put the
old master back."""

from typing import Any

import pytest

from tests.redis.runner import entry, master, runner_with

LAYOUT = {
    "masters": [master("one", 0, 8000, entry("late", up=False)), master("two", 8001, 16383, entry("other"))],
    "spares": [],
    "uncovered": 0,
    "looked_ns": 0,
}


@pytest.mark.dataplane
@pytest.mark.parametrize(
    ("heir", "masters"),
    [
        pytest.param("late", ["late", "two"], id="its own, though it did not answer when the cluster was looked at"),
        pytest.param("other", ["one", "other", "two"], id="another master's: this slot only"),
        pytest.param("two", ["one", "two"], id="another master: this slot only"),
    ],
)
def test_who_is_in_office_after_one_redirection(heir: str, masters: list[str]) -> None:
    with runner_with(LAYOUT, lambda host: None) as runner:
        cluster: Any = runner.cluster
        assert cluster.learn(b"-MOVED 7 %s:9\r\n" % heir.encode(), "one")
        assert [node.host for node in cluster.masters()] == masters
        assert cluster.slots.owner(7).host == heir
        assert (cluster.slots.owner(8) is cluster.slots.owner(7)) == (heir == "late")


@pytest.mark.dataplane
@pytest.mark.parametrize("listed", ["replica", "spare"])
def test_a_look_that_began_before_a_redirection_does_not_undo_it(listed: str) -> None:
    """It is published later, and lists the new master as what it was."""
    with runner_with(LAYOUT, lambda host: None) as runner:
        cluster: Any = runner.cluster
        assert cluster.learn(b"-MOVED 7 late:9\r\n", "one")
        said = cluster.loop.now
        cluster.loop.now += 10  # however long it took
        late = entry("late", up=False)
        masters = [master("one", 0, 8000, *[late] * (listed == "replica")), master("two", 8001, 16383)]
        layout = {"masters": masters, "spares": [late] * (listed == "spare"), "looked_ns": int((said - 0.1) * 1e9)}
        cluster.apply(layout)
        assert [node.host for node in cluster.masters()] == ["late", "two"]
        assert not cluster.node("late", 9).deposed
        assert not cluster.node("late", 9).replica

        cluster.apply({**layout, "looked_ns": int((said + 0.1) * 1e9)})
        assert [node.host for node in cluster.masters()] == ["one", "two"]
        assert cluster.node("late", 9).deposed
        assert cluster.node("late", 9).replica == (listed == "replica")


@pytest.mark.dataplane
def test_a_node_that_an_older_look_does_not_list_is_gone_all_the_same() -> None:
    """There is nothing to count it by: the next redirection, or the next look, brings it back."""
    with runner_with(LAYOUT, lambda host: None) as runner:
        cluster: Any = runner.cluster
        assert cluster.learn(b"-MOVED 7 late:9\r\n", "one")
        cluster.apply({"masters": [master("one", 0, 16383)], "spares": [], "looked_ns": 0})
        assert [node.host for node in cluster.masters()] == ["one"]
        assert cluster.node("late", 9) is None
        assert not cluster.learned
