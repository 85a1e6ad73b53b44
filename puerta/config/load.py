"""The way in: a file and the environment become a Config, or one error that says everything that is wrong."""

from collections.abc import Mapping
from dataclasses import replace

from puerta.config import rules
from puerta.config.expand import Expander
from puerta.config.kinds import parse_port, quote
from puerta.config.schema import Config
from puerta.config.source import MAX_BYTES, Problems, SourceError, compose, decode, read_bytes
from puerta.config.walk import Section, Walker, build


def load(path: str, environ: Mapping[str, str]) -> Config:
    """The config in the file at `path`, with `environ` for its expansions and for PORT.

    Raises ConfigError with every problem, each `FILE:LINE:COL: path.to.key: what is wrong (what to do)`.
    """
    problems = Problems(path)
    tree = None
    try:
        tree = Walker(problems, Expander(environ)).section(compose(_text(path)), Config, "")
    except SourceError as error:
        problems.add(error.place, "file", error.what)
    if tree is not None:
        _take_port(tree, environ.get("PORT", ""), problems)
        rules.check(tree, problems)
    problems.check()
    assert tree is not None  # else there was a problem
    config: Config = build(tree)
    return config


def _text(path: str) -> str:
    try:
        data = read_bytes(path, MAX_BYTES)
    except ValueError as error:
        raise SourceError((1, 1), str(error)) from None
    return decode(data)


def _take_port(config: Section, port: str, problems: Problems) -> None:
    """PORT, when set, replaces the port of the first route's first address, as platforms with a Procfile expect."""
    routes = config.items("routes")
    listens = routes[0].items("listen") if routes and routes[0].path == "routes[0]" else []
    if not port or not listens or not listens[0].value.port:
        return
    try:
        listens[0].value = replace(listens[0].value, port=parse_port(port))
    except ValueError:
        what = f"PORT in the environment is {quote(port)}, not a port (set 1 to 65535, or unset it)"
        problems.add(listens[0].place, listens[0].path, what)
