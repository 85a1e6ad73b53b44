"""What the log says about a backend: one line when its verdict changes, one when it begins to look odd."""

from puerta.config.schema import Checks
from puerta.health.dial import Result
from puerta.health.verdict import DRAIN, STARTING, UP
from puerta.log import logger


def remark(name: str, health: Checks, states: tuple[str, str], results: tuple[Result | None, Result]) -> None:
    """Say what one check changed; `states` and `results` are those before it and after it."""
    (before, state), (last, result) = states, results
    if state != before:
        _change(name, health, before, state, result)
    if result.warnings and (last is None or last.warnings != result.warnings):
        logger.warning("backend %s: %s", name, "; ".join(result.warnings))


def _change(name: str, health: Checks, before: str, state: str, result: Result) -> None:
    if state == UP:
        reason = "first check" if before == STARTING else f"{health.rise} good checks in a row"
        logger.info("backend %s is up (was %s): %s", name, before, reason)
    elif state == DRAIN:
        logger.warning("backend %s is draining (was %s): %s", name, before, result.error)
    else:
        reason = "first check" if before == STARTING else f"{health.fall} in a row"
        logger.warning("backend %s is down (was %s): %s (%s)", name, before, result.error, reason)
