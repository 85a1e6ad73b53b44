"""What every part of the demo has: the servers behind one route, and an act that proves what Puerta does with them.

Each mode of a route has a module with such a class; `SHOWS` in `__main__` names them.
"""

from collections.abc import Sequence
from typing import Protocol

from playground.front import Front
from playground.servers import Server


class Show(Protocol):
    """One route's part. It is made from the route's configuration alone."""

    @property
    def servers(self) -> Sequence[Server]:
        """What it wants to be started before Puerta; their ports are the configuration's."""

    @property
    def guide(self) -> str:
        """How a guest connects to the route, for when the show is over and everything stays up."""

    def prepare(self) -> None:
        """Its servers run; what must be done with them before Puerta starts."""

    def play(self, front: Front) -> None:
        """Drive real clients through `front` and print what happened. Raises Failed when it was not as it should be."""
