"""What the nodes of a Redis Cluster can do beyond the built-in command table (modules, newer servers), as one list.

Each node says what it has when it is met, upgraded, or loaded a module (`NodeWatch`). A command that any node has is listed:
a node that lacks it says so itself. Where nodes describe one differently, what most of them say counts. A command's place
in the list is its number in every worker and in the metrics, so the list grows at its end only, for as long as the board
lives, and what no node has any more keeps its place.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from puerta.blob import Blob
from puerta.errors import BoardFull
from puerta.log import logger
from puerta.protocol.commands import MOST_COMMANDS, extended
from puerta.protocol.entry import Entry, pack, read, unpack

SHOWN = 8
"""Commands that a log line names."""

Told = tuple[Entry, ...]
"""What one node has beyond the built-in table."""


def beyond(reply: Any) -> Told:
    """What a COMMAND reply has that the built-in table lacks, or would have to change for.

    Raises ValueError for a reply that is none. What is malformed in one is passed over.
    """
    table = extended(())
    listed = list(islice(read(reply), 2 * MOST_COMMANDS))
    if not listed:
        raise ValueError("not an answer to COMMAND")
    return tuple(entry for entry in listed if table.learn([entry]))


class Learned:
    """The list of one route's cluster, and its blob on the board. Used by one thread."""

    def __init__(self, route: str, blob: Blob) -> None:
        self.route, self.blob = route, blob
        self.entries: dict[str, Entry] = {}
        self.told: tuple[Told, ...] = ()
        self.full = False
        self._restore()

    def take(self, told: Iterable[Told]) -> None:
        """Make one list of what the nodes said, and publish it if that is news."""
        said = tuple(told)
        if said == self.told:
            return
        self.told = said
        found = self._merge(Counter(entry for each in said for entry in each))
        if found != self.entries:
            self._publish(found)

    def _merge(self, votes: Mapping[Entry, int]) -> dict[str, Entry]:
        best: dict[str, Entry] = {}
        for entry in sorted(votes, key=lambda entry: (-votes[entry], entry != self.entries.get(entry.name))):
            best.setdefault(entry.name, entry)
        found = {
            name: best[name] if name in best and best[name].container == entry.container else entry
            for name, entry in self.entries.items()
        }
        table, room = extended(found.values()), self.blob.size - len(pack(found.values()))
        for name in sorted(best.keys() - found.keys(), key=lambda name: name.split("|")):
            room -= len(pack([best[name]]))
            if room < 0 or len(table.specs) == MOST_COMMANDS:
                self._overflow()
                break
            if table.learn([best[name]]):
                found[name] = best[name]
        return found

    def _overflow(self) -> None:
        if not self.full:
            self.full = True
            logger.warning("cluster %s: its nodes list more commands than can be learned", self.route)

    def _publish(self, found: dict[str, Entry]) -> None:
        try:
            self.blob.publish(pack(found.values()))
        except BoardFull as error:
            logger.error("cluster %s: its commands can't be published: %s", self.route, error)
            return
        names = [name for name, entry in found.items() if self.entries.get(name) != entry]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        logger.info(
            "cluster %s: learned the commands %s%s", self.route, ", ".join(names[:SHOWN]).replace("|", " "), more
        )
        self.entries = found

    def _restore(self) -> None:
        """Go on with the list that an earlier supervisor published."""
        found = self.blob.read(0)
        if found is None:
            return
        try:
            self.entries = {entry.name: entry for entry in unpack(found[1])}
        except (ValueError, KeyError, TypeError) as error:
            logger.error("cluster %s: the published commands can't be read: %r", self.route, error)
