"""The master's clockwork: how long it waits for what, in seconds. Tests bring shorter ones; operators don't set it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    tick: float = 0.25
    """Longest sleep of the loop when nothing is under way."""
    busy_tick: float = 0.02
    """The same while a child boots or leaves: readiness is read from the board, no signal tells it."""
    adopt_after: float = 1.0
    """A seat nobody has served for this long, or whose worker's beat is this old, is adopted."""
    hang_limit: float = 10.0
    """A child whose beat is this old is aborted (its stacks are dumped), then killed."""
    boot_limit: float = 30.0
    """A child that isn't ready after this long is aborted, then killed."""
    give_up: float = 60.0
    """A first start that has not got a single worker up after this long has failed."""
    abort_grace: float = 0.5
    """Between SIGABRT and SIGKILL: time enough to write the stacks."""
    stop_grace: float = 5.0
    """What a child gets beyond its own drain limit before it is killed."""
    store_wait: float = 3.0
    """At the first start the other children wait this long for the embedded store."""
