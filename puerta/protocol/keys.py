"""Where the keys of a command stand, when that depends on its other arguments.

A server describes most of these commands by key specifications
(https://redis.io/docs/latest/develop/reference/key-specs/): `from_specs` makes a finder of them. A few can't be described so,
or not well enough; they are taken apart as the server does (db.c). A finder gives argv indices. On arguments the server will
not accept it finds no key, so that any node may answer the error; for scripts and functions it raises the server's error.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from puerta.protocol.spec import Finder

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_LEADING_INTEGER = re.compile(rb"[ \t\n\v\f\r]*[+-]?[0-9]{1,18}")


class KeySpec(NamedTuple):
    """Where to begin: at index `start`, or after `keyword` searched from there (backwards when negative). What to `find`
    from there: a "range" (last key, step, limit), or a "keynum" (place of the number of keys, first key, step)."""

    keyword: str
    start: int
    find: str
    one: int
    two: int
    three: int


def positions(first: int, last: int, step: int, argc: int) -> list[int]:
    """The indices of keys at fixed places; a negative `last` counts from the end."""
    if first <= 0:
        return []
    return list(range(first, min(last if last > 0 else argc + last, argc - 1) + 1, step))


def count(text: bytes) -> int:
    """The number a server sees while it looks for keys (C's atoi), 0 if none."""
    found = _LEADING_INTEGER.match(text)
    return int(found[0]) if found else 0


def from_specs(specs: Iterable[KeySpec]) -> Finder:
    """One finder for all specifications of a command; each index once, in the order found."""

    def find(args: list[bytes]) -> list[int]:
        found: dict[int, None] = {}
        for spec in specs:
            keys = _apply(spec, args)
            if keys is None:
                return []
            found.update(dict.fromkeys(keys))
        return list(found)

    return find


def _apply(spec: KeySpec, args: list[bytes]) -> list[int] | None:
    """The keys of one specification; None when the arguments are not as they must be."""
    first = _keyword(spec, args) if spec.keyword else spec.start
    if not first:
        return []
    argc = len(args)
    if spec.find == "keynum":
        return _counted(args, first + spec.one, first + spec.two, spec.three)
    base = first
    if spec.one < 0:
        base = first + (argc - first) // spec.three if spec.three > 1 else argc
    last = base + spec.one
    return list(range(first, last + 1, spec.two)) if last < argc else None


def _keyword(spec: KeySpec, args: list[bytes]) -> int:
    """The index after the keyword; 0 if it is not there."""
    argc = len(args)
    word = spec.keyword.upper().encode()
    order = range(spec.start, argc - 1) if spec.start > 0 else range(argc + spec.start, 0, -1)
    return next((index + 1 for index in order if index < argc - 1 and args[index].upper() == word), 0)


def _counted(args: list[bytes], at: int, first: int, step: int) -> list[int] | None:
    if at >= len(args):
        return None
    number = count(args[at])
    if number < 1 or first + (number - 1) * step >= len(args):
        return None
    return list(range(first, first + number * step, step))


# -- commands the specifications don't describe


def script(args: list[bytes]) -> list[int]:
    """EVAL and its kin."""
    return _numbered(args, b"ERR value is not an integer or out of range")


def function(args: list[bytes]) -> list[int]:
    """FCALL and FCALL_RO."""
    return _numbered(args, b"ERR Bad number of keys provided")


def _numbered(args: list[bytes], junk: bytes) -> list[int]:
    text = args[2]
    if not _INTEGER.fullmatch(text) or not -(1 << 63) <= int(text) < 1 << 63:
        raise ValueError(junk)
    number = int(text)
    if number > len(args) - 3:
        raise ValueError(b"ERR Number of keys can't be greater than number of args")
    if number < 0:
        raise ValueError(b"ERR Number of keys can't be negative")
    return list(range(3, 3 + number))


def sort(args: list[bytes]) -> list[int]:
    """SORT: the key, and that of the last STORE. What follows LIMIT, GET and BY is no option."""
    skip = {b"LIMIT": 2, b"GET": 1, b"BY": 1}
    target = 0
    at = 2
    while at < len(args):
        word = args[at].upper()
        if word == b"STORE" and at + 1 < len(args):
            target = at + 1
        at += 1 + skip.get(word, 0)
    return [1, target] if target else [1]


def sort_readonly(args: list[bytes]) -> list[int]:
    return [1]


def georadius(args: list[bytes]) -> list[int]:
    """GEORADIUS and GEORADIUSBYMEMBER: the key, and that of the last STORE or STOREDIST."""
    target = 0
    at = 5
    while at + 1 < len(args):
        if args[at].upper() in (b"STORE", b"STOREDIST"):
            at += 1
            target = at
        at += 1
    return [1, target] if target else [1]


def streams(args: list[bytes]) -> list[int]:
    """XREAD and XREADGROUP: the first half of what follows STREAMS. A group or consumer may be called "streams" too."""
    at, _ = _stream_options(args)
    keys, odd = divmod(len(args) - at, 2)
    return [] if odd or not at else list(range(at, at + keys))


def blocks(args: list[bytes]) -> bool:
    """Does an XREAD or XREADGROUP say BLOCK?"""
    return _stream_options(args)[1]


def _stream_options(args: list[bytes]) -> tuple[int, bool]:
    """The index after STREAMS (0 when the server would not understand the options), and whether BLOCK is among them."""
    skip = {b"BLOCK": 1, b"COUNT": 1, b"GROUP": 2, b"NOACK": 0}
    blocking = False
    at = 1
    while at < len(args):
        word = args[at].upper()
        if word == b"STREAMS":
            return at + 1, blocking
        if word not in skip:
            break
        blocking = blocking or word == b"BLOCK"
        at += 1 + skip[word]
    return 0, blocking


def migrate(args: list[bytes]) -> list[int]:
    """MIGRATE: the third argument, or with an empty one all after KEYS."""
    skip = {b"AUTH": 1, b"AUTH2": 2}
    at = 6
    while at + 1 < len(args):
        word = args[at].upper()
        if word == b"KEYS":
            return [] if args[3] else list(range(at + 1, len(args)))
        at += 1 + skip.get(word, 0)
    return [3]


FINDERS: dict[str, Finder] = {
    "EVAL": script,
    "EVALSHA": script,
    "EVALSHA_RO": script,
    "EVAL_RO": script,
    "FCALL": function,
    "FCALL_RO": function,
    "GEORADIUS": georadius,
    "GEORADIUSBYMEMBER": georadius,
    "MIGRATE": migrate,
    "SORT": sort,
    "SORT_RO": sort_readonly,
    "XREAD": streams,
    "XREADGROUP": streams,
}
