"""The configuration reference, made from the schema: `python -m puerta.config.reference > docs/configuration.md`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from puerta.config.schema import Config

INTRODUCTION = """\
# Configuration

Made from `puerta/config/schema.py` by `python -m puerta.config.reference`; change it there. A working example with
comments is [etc/puerta.yaml](../etc/puerta.yaml).

`puerta-master -t -c FILE` checks a file and prints every problem in it, each as
`FILE:LINE:COL: path.to.key: what is wrong (what to do)`. `--print-config` prints the effective configuration: every key
with its value, secrets as `***`.

**Reload**: HUP takes a change of the keys marked *yes*. Every seat is handed to a new worker, and the connections of the old
one drain: idle ones of MongoDB and Redis clients are closed little by little, what is left after `stop_timeout` is closed then. A
reload that changes any other key is refused as a whole and names it: put the old value back, or restart.

## Values

| Kind | Written |
|---|---|
| address | `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH` (a path of 107 bytes at most) |
| duration | a number and a unit: `250ms`, `5s`, `30m`, `24h`, `7d` |
| name | letters, digits, `.`, `-` and `_`; begins with a letter or a digit; 64 at most |
| network | `10.0.0.0/8`, `fd00::/8`, or a single address |
| secret | text that is never shown: not in errors, logs, `--print-config` or the admin interface |
| size | a number and a unit: `512B`, `64KiB`, `16MiB`, `1GiB` |
| a default of `~` | off; such a key may be left without a value |

Where a kind says "or a list", one value may stand without its brackets. A key that holds a mapping may be left empty:
its keys have their defaults. Anchors and aliases work; merge keys (`<<`) and tags (`!x`) are refused. A file may have
1 MiB, 100,000 keys and values, and 16 levels at most.

## Expansion

Done in values, after the file was parsed, so that what comes in can't change the structure. Within `{}` or `[]` YAML
wants quotes around it: `{url: "${URL}"}`.

| Written | Becomes |
|---|---|
| `${VAR}` | the environment variable; not set is an error |
| `${VAR:-default}` | the variable, or `default` where it is not set or empty |
| `${VAR:?message}` | the variable; not set or empty is an error with `message` |
| `${file:/run/secrets/x}` | the text of a file without its last line break, 64 KiB at most |
| `$$` | a dollar; one before anything but `{` or `$` needs no doubling |

A value that expands to nothing counts as `~`, but never for a secret: there it is an error.

`PORT` in the environment, when set, replaces the port of the first route's first `listen` address.
"""


def reference() -> str:
    """The whole document, in Markdown."""
    return INTRODUCTION + "".join(_mapping(Config, "", "Top level", ""))


def _mapping(cls: Any, path: str, heading: str, help: str, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    """A table of the class's options, then one part for each mapping in it; `skip` names keys told elsewhere."""
    fields = [field for field in dataclasses.fields(cls) if field.name not in skip]
    options = [field for field in fields if "section" not in field.metadata]
    yield f"\n## {heading}\n\n{help}\n" if help else f"\n## {heading}\n"
    if options:
        yield "\n| Key | Kind | Default | Reload | Meaning |\n|---|---|---|---|---|\n"
        yield from (_row(option) for option in options)
    for field in fields:
        if "section" in field.metadata:
            yield from _section(field, f"{path}.{field.name}" if path else field.name, heading)


def _section(field: Any, path: str, heading: str) -> Iterator[str]:
    many, classes = field.metadata["many"], field.metadata["section"]
    path += "[]" if many else ""
    help = field.metadata["help"] + (" A list of mappings, at least one." if many else "")
    if not isinstance(classes, dict):
        _, comma, mode = heading.partition(", mode ")
        yield from _mapping(classes, path, path + comma + mode, help)
        return
    yield f"\n## {path}\n\n{help} `mode` says which keys a mapping has:\n\n"
    yield from (f"- `{mode}`: {cls.__doc__}\n" for mode, cls in classes.items())
    for mode in sorted(classes, key=lambda mode: len(classes[mode].__mro__)):
        yield from _mode(mode, classes, path)


def _mode(mode: str, classes: dict[str, Any], path: str) -> Iterator[str]:
    """The keys of one of several classes: those that it has beyond another one's, or those of all built on it."""
    cls = classes[mode]
    base = next((other for other in classes if classes[other] in cls.__mro__[1:]), None)
    if base:
        skip = frozenset(option.name for option in dataclasses.fields(classes[base]))
        yield from _mapping(cls, path, f"{path}, mode {mode}", f"The keys of mode {base}, and:", skip)
    else:
        modes = " or ".join(other for other in classes if issubclass(classes[other], cls))
        yield from _mapping(cls, path, f"{path}, mode {modes}", "")


def _row(option: Any) -> str:
    metadata = option.metadata
    kind = metadata["kind"].name + (", or a list" if metadata["many"] else "")
    if option.default is dataclasses.MISSING:
        default = "required"
    else:
        text = metadata["kind"].none if option.default is None else metadata["kind"].show(option.default)
        default = f"`{text}`"
    reload = "yes" if metadata["reload"] else "restart"
    cells = (f"`{option.name}`", kind, default, reload, metadata["help"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    print(reference(), end="")
