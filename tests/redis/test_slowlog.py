"""Puerta's own slow log: commands that took longer than limits.slowlog."""

import pytest

from tests.redis.scripted import ScriptedFront
from tests.redis.wire import Wire

pytestmark = pytest.mark.dataplane


def test_nothing_is_slow_when_the_limit_is_zero(scripted: ScriptedFront) -> None:
    with Wire(scripted.other) as wire:
        for number in range(20):
            assert wire.ask("GET", number).startswith(b":")
        assert wire.ask("SLOWLOG", "LEN") == b":0\r\n"
