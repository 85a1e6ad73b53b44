"""From a file to YAML nodes that know their line and column, under limits that no file can exceed.

Nodes are composed, never constructed: a tag can't make an object. The pure Python parser is used on purpose: its
messages are the same on every machine, and its nesting is bounded before Python's recursion is.
"""

import os
import stat

import yaml

from puerta.config.kinds import quote
from puerta.errors import ConfigError

MAX_BYTES = 1 << 20
"""Size of a config file."""

MAX_DEPTH = 16
"""Mappings and lists within each other."""

MAX_NODES = 100_000
"""Keys and values, those that aliases repeat included."""

Place = tuple[int, int]
"""Line and column, both from 1."""


class SourceError(Exception):
    """The text can't become nodes: `place` and what is wrong."""

    def __init__(self, place: Place, what: str) -> None:
        super().__init__(what)
        self.place = place
        self.what = what


class Problems:
    """What is wrong with one file, gathered until all of it was read."""

    def __init__(self, file: str) -> None:
        self.file = plain(file)
        self.found: list[tuple[Place, str]] = []

    def add(self, place: Place, path: str, what: str) -> None:
        line, column = place
        self.found.append((place, f"{self.file}:{line}:{column}: {path}: {what}"))

    def check(self) -> None:
        """Raise ConfigError with every problem, in the order of the file, if there is any."""
        if self.found:
            raise ConfigError([text for _, text in sorted(self.found, key=lambda problem: problem[0])])


def plain(text: str, limit: int = 256) -> str:
    """`text` for the front of a message: as it is, or escaped where it could forge a line, and bounded."""
    return text[:limit] if text.isprintable() else repr(text[:limit])[1:-1]


def place_of(mark: yaml.Mark | None) -> Place:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def read_bytes(path: str, limit: int) -> bytes:
    """The regular file at `path`, `limit` bytes at most. Raises ValueError("what is wrong (what to do)").

    Pipes and devices are refused: they would block, never end, or be empty at the next reload.
    """
    try:
        # O_NONBLOCK: opening a pipe without a writer would wait for one
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("is not a regular file (give the path of one)")
            data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror} (check the path and its permissions)") from None
    if len(data) > limit:
        raise ValueError(f"is larger than {limit >> 10} KiB (make it smaller)")
    return data


def decode(data: bytes) -> str:
    """`data` as UTF-8 with or without a byte order mark. Raises SourceError where it isn't text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        raise SourceError(_end_of(before), "is not UTF-8 text (save it as UTF-8)") from None


def _end_of(text: str) -> Place:
    return text.count("\n") + 1, len(text) - text.rfind("\n")


class _Loader(yaml.SafeLoader):
    """PyYAML's composer, counting."""

    depth = 0
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        place = place_of(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self.count += 1
        if self.count > MAX_NODES:
            raise SourceError(place, f"more than {MAX_NODES} keys and values (make the file smaller)")
        if self.depth > MAX_DEPTH:
            raise SourceError(place, f"nested more than {MAX_DEPTH} levels deep (no key needs that)")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def compose(text: str) -> yaml.MappingNode:
    """The file's mapping. Raises SourceError with the place of the first thing that is not YAML, or not a mapping."""
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise SourceError(place_of(error.problem_mark or error.context_mark), _syntax(error)) from None
    except yaml.reader.ReaderError as error:
        what = f"is not text: it holds the control character {quote(chr(error.character))} (remove it)"
        raise SourceError(_end_of(text[: error.position]), what) from None
    if node is None:
        raise SourceError((1, 1), "is empty (name at least one route; etc/puerta.yaml is an example)")
    if not isinstance(node, yaml.MappingNode):
        raise SourceError(place_of(node.start_mark), "is not a mapping (write KEY: VALUE lines, as in etc/puerta.yaml)")
    return node


def _syntax(error: yaml.MarkedYAMLError) -> str:
    """The parser's words, but for those that would repeat a value: an unquoted secret may begin with * & or !."""
    problem = error.problem or "is not YAML"
    if problem.startswith("found undefined alias"):
        return "an alias without its anchor (quote a value that begins with *)"
    if problem.startswith("found duplicate anchor"):
        return "an anchor that is there twice (quote a value that begins with &)"
    if problem.startswith("found undefined tag"):
        return "a tag that nobody defined (quote a value that begins with !)"
    if "another document" in problem:
        return "a second document begins (keep one, remove ---)"
    if problem.endswith("but got '{'"):
        return f"{problem} (quote a value with ${{...}} that is within {{}} or [])"
    text = f"{error.context}: {problem}" if error.context else problem
    start = place_of(error.context_mark)
    if error.context_mark and error.problem_mark and start != place_of(error.problem_mark):
        text += f" (look from {start[0]}:{start[1]} on)"
    else:
        text += " (check the indentation, and quote special characters)"
    return text
