"""From YAML nodes to a tree of values, by the schema alone: this file knows no option.

The tree keeps where every value came from, and leaves out what was wrong, so that one walk and the rules after it find
everything there is to find. `build` turns a tree without problems into the schema's classes.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from puerta.config.expand import Expander
from puerta.config.kinds import SECRET, Kind, choice, closest
from puerta.config.source import MAX_NODES, Place, Problems, SourceError, place_of, plain

MODE = "mode"
"""The key that picks a mapping's class where the schema gives several."""

_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "value", "merge")
)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_Pairs = dict[str, tuple[Place, yaml.Node]]


@dataclass(slots=True)
class Value:
    """A scalar of the file, parsed, or the default of a key that is not in it (then `place` is its mapping's)."""

    value: Any
    path: str
    place: Place


@dataclass(slots=True)
class Section:
    """A mapping of the file: each key's Value, Section, or list of either. Keys with a problem are not there."""

    type: Any
    path: str
    place: Place
    values: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """The plain value of a scalar key; None where it is none or had a problem."""
        found = self.values.get(key)
        return found.value if isinstance(found, Value) else None

    def place_of(self, key: str) -> Place:
        found = self.values.get(key)
        return self.place if found is None else found[0].place if isinstance(found, list) else found.place

    def items(self, key: str) -> list[Any]:
        """The elements of a list key: Values or Sections."""
        found = self.values.get(key)
        return found if isinstance(found, list) else []


def build(section: Section) -> Any:
    """The schema's object for a tree without problems."""

    def plain_value(found: Any) -> Any:
        if isinstance(found, list):
            return tuple(plain_value(item) for item in found)
        return build(found) if isinstance(found, Section) else found.value

    return section.type(**{key: plain_value(found) for key, found in section.values.items()})


class Walker:
    """Walks one file's nodes. Every method takes the path of its node and returns None after it noted a problem."""

    def __init__(self, problems: Problems, expander: Expander) -> None:
        self.problems = problems
        self.expander = expander
        self.nodes = 0

    # -- mappings ------------------------------------------------------------------------------------------------------

    def section(self, node: yaml.Node, classes: Any, path: str) -> Section | None:
        """A mapping of the class `classes`, or of the one among them that its `mode` names."""
        place = self._visit(node)
        if not isinstance(node, yaml.MappingNode):
            allowed = {} if isinstance(classes, dict) else _fields(classes)
            hint = f"write a mapping with {', '.join(allowed)}" if allowed else "write a mapping"
            self.problems.add(place, path, f"{_noun(node)} where a mapping belongs ({hint})")
            return None
        pairs = self._pairs(node, path)
        section = Section(classes, path, place)
        if isinstance(classes, dict):
            self._pick(section, pairs)
        self._fill(section, pairs, classes if isinstance(classes, dict) else {})
        return section

    def _pairs(self, node: yaml.MappingNode, path: str) -> _Pairs:
        pairs: _Pairs = {}
        for key, value in node.value:
            place = self._visit(key)
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            where = _join(path, plain(name, 64) if name is not None else "?")
            if name is None:
                self.problems.add(place, where, f"{_noun(key)} where a key belongs (write a plain word)")
            elif name == "<<" and key.style is None:
                self.problems.add(place, where, "merge keys are not supported (repeat the keys, or alias one value)")
            elif name in pairs:
                self.problems.add(place, where, f"is there twice, first on line {pairs[name][0][0]} (remove one)")
            else:
                pairs[name] = (place, value)
        return pairs

    def _pick(self, section: Section, pairs: _Pairs) -> None:
        """Set the section's class by its mode, or else by most of its keys, so that the rest can still be checked."""
        classes, path = section.type, _join(section.path, MODE)
        mode = None
        if MODE in pairs:
            mode = self.scalar(pairs[MODE][1], choice(*classes), path, dataclasses.MISSING)
        else:
            self.problems.add(section.place, path, f"is missing (write one of {', '.join(classes)})")
        if mode is not None:
            section.type = classes[mode.value]
            section.values[MODE] = mode
        else:
            section.type = max(classes.values(), key=lambda cls: len(pairs.keys() & _fields(cls).keys()))

    def _fill(self, section: Section, pairs: _Pairs, classes: Mapping[str, Any]) -> None:
        fields = _fields(section.type)
        for name, (place, node) in pairs.items():
            if name not in fields:
                self._unknown(place, name, section, classes)
            elif not (classes and name == MODE):
                self._keep(section, name, self._value(fields[name], node, _join(section.path, name)))
        for name, option in fields.items():
            if name not in pairs and not (classes and name == MODE):
                self._keep(section, name, self._absent(option, section.place, _join(section.path, name)))

    def _keep(self, section: Section, name: str, found: Any) -> None:
        if found is not None:
            section.values[name] = found

    def _unknown(self, place: Place, name: str, section: Section, classes: Mapping[str, Any]) -> None:
        fields = _fields(section.type)
        near = closest(name, fields)
        modes = [mode for mode, cls in classes.items() if name in _fields(cls)]
        if modes:
            hint = f"not in this mode; it belongs to {MODE} {', '.join(modes)}"
        else:
            hint = f"did you mean {near}?" if near else f"allowed: {', '.join(fields)}"
        self.problems.add(place, _join(section.path, plain(name, 64)), f"unknown key ({hint})")

    def _absent(self, option: Any, place: Place, path: str) -> Any:
        if _required(option):
            help = option.metadata["help"].rstrip(".")
            self.problems.add(place, path, f"is missing (add it: {help[0].lower()}{help[1:]})")
            return None
        if option.default is dataclasses.MISSING:
            section = Section(option.metadata["section"], path, place)
            self._fill(section, {}, {})
            return section
        return Value(option.default, path, place)

    # -- values --------------------------------------------------------------------------------------------------------

    def _value(self, option: Any, node: yaml.Node, path: str) -> Any:
        metadata = option.metadata
        if "section" not in metadata:
            many = self._many if metadata["many"] else self.scalar
            return many(node, metadata["kind"], path, option.default)
        if metadata["many"]:
            return self._sections(node, metadata["section"], path)
        if _is_null(node):  # a key whose own keys are all commented out
            return self._absent(option, self._visit(node), path)
        return self.section(node, metadata["section"], path)

    def _sections(self, node: yaml.Node, classes: Any, path: str) -> list[Section] | None:
        place = self._visit(node)
        if not isinstance(node, yaml.SequenceNode):
            what = "a value is needed" if _is_null(node) else f"{_noun(node)} where a list belongs"
            self.problems.add(place, path, f"{what} (put a - before each mapping)")
            return None
        if not node.value:
            self.problems.add(place, path, "the list is empty (write at least one)")
            return None
        sections = [self.section(item, classes, f"{path}[{index}]") for index, item in enumerate(node.value)]
        return [section for section in sections if section is not None] or None

    def _many(self, node: yaml.Node, kind: Kind, path: str, default: Any) -> list[Value] | Value | None:
        """A list of scalars, or one alone. An empty list is the default where that is None."""
        if not isinstance(node, yaml.SequenceNode):
            one = self.scalar(node, kind, path, default)
            return one if one is None or one.value is None else [one]
        place = self._visit(node)
        if not node.value and default is not None:
            self.problems.add(place, path, f"the list is empty (write at least one {kind.name})")
            return None
        if not node.value:
            return Value(default, path, place)
        values = [
            self.scalar(item, kind, f"{path}[{index}]", dataclasses.MISSING) for index, item in enumerate(node.value)
        ]
        return [value for value in values if value is not None] or None

    def scalar(self, node: yaml.Node, kind: Kind, path: str, default: Any) -> Value | None:
        """One value of `kind`. Nothing, or nothing after expansion, is `default` where that is None.

        A secret that expands to nothing is a problem all the same: it would switch a password off unnoticed.
        """
        place = self._visit(node)
        try:
            if not isinstance(node, yaml.ScalarNode):
                raise ValueError(f"{_noun(node)} where one value belongs (write one {kind.name})")
            if node.tag not in _TAGS:
                raise ValueError("tags are not supported (quote a value that begins with !)")
            text = "" if _is_null(node) else self.expander.expand(node.value)
            if text or (kind is SECRET and not _is_null(node)):
                return Value(kind.parse(text), path, place)
            if default is not None:
                raise ValueError(f"a value is needed (write one {kind.name})")
            return Value(None, path, place)
        except ValueError as error:
            self.problems.add(place, path, str(error))
            return None

    def _visit(self, node: yaml.Node) -> Place:
        place = place_of(node.start_mark)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise SourceError(place, f"aliases repeat more than {MAX_NODES} keys and values (use fewer)")
        return place


def _fields(cls: Any) -> dict[str, Any]:
    return {option.name: option for option in dataclasses.fields(cls)}


def _required(option: Any) -> bool:
    return option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _NULL


def _noun(node: yaml.Node) -> str:
    return {"mapping": "a mapping", "sequence": "a list"}.get(getattr(node, "id", ""), "one value")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
