"""One row of the command table: what a session must know of a command to send it on its way.

A module of its own because it is compiled: the path of the usual command reads these attributes and nothing else. How a row
comes about is in `commands`, what Puerta decided for each command in `policy`.
"""

from collections.abc import Callable

import cython

KEYED, SPLIT, LOCAL, PINNED, REFUSED = range(5)
"""KEYED: forwarded as it is, to the node of its keys' one slot; with no key at run time, to any one master.
SPLIT: taken apart, by slot or to all masters, and the replies put together as `aggregate` says.
LOCAL: answered by Puerta itself. PINNED: wants, or may want, a connection of its own. REFUSED: answered with `reason`."""

NONE = 0
ARRAY_BY_POSITION, ALL_OK, SUM, CONCAT, UNION, FIRST_SAME, AND_ARRAY, MIN = range(1, 9)
ONE_RANDOM, CURSOR, SUM_PAIRS, ONE, ANY_OK = range(9, 14)
"""How the replies of a SPLIT command become one; except with ANY_OK the first error is the answer.
ARRAY_BY_POSITION: elements back to where their keys stood. ALL_OK: the first, all being alike. SUM, MIN: of integers.
CONCAT: one list of all. UNION: the same, each element once. FIRST_SAME: the first, all being identical.
AND_ARRAY: 1 where every node says 1. ONE_RANDOM: one that is not nil. CURSOR: node after node. SUM_PAIRS: name, sum …
ONE: a single node suffices, any. ANY_OK: the first that is no error, else the first error."""

Finder = Callable[[list[bytes]], list[int]]


class Spec:
    """A command or subcommand.

    `name` is upper case, a subcommand's `b"CONFIG|GET"`; `index` its place in the table, which never changes while the
    process lives; `arity` the server's meaning: the number of arguments with the name, or at least its negative.
    `first`, `last` and `step` say where the keys are (a negative `last` counts from the end, -1 being the last argument) when
    that does not depend on the other arguments; `first` is 0 otherwise. `finder` then gives the argv indices of all keys, or
    raises ValueError with the error text; it is None for a command without keys.
    `handler` names the function of a session that deals with it, or is b"". `reason` is the error of a REFUSED command,
    without "-". `subcommands` maps upper-case names, and is None for a command that is no container.
    """

    if not cython.compiled:
        __slots__ = (
            "aggregate", "arity", "blocking", "finder", "first", "handler", "index", "kind", "last", "name", "readonly",
            "reason", "step", "subcommands", "write",
        )  # fmt: skip

    def __init__(self, name: bytes, arity: int, kind: int) -> None:
        self.name = name
        self.index = -1
        self.kind = kind
        self.arity = arity
        self.first = 0
        self.last = 0
        self.step = 0
        self.readonly = False
        self.write = False
        self.blocking = False
        self.finder: Finder | None = None
        self.handler = b""
        self.aggregate = NONE
        self.reason = b""
        self.subcommands: dict[bytes, Spec] | None = None

    def __repr__(self) -> str:
        return f"<Spec {self.name.decode('ascii', 'replace')}>"
