"""Expansion of `${...}` in a scalar, after YAML was parsed: what it brings in is text and can't become structure.

| written            | becomes                                                                          |
|--------------------|----------------------------------------------------------------------------------|
| `${VAR}`           | the environment variable; not set = error                                        |
| `${VAR:-default}`  | the variable, or `default` where it is not set or empty                          |
| `${VAR:?message}`  | the variable; not set or empty = error with `message`                            |
| `${file:/path}`    | the file's text without its last line break, 64 KiB at most                      |
| `$$`               | one dollar                                                                       |

The words and their meaning are those of the POSIX shell (2.6.2, parameter expansion). A dollar before anything else
is itself, so that regular expressions need no care. What came in is not expanded again, and expansions don't nest.
"""

import re
from collections.abc import Mapping

from puerta.config.kinds import quote
from puerta.config.source import plain, read_bytes

MAX_FILE = 64 << 10
"""Bytes of a `${file:...}`."""

MAX_TOTAL = 1 << 20
"""Characters that all expansions of one config may bring in together."""

_EXPANSION = re.compile(r"\$(?:\$|\{([^}]*)(\}?))")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,127})(?::([-?])(.*))?", re.DOTALL)


class Expander:
    """Expands the scalars of one config from `environ`, with one budget for all of them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.left = MAX_TOTAL

    def expand(self, text: str) -> str:
        """`text` with its expansions done. Raises ValueError("what is wrong (what to do)") that never shows `text`."""
        return _EXPANSION.sub(self._replace, text) if "$" in text else text

    def _replace(self, match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if not match[2]:
            raise ValueError("${ without its } (close it, or write $${ for a literal one)")
        if "${" in match[1]:
            raise ValueError("an expansion within another (they don't nest)")
        text = self._file(match[1][5:]) if match[1].startswith("file:/") else self._variable(match[1])
        self.left -= len(text)
        if self.left < 0:
            raise ValueError(f"all expansions together are longer than {MAX_TOTAL >> 10} KiB (use less)")
        return text

    def _variable(self, body: str) -> str:
        match = _VARIABLE.fullmatch(body)
        if match is None:
            raise ValueError("not an expansion (write ${VAR}, ${VAR:-default}, ${VAR:?message} or ${file:/path})")
        name, operator, word = match.groups()
        value = self.environ.get(name)
        if operator == "-" and not value:
            return str(word).replace("$$", "$")
        if operator == "?" and not value:
            raise ValueError(f"the variable {name} is not set or empty: {plain(word)} (set it)")
        if value is None:
            raise ValueError(f"the variable {name} is not set (set it, or write a default: ${{{name}:-...}})")
        return value

    def _file(self, path: str) -> str:
        try:
            text = read_bytes(path, MAX_FILE).decode()
        except UnicodeDecodeError:
            raise ValueError(f"the file {quote(path, 100)} is not UTF-8 text (save it as UTF-8)") from None
        except ValueError as error:
            raise ValueError(f"the file {quote(path, 100)} {error}") from None
        return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
