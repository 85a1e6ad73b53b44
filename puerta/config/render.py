"""The effective config as text, and what changed between two of them; secrets concealed in both."""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from puerta.config.kinds import redact_url
from puerta.config.schema import Config

__all__ = ["Difference", "differences", "redact_url", "render"]

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")
_RESOLVER = yaml.resolver.Resolver()

ABSENT = "absent"
"""The text of a route, a backend or a key that one side doesn't have."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One option that changed. `reloadable` is False where the running server keeps the old value until a restart."""

    path: str
    old: str
    new: str
    reloadable: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.old} -> {self.new}" + ("" if self.reloadable else " (needs a restart)")


def render(config: Config, redact: bool = True) -> str:
    """YAML of every key in the schema's order. Without `redact`, loading it gives an equal Config, secrets and all."""
    return "".join(f"{line}\n" for line in _lines(config, redact))


def _lines(section: Any, redact: bool) -> Iterator[str]:
    for option in dataclasses.fields(section):
        value = getattr(section, option.name)
        if "section" not in option.metadata or value is None:
            yield f"{option.name}: {_yaml(option, value, redact)}"
        elif not option.metadata["many"]:
            yield f"{option.name}:"
            yield from (f"  {line}" for line in _lines(value, redact))
        else:
            yield f"{option.name}:"
            for item in value:
                yield from (f"  {'  ' if index else '- '}{line}" for index, line in enumerate(_lines(item, redact)))


def _yaml(option: Any, value: Any, redact: bool) -> str:
    """What stands after the key: a scalar, or a list of them in one line."""
    if isinstance(value, tuple) and len(value) != 1:
        return f"[{', '.join(_scalar(option, item, redact) for item in value)}]"
    return _scalar(option, value[0] if isinstance(value, tuple) else value, redact)


def _scalar(option: Any, value: Any, redact: bool) -> str:
    """Plain where every YAML reader takes it for what it is, else in double quotes."""
    text = _text(option, value, redact).replace("$", "$$")
    if value is None or isinstance(value, int) or (_PLAIN.fullmatch(text) and _reads_as_text(text)):
        return text
    return yaml.safe_dump(text, default_style='"', width=math.inf).rstrip("\n")


def _reads_as_text(text: str) -> bool:
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return bool(tag == "tag:yaml.org,2002:str")


def _text(option: Any, value: Any, redact: bool = True) -> str:
    """A value as an operator writes it, without YAML's quotes."""
    kind = option.metadata.get("kind")
    if isinstance(value, tuple):
        return ", ".join(_text(option, item, redact) for item in value)
    if value is None:
        return kind.none if kind else "~"
    text = str(kind.show(value))
    return str(kind.conceal(text)) if redact and kind.conceal else text


def differences(old: Config, new: Config) -> list[Difference]:
    """What `new` changes: routes are matched by name, backends by address; their order doesn't count."""
    return list(_differ(old, new, ""))


def _differ(old: Any, new: Any, path: str) -> Iterator[Difference]:
    options = {option.name: option for side in (old, new) for option in dataclasses.fields(side)}
    for name, option in options.items():
        before, after = getattr(old, name, None), getattr(new, name, None)
        where = f"{path}.{name}" if path else name
        if before == after:
            continue
        if "section" not in option.metadata:
            texts = [_text(option, getattr(side, name)) if hasattr(side, name) else ABSENT for side in (old, new)]
            yield Difference(where, texts[0], texts[1], option.metadata["reload"])
        elif option.metadata["many"]:
            yield from _differ_lists(before, after, where)
        elif before is not None and after is not None:
            yield from _differ(before, after, where)
        else:
            yield Difference(where, _presence(before), _presence(after), True)


def _differ_lists(old: Any, new: Any, path: str) -> Iterator[Difference]:
    before, after = _by_id(old), _by_id(new)
    for id in before | after:
        where = f"{path}[{id}]"
        if id in before and id in after:
            yield from _differ(before[id], after[id], where)
        else:
            yield Difference(where, _presence(before.get(id)), _presence(after.get(id)), True)


def _presence(section: Any) -> str:
    return ABSENT if section is None else "present"


def _by_id(items: Any) -> dict[str, Any]:
    """Mappings of a list by the text of their first key: a route's name, a backend's address."""
    return {str(getattr(item, dataclasses.fields(item)[0].name)): item for item in items or ()}
