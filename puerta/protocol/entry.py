"""What a server says of one of its commands: the part of a COMMAND reply that Puerta uses.

The same reader serves the data file's updater, with the replies of known servers, and the supervisor, with the reply of
whatever cluster it watches; so it takes nothing for granted. Workers get its results (`pack`), not the replies.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from puerta.protocol.keys import KeySpec

FLAGS = frozenset({"admin", "blocking", "dangerous", "movablekeys", "pubsub", "readonly", "write"})
"""What decides on a command; "dangerous" is an ACL category, the others are flags."""

POLICY_TIPS = ("request_policy:", "response_policy:")

MOST_POSITION = 255
"""Bound of an arity, and of every index, step and limit."""

MOST_SPECS = 16
MOST_TIPS = 4
MOST_TEXT = 64

_NAME = re.compile(r"[A-Z0-9_.:|@/-]{1,64}", re.ASCII)
_KEYWORD = re.compile(r"[A-Z0-9_.-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """`name` is upper case, `keys` first, last and step as COMMAND has them (0, 0, 0 for none), `specs` the key specifications of
    a command whose keys move, `tips` how the server says a cluster proxy should treat it."""

    name: str
    arity: int
    flags: frozenset[str] = frozenset()
    keys: tuple[int, int, int] = (0, 0, 0)
    specs: tuple[KeySpec, ...] = ()
    tips: tuple[str, ...] = ()
    container: bool = False

    def has_keys(self) -> bool:
        return bool(self.keys[0] or self.specs or "movablekeys" in self.flags)

    @classmethod
    def load(cls, name: str, row: dict[str, Any]) -> Self:
        """From the data file."""
        first, last, step = row.get("keys", (0, 0, 0))
        return cls(
            name,
            row["arity"],
            frozenset(row.get("flags", ())),
            (first, last, step),
            tuple(KeySpec(*spec) for spec in row.get("specs", ())),
            tuple(row.get("tips", ())),
            row.get("container", False),
        )

    def dump(self) -> dict[str, Any]:
        """For the data file; what is empty is left out."""
        row: dict[str, Any] = {
            "arity": self.arity,
            "flags": sorted(self.flags),
            "keys": list(self.keys) if self.keys[0] else [],
            "specs": [list(spec) for spec in self.specs],
            "tips": list(self.tips),
            "container": self.container,
        }
        return {key: value for key, value in row.items() if value}


def pack(entries: Iterable[Entry]) -> bytes:
    """Compact JSON, in the order given: how the supervisor tells the workers of a cluster's commands."""
    return json.dumps([[entry.name, entry.dump()] for entry in entries], separators=(",", ":")).encode()


def unpack(data: bytes) -> list[Entry]:
    """What `pack` was given. Raises ValueError, TypeError or KeyError for anything else."""
    return [Entry.load(name, row) for name, row in json.loads(data)]


def read(reply: Any) -> Iterator[Entry]:
    """The commands of a decoded COMMAND reply (RESP2 or RESP3), each container before its subcommands.

    Passes over what is malformed."""
    for raw in _list(reply):
        entry = _entry(raw)
        if entry is None or "|" in entry.name:
            continue
        yield entry
        for inner in _list(_list(raw)[9]) if entry.container else ():
            subcommand = _entry(inner)
            if subcommand is not None and subcommand.name.rpartition("|")[0] == entry.name:
                yield subcommand


def _entry(raw: Any) -> Entry | None:
    row = _list(raw)
    if len(row) < 6:
        return None
    name, arity = _text(row[0]).upper(), _number(row[1])
    keys = (_number(row[3]), _number(row[4]), _number(row[5]))
    if not _NAME.fullmatch(name) or not arity or None in keys:
        return None
    more = [_list(part) for part in row[6:10]] + [[]] * 4
    flags = {_text(flag) for flag in _list(row[2])} | {_text(category).removeprefix("@") for category in more[0]}
    first, last, step = (number or 0 for number in keys)
    if first <= 0 or last == 0 or step <= 0:
        first = last = step = 0
    specs = [_key_spec(spec) for spec in more[2][:MOST_SPECS]] if "movablekeys" in flags or not first else []
    return Entry(
        name,
        arity,
        frozenset(flags & FLAGS),
        (first, last, step),
        tuple(spec for spec in specs if spec is not None),
        tuple(sorted(tip for tip in map(_text, more[1]) if tip.startswith(POLICY_TIPS))[:MOST_TIPS]),
        bool(more[3]),
    )


def _key_spec(raw: Any) -> KeySpec | None:
    """None for a specification of a kind that says nothing ("unknown"), or that is out of bounds."""
    begin, find = (_map(_map(raw).get(part)) for part in ("begin_search", "find_keys"))
    begin_spec, find_spec = _map(begin.get("spec")), _map(find.get("spec"))
    keyword, start = "", _number(begin_spec.get("index"))
    if _text(begin.get("type")) == "keyword":
        keyword, start = _text(begin_spec.get("keyword")).upper(), _number(begin_spec.get("startfrom"))
        if not _KEYWORD.fullmatch(keyword):
            return None
    kind = _text(find.get("type"))
    names = {"range": ("lastkey", "keystep", "limit"), "keynum": ("keynumidx", "firstkey", "keystep")}.get(kind)
    if not names or not start or (start < 0 and not keyword):
        return None
    one, two, three = (_number(find_spec.get(name)) for name in names)
    if one is None or two is None or three is None or min(two, three) < 0:
        return None
    if (two if kind == "range" else three) < 1 or (kind == "keynum" and one < 0):
        return None
    return KeySpec(keyword, start, kind, one, two, three)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else []


def _map(value: Any) -> dict[str, Any]:
    """A RESP3 map, or the flat list that RESP2 has for it."""
    if isinstance(value, dict):
        return {_text(key): item for key, item in value.items()}
    flat = _list(value)
    return {_text(key): item for key, item in zip(flat[::2], flat[1::2], strict=False)}


def _text(value: Any) -> str:
    """Short text, or "" for anything else."""
    return value.decode("latin-1") if isinstance(value, bytes) and len(value) <= MOST_TEXT else ""


def _number(value: Any) -> int | None:
    return value if type(value) is int and abs(value) <= MOST_POSITION else None
