"""What every test may ask for."""

from collections.abc import Callable

import pytest

from tests import harness


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives TCP ports on the loopback that nobody listens on."""
    return harness.free_port


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "dataplane: moves bytes through the core; run compiled and, with PUERTA_PURE=1, uncompiled"
    )
