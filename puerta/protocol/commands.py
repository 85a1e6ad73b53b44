"""The command table: every command that Valkey 9.1 and Redis 7.0 know, and those that a connected cluster says it has besides.

`commands.json` holds what the servers' own COMMAND says (`playground/update_commands.py` renews it), `policy` what Puerta
decided, `keys` how keys are found. Error texts are the servers' own (server.c, commandCheckExistence and commandCheckArity),
for client libraries look at them.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from puerta.protocol import keys as finders
from puerta.protocol.entry import Entry
from puerta.protocol.keys import blocks
from puerta.protocol.policy import REPEATABLE, decide
from puerta.protocol.spec import (
    ALL_OK,
    AND_ARRAY,
    ANY_OK,
    ARRAY_BY_POSITION,
    CONCAT,
    CURSOR,
    FIRST_SAME,
    KEYED,
    LOCAL,
    MIN,
    NONE,
    ONE,
    ONE_RANDOM,
    PINNED,
    REFUSED,
    SPLIT,
    SUM,
    SUM_PAIRS,
    UNION,
    Spec,
)

__all__ = (
    "ALL_OK", "AND_ARRAY", "ANY_OK", "ARRAY_BY_POSITION", "CONCAT", "CURSOR", "FIRST_SAME", "KEYED", "LOCAL", "MIN", "NONE",
    "ONE", "ONE_RANDOM", "PINNED", "REFUSED", "SPLIT", "SUM", "SUM_PAIRS", "TABLE", "UNION", "Spec", "Table", "blocks",
    "check_arity", "keys", "unknown_command", "unknown_subcommand", "wrong_arity",
)  # fmt: skip

MOST_COMMANDS = 2000
"""Commands and subcommands in the table, at most, whatever a cluster says it has."""

SHOWN = 128
"""Bytes of a client's own words that an error repeats."""

DATA = Path(__file__).with_name("commands.json")


class Table:
    """All commands. `specs` holds them by `Spec.index`: it grows at its end only."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.specs: list[Spec] = []
        self._usual: dict[bytes, Spec] = {}
        self._commands: dict[bytes, Spec] = {}
        for entry in entries:
            self._add(entry)

    def get(self, name: bytes) -> Spec | None:
        """The command of that name, in any case; never a subcommand."""
        return self._commands.get(name.upper())

    def resolve(self, args: list[bytes]) -> Spec | None:
        """The command or subcommand that the arguments call; a container alone when nothing follows; None if unknown."""
        spec = self._commands.get(args[0].upper())
        if spec is None or spec.subcommands is None or len(args) < 2:
            return spec
        return spec.subcommands.get(args[1].upper())

    def usual(self, spec: Spec) -> Spec:
        """The row by which a session sends a call that has all its keys. Modules declare every command to take any number of
        arguments, from none on: theirs have another row, with fixed places, for calls that are long enough."""
        return self._usual.get(spec.name, spec)

    def learn(self, entries: Iterable[Entry]) -> list[Spec]:
        """Take over what a cluster says of its commands, and return the rows that are new or changed.

        What the table does not know is added at its end, in the order given. What stands here stays as it is, but that a command
        may take more arguments, and a container gain subcommands. What is too much is passed over: a cluster can't make the
        table useless.
        """
        found = (self._add(entry) or self._widen(entry) for entry in entries)
        return [spec for spec in found if spec is not None]

    def _add(self, entry: Entry) -> Spec | None:
        """The new row; None when there is one of that name, no room, or when its container is no container."""
        names = self._commands
        own = entry.name.encode()
        container, bar, own_part = own.partition(b"|")
        if bar:
            parent = self._commands.get(container)
            if parent is None or parent.subcommands is None:
                return None
            names, own = parent.subcommands, own_part
        if own in names or len(self.specs) >= MOST_COMMANDS:
            return None
        spec = _spec(entry)
        spec.index = len(self.specs)
        self.specs.append(spec)
        names[own] = spec
        if spec.finder is not None and spec.kind == KEYED and entry.arity < 0 and _has_fixed_places(entry):
            self._usual[spec.name] = _long_enough(spec, *entry.keys)
        return spec

    def _widen(self, entry: Entry) -> Spec | None:
        """The row of a command that takes more arguments there than here, as an option was added to it in a newer server.

        Never fewer: places of keys are read unchecked. And only of what is forwarded as it is: who answers, splits or pins a
        command relies on its arity.
        """
        spec = self.resolve(entry.name.encode().split(b"|"))
        if spec is None or spec.name != entry.name.encode() or spec.kind != KEYED or not 0 < -entry.arity <= spec.arity:
            return None
        spec.arity = -spec.arity
        return spec


def _spec(entry: Entry) -> Spec:
    policy = decide(entry)
    spec = Spec(entry.name.encode(), entry.arity, policy.kind)
    spec.handler = policy.handler
    spec.aggregate = policy.aggregate
    spec.readonly = "readonly" in entry.flags or entry.name in REPEATABLE
    spec.write = "write" in entry.flags
    spec.blocking = "blocking" in entry.flags
    if policy.kind == REFUSED:
        shown = spec.name.replace(b"|", b" ")
        spec.reason = b"ERR '%s' is not available through Puerta: %s" % (shown, policy.note.encode())
    if entry.container:
        spec.subcommands = {}
    _place_keys(spec, entry)
    return spec


def _has_fixed_places(entry: Entry) -> bool:
    return (
        bool(entry.keys[0])
        and not entry.specs
        and not entry.flags & {"movablekeys"}
        and entry.name not in finders.FINDERS
    )


def _place_keys(spec: Spec, entry: Entry) -> None:
    """Fixed places are only called so when every argument list of a right length reaches them: they are read unchecked."""
    finder = finders.FINDERS.get(entry.name)
    first, last, step = entry.keys
    if finder is not None or entry.specs:
        spec.finder = finder or finders.from_specs(entry.specs)
    elif first and first < abs(entry.arity) and last < abs(entry.arity):
        spec.first, spec.last, spec.step = first, last, step
    elif first:
        spec.finder = lambda args: finders.positions(first, last, step, len(args))


def _long_enough(spec: Spec, first: int, last: int, step: int) -> Spec:
    """The same command, of as many arguments as reach its first key and its last."""
    least = max(first, last, -spec.arity - 1) if last > 0 else max(first - last - 1, -spec.arity - 1)
    usual = Spec(spec.name, -least - 1, KEYED)
    usual.index, usual.readonly, usual.write = spec.index, spec.readonly, spec.write
    usual.first, usual.last, usual.step = first, last, step
    return usual


def keys(spec: Spec, args: list[bytes]) -> list[int]:
    """The argv indices of all keys. Raises ValueError with the server's error text where the arguments allow none."""
    if spec.finder is not None:
        return list(spec.finder(args))
    return finders.positions(spec.first, spec.last, spec.step, len(args))


def check_arity(spec: Spec, argc: int) -> bool:
    """May the command have that many arguments, its name included?"""
    return argc == spec.arity or argc >= -spec.arity > 0


# -- errors, without "-" and line end


def unknown_command(args: list[bytes]) -> bytes:
    shown = b""
    for argument in args[1:]:
        if len(shown) >= SHOWN:
            break
        shown += b"'%s' " % _text(argument)[: SHOWN - len(shown)]
    return _line(b"ERR unknown command '%s', with args beginning with: %s" % (_text(args[0])[:SHOWN], shown))


def unknown_subcommand(args: list[bytes]) -> bytes:
    return _line(b"ERR unknown subcommand '%s'. Try %s HELP." % (_text(args[1])[:SHOWN], args[0].upper()))


def wrong_arity(spec: Spec) -> bytes:
    """An EXEC that can't be executed aborts its transaction, even by that (multi.c, execCommandAbort)."""
    text = b"wrong number of arguments for '%s' command" % spec.name.lower()
    return (b"EXECABORT Transaction discarded because of: " if spec.name == b"EXEC" else b"ERR ") + text


def _text(argument: bytes) -> bytes:
    """As C prints it: up to the first NUL."""
    return argument.partition(b"\0")[0]


def _line(text: bytes) -> bytes:
    return text.replace(b"\r", b" ").replace(b"\n", b" ")


def entries() -> list[Entry]:
    """The rows of the data file, by name; a container stands before its subcommands."""
    data = json.loads(DATA.read_text())
    found = [Entry.load(name, row) for name, row in data.items()]
    return sorted(found, key=lambda entry: entry.name.split("|"))


def extended(learned: Iterable[Entry]) -> Table:
    """A table of the built-in commands and those of one cluster. The same list gives the same numbers, wherever."""
    table = Table(entries())
    table.learn(learned)
    return table


TABLE = Table(entries())
"""The built-in commands. Nothing is ever learned here: what a cluster has besides is for that cluster's own table."""
