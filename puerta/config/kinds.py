"""The kinds of scalar a config file can hold: how each is read, shown, and concealed when it is a secret.

A parser takes the scalar's text and raises ValueError("what is wrong (what to do)"). Values are echoed through `quote`
only, which bounds and escapes them; what may hold a password (an address typed as a URL, a store URL, a secret) is
never echoed at all.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

Parse = Callable[[str], Any]

CONCEALED = "***"
"""What stands where a secret was."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of scalar: `show` is the inverse of `parse`, `none` the text of None, `conceal` hides the secret."""

    name: str
    parse: Parse
    show: Callable[[Any], str] = str
    none: str = "~"
    conceal: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to connect: a host and port, or the path of a Unix socket (then host is "" and port 0)."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def quote(text: str, limit: int = 40) -> str:
    """`text` as it may stand in an error: quoted, escaped, and cut after `limit` characters."""
    return repr(text) if len(text) <= limit else repr(text[:limit]) + "..."


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` is most likely a slip of, if any."""
    found = difflib.get_close_matches(word[:64].lower(), list(words), 1)
    return found[0] if found else None


# -- durations and sizes -----------------------------------------------------------------------------------------------

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_DURATION_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_duration(text: str) -> float:
    """Seconds, to the microsecond, from `250ms`, `5s`, `30m`, `24h` or `7d`; a bare `0` is allowed."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("not a duration (write a number and a unit: 250ms, 5s, 30m, 24h)")
    return round(float(match[1]) * _DURATION_UNITS[match[2]], 6)


def show_duration(seconds: float) -> str:
    """The text that `parse_duration` reads as the same number, in the largest unit that leaves no fraction."""
    for unit in ("d", "h", "m", "s"):
        value = seconds / _DURATION_UNITS[unit]
        if value >= 1 and value == int(value):
            return f"{int(value)}{unit}"
    return f"{round(seconds * 1000, 3):.3f}".rstrip("0").rstrip(".") + "ms" if seconds else "0s"


def parse_size(text: str) -> int:
    """Bytes, from `512B`, `64KiB`, `16MiB` or `1GiB`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a size (write a number and a unit: 512B, 64KiB, 16MiB)")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def show_size(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


# -- addresses ---------------------------------------------------------------------------------------------------------


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`."""
    if text.startswith("unix:"):
        return Address("", 0, _socket_path(text[5:]))
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("not an address (write HOST:PORT, [IPV6]:PORT or unix:PATH)")
    return Address(_host(host), parse_port(port))


def parse_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= 65535:
        raise ValueError("the port is not a number from 1 to 65535 (write HOST:PORT)")
    return int(text)


def _socket_path(path: str) -> str:
    if not path or path.startswith("//") or not path.isprintable():
        raise ValueError("the path of the Unix socket is missing or malformed (write unix:/run/puerta/mongo.sock)")
    if len(path.encode()) > 107:  # sun_path of unix(7) less its final NUL
        raise ValueError("the path of the Unix socket is too long (107 bytes at most)")
    return path


def _host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        if "%" in host:
            raise ValueError("an IPv6 zone is not supported (write an address that needs none)")
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError("not an IPv6 address between the brackets (write [::1]:PORT)") from None
    if host == "*":
        raise ValueError("* is not a host (write 0.0.0.0:PORT or [::]:PORT for every interface)")
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets (write [::1]:PORT)")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("not an IPv4 address (write four numbers from 0 to 255: 127.0.0.1:PORT)") from None
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", host):
        raise ValueError("not a host name or IP address (write letters, digits, dots and hyphens)")
    return host


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("not a network, or its host bits are set (write 10.0.0.0/8 or a single address)") from None


# -- store URLs --------------------------------------------------------------------------------------------------------


def parse_store_url(text: str) -> str:
    """`embedded`, or a URL as redis-py takes it: redis://, rediss:// or unix://, with or without a password."""
    if text == "embedded" or (text.isprintable() and " " not in text and _is_store_url(text)):
        return text
    raise ValueError("not a store (write embedded, redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH)")


def _is_store_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        if url.scheme == "unix":
            return len(url.path) > 1
        return url.scheme in ("redis", "rediss") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def redact_url(url: str) -> str:
    """`url` without its password, wherever it is: between : and @ (all before a lone @, too) or in the query."""

    def query(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}={CONCEALED}" if "pass" in unquote(match[2]).lower() else match[0]

    url = re.sub(r"([?&])([^=&#]*)=[^&#]*", query, url)
    scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    userinfo, at, place = rest.rpartition("@")
    if not at:
        return url
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}{slashes}{user if colon else ''}{colon}{CONCEALED}@{place}"


# -- words and texts ---------------------------------------------------------------------------------------------------


def parse_boolean(text: str) -> bool:
    if text in ("true", "false"):
        return text == "true"
    raise ValueError(f"{quote(text)} is neither true nor false (write true or false)")


def parse_regex(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error} (see the re module of Python)") from None
    if pattern.groups > 1:
        raise ValueError("more than one group (group 1 names the client process; make the others (?:…))")
    return pattern


def parse_name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        return text
    raise ValueError("not a name (write letters, digits, dot, hyphen and underscore; 64 at most)")


def parse_text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("empty, or not printable (write one line of text)")
    return text


def parse_workers(text: str) -> int | None:
    return None if text == "auto" else int(integer(1, 128).parse(text))


# -- kinds -------------------------------------------------------------------------------------------------------------


def integer(lowest: int, highest: int) -> Kind:
    def parse(text: str) -> int:
        if not re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text):
            raise ValueError(f"not a whole number (write {lowest} to {highest})")
        value = int(text)
        if not lowest <= value <= highest:
            raise ValueError(f"{value} is out of range (write {lowest} to {highest})")
        return value

    return Kind(f"integer {lowest} to {highest}", parse)


def _range(name: str, lowest: float, highest: float, parse_text: Parse, show: Callable[[Any], str]) -> Kind:
    bounds = f"{show(lowest)} to {show(highest)}"

    def parse(text: str) -> Any:
        value = parse_text(text)
        if not lowest <= value <= highest:
            raise ValueError(f"{text} is out of range (write {bounds})")
        return value

    return Kind(f"{name} {bounds}", parse, show)


def duration(lowest: float, highest: float) -> Kind:
    """Seconds, from `lowest` to `highest`."""
    return _range("duration", lowest, highest, parse_duration, show_duration)


def size(lowest: int, highest: int) -> Kind:
    """Bytes, from `lowest` to `highest`."""
    return _range("size", lowest, highest, parse_size, show_size)


def choice(*names: str) -> Kind:
    def parse(text: str) -> str:
        if text in names:
            return text
        near = closest(text, names)
        hint = f" (did you mean {near}?)" if near else " (write one of these)"
        raise ValueError(f"{quote(text)} is not one of {', '.join(names)}{hint}")

    return Kind(" | ".join(names), parse)


ADDRESS = Kind("address", parse_address)
BOOLEAN = Kind("true | false", parse_boolean, lambda value: "true" if value else "false")
NAME = Kind("name", parse_name)
NETWORK = Kind("network", parse_network)
PATH = Kind("path", parse_text)
REGEX = Kind("regular expression", parse_regex, lambda value: str(value.pattern))
STORE_URL = Kind("store URL", parse_store_url, conceal=redact_url)
TEXT = Kind("text", parse_text)
SECRET = Kind("secret", parse_text, conceal=lambda text: CONCEALED)
WORKERS = Kind("auto | integer 1 to 128", parse_workers, none="auto")
