"""What every test may ask for."""

from collections.abc import Callable

import pytest

from tests import harness


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives TCP ports on the loopback that nobody listens on."""
    return harness.free_port
