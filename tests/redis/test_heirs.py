"""A redirection to a master's replica: it has taken the master's place, and nobody asks both."""

from typing import Any

import pytest

from tests.redis.runner import entry, master, runner_with

LAYOUT = {
    "masters": [master("one", 0, 8000, entry("late", up=False)), master("two", 8001, 16383, entry("other"))],
    "spares": [],
    "uncovered": 0,
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
