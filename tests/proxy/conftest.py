"""What the data plane's tests share: backends that end with their module."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.proxy.peers import Backend

Make = Callable[..., Backend]


@pytest.fixture(scope="module")
def backend() -> Iterator[Make]:
    """Makes scripted backends."""
    made: list[Backend] = []

    def make(*arguments: Any, kind: type[Backend] = Backend, **options: Any) -> Backend:
        made.append(kind(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
