"""A bad config is refused with all that is wrong in it, each at its line and column; a good one is read as written."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from puerta.config.kinds import ADDRESS, NAME, SECRET, Address, choice
from puerta.config.load import load
from puerta.config.schema import (
    ROUTES,
    Auth,
    Checks,
    ClientAuth,
    Config,
    MongodbRoute,
    RedisLimits,
    RedisRoute,
    TcpRoute,
    option,
    section,
)
from puerta.errors import ConfigError

ROUTE = """\
routes:
  - name: mongo
    mode: mongodb
    listen: 127.0.0.1:27017
    backends:
      - {address: 127.0.0.1:27101, weight: 1}
"""
"""The least that a config needs; what a test appends begins at line 7."""

SECOND = """\
  - name: other
    mode: tcp
    listen: 127.0.0.1:27018
    backends: [{address: 127.0.0.1:27102}]
"""
"""A second route in lines 7 to 10."""

REDIS = """\
routes:
  - name: cache
    mode: redis
    listen: 127.0.0.1:6380
    cluster: [10.0.0.1:7001, redis-2:7002]
"""
"""The least of a route of mode redis; what a test appends begins at line 6."""

Loader = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Loader:
    def read(text: str | bytes, environ: Mapping[str, str] | None = None) -> Config:
        path = tmp_path / "puerta.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load(str(path), environ or {})

    return read


def problems_of(read: Loader, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with the text, each as LINE:COL: path: message, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    found = [re.fullmatch(r".*/puerta\.yaml:(\d+:\d+: .+)", problem) for problem in caught.value.problems]
    assert all(found), caught.value.problems
    return [match[1] for match in found if match]


BAD: dict[str, tuple[str, str, str]] = {
    # name: (text, "LINE:COL: path: ", part of the message)
    "unknown key": (ROUTE + "workes: 2\n", "7:1: workes: ", "unknown key (did you mean workers?)"),
    "unknown key, none near": (ROUTE + "xyzzy: 2\n", "7:1: xyzzy: ", "(allowed: name, workers, pin_cpus"),
    "unknown key inside": (ROUTE + "log:\n  levl: info\n", "8:3: log.levl: ", "did you mean level?"),
    "unknown key in a list": (ROUTE.replace("weight", "wait"), "6:36: routes[0].backends[0].wait: ", "unknown key"),
    "key of another mode": (
        ROUTE + SECOND + "    expect: any\n",
        "11:5: routes[1].expect: ",
        "it belongs to mode mongodb",
    ),
    "duplicate key": (ROUTE + "name: a\nname: b\n", "8:1: name: ", "is there twice, first on line 7 (remove one)"),
    "duplicate key in flow": (ROUTE + "log: {level: info, level: debug}\n", "7:20: log.level: ", "is there twice"),
    "duplicate section": (ROUTE + "routes: []\n", "7:1: routes: ", "first on line 1"),
    "missing routes": ("# hello\nname: x\n", "2:1: routes: ", "is missing (add it: what Puerta listens on"),
    "missing backends": (
        "routes:\n  - name: a\n    mode: tcp\n    listen: a:1\n",
        "2:5: routes[0].backends: ",
        "is missing (add it",
    ),
    "missing address": (
        ROUTE.replace("address: 127.0.0.1:27101, ", ""),
        "6:9: routes[0].backends[0].address: ",
        "is missing",
    ),
    "missing mode": (
        ROUTE.replace("    mode: mongodb\n", ""),
        "2:5: routes[0].mode: ",
        "is missing (write one of mongodb, tcp",
    ),
    "unknown mode": (
        ROUTE.replace("mongodb", "mongo-db"),
        "3:11: routes[0].mode: ",
        "'mongo-db' is not one of mongodb, tcp",
    ),
    "mode suggested": (ROUTE.replace("mongodb", "mongod"), "3:11: routes[0].mode: ", "did you mean mongodb?"),
    "no value": (ROUTE + "name:\n", "7:6: name: ", "a value is needed (write one name)"),
    "null value": (ROUTE + "stop_timeout: ~\n", "7:15: stop_timeout: ", "a value is needed"),
    "null text": (ROUTE + "run_dir: null\n", "7:10: run_dir: ", "a value is needed (write one path)"),
    "empty string": (ROUTE + 'name: ""\n', "7:7: name: ", "a value is needed"),
    "null in a list": (
        ROUTE + "    proxy_protocol: {accept: [10.0.0.0/8, ~]}\n",
        "7:43: routes[0].proxy_protocol.accept[1]: ",
        "a value is needed",
    ),
    "null for a list of mappings": ("routes:\n", "1:8: routes: ", "a value is needed"),
    "empty list of mappings": ("routes: []\n", "1:9: routes: ", "the list is empty (write at least one)"),
    "empty list of values": (ROUTE.replace("127.0.0.1:27017", "[]"), "4:13: routes[0].listen: ", "the list is empty"),
    "list for a value": (ROUTE + "name: [a, b]\n", "7:7: name: ", "a list where one value belongs"),
    "mapping for a value": (ROUTE + "name: {a: b}\n", "7:7: name: ", "a mapping where one value belongs"),
    "value for a mapping": (
        ROUTE + "log: debug\n",
        "7:6: log: ",
        "one value where a mapping belongs (write a mapping with level, format, access)",
    ),
    "list for a mapping": (ROUTE + "store: [a]\n", "7:8: store: ", "a list where a mapping belongs"),
    "mapping for a list": ("routes:\n  name: x\n", "2:3: routes: ", "a mapping where a list belongs"),
    "value for a list element": ("routes:\n  - tcp\n", "2:5: routes[0]: ", "one value where a mapping belongs"),
    "mapping among values": (
        ROUTE.replace("127.0.0.1:27017", "[a:1, {b: 2}]"),
        "4:19: routes[0].listen[1]: ",
        "a mapping where one value belongs",
    ),
    "key that is a list": (ROUTE + "? [a]\n: 1\n", "7:3: ?: ", "a list where a key belongs"),
    "merge key": (ROUTE + "log:\n  <<: {level: info}\n", "8:3: log.<<: ", "merge keys are not supported"),
    "tag": (ROUTE + "name: !env HOME\n", "7:7: name: ", "tags are not supported"),
    "python tag": (ROUTE + "name: !!python/name:os.system x\n", "7:7: name: ", "tags are not supported"),
    "duration without unit": (ROUTE + "stop_timeout: 30\n", "7:15: stop_timeout: ", "not a duration (write"),
    "duration out of range": (ROUTE + "upgrade_timeout: 2d\n", "7:18: upgrade_timeout: ", "(write 1s to 1d)"),
    "size": (ROUTE + "    limits: {buffer: 64kb}\n", "7:22: routes[0].limits.buffer: ", "not a size"),
    "size out of range": (ROUTE + "    limits: {buffer: 1B}\n", "7:22: routes[0].limits.buffer: ", "4KiB to 64MiB"),
    "integer": (ROUTE + "workers: two\n", "7:10: workers: ", "not a whole number (write 1 to 128)"),
    "integer out of range": (ROUTE + "workers: 129\n", "7:10: workers: ", "129 is out of range"),
    "octal": (ROUTE + "workers: 010\n", "7:10: workers: ", "not a whole number"),
    "other digits": (ROUTE + "workers: ٣\n", "7:10: workers: ", "not a whole number"),
    "boolean": (ROUTE + "pin_cpus: yes\n", "7:11: pin_cpus: ", "'yes' is neither true nor false"),
    "choice": (ROUTE + "log: {level: warn}\n", "7:14: log.level: ", "(did you mean warning?)"),
    "name": (ROUTE + "name: a b\n", "7:7: name: ", "not a name"),
    "name too long": (ROUTE + f"name: {'a' * 65}\n", "7:7: name: ", "64 at most"),
    "regex": (
        ROUTE + "    affinity: {session_pattern: 'a('}\n",
        "7:33: routes[0].affinity.session_pattern: ",
        "not a regular expression",
    ),
    "regex groups": (
        ROUTE + "    affinity: {session_pattern: (a)(b)}\n",
        "7:33: routes[0].affinity.session_pattern: ",
        "more than one group",
    ),
    "network": (
        ROUTE + "    proxy_protocol: {accept: 10.0.0.1/8}\n",
        "7:30: routes[0].proxy_protocol.accept: ",
        "not a network",
    ),
    "address without port": (ROUTE.replace(":27017", ""), "4:13: routes[0].listen: ", "not an address"),
    "port out of range": (ROUTE.replace("27017", "70000"), "4:13: routes[0].listen: ", "1 to 65535"),
    "port 0": (ROUTE.replace("27017", "0"), "4:13: routes[0].listen: ", "1 to 65535"),
    "ipv4": (ROUTE.replace("127.0.0.1:27101", "300.1.1.1:1"), "6:19: routes[0].backends[0].address: ", "IPv4"),
    "ipv6 without brackets": (ROUTE.replace("127.0.0.1:27017", "::1:80"), "4:13: routes[0].listen: ", "brackets"),
    "ipv6 zone": (
        ROUTE.replace("127.0.0.1:27101", '"[fe80::1%eth0]:1"'),
        "6:19: routes[0].backends[0].address: ",
        "zone",
    ),
    "every interface": (ROUTE.replace("127.0.0.1:27017", "'*:80'"), "4:13: routes[0].listen: ", "write 0.0.0.0:PORT"),
    "unix path too long": (
        ROUTE.replace("127.0.0.1:27017", "unix:/" + "x" * 107),
        "4:13: routes[0].listen: ",
        "too long (107 bytes at most)",
    ),
    "store": (ROUTE + "store: {url: mongodb://x}\n", "7:14: store.url: ", "not a store (write embedded"),
    "store without host": (ROUTE + "store: {url: 'redis://'}\n", "7:14: store.url: ", "not a store"),
    "user with a line break": (ROUTE + 'user: "a\\nb"\n', "7:7: user: ", "not printable"),
    "variable not set": (ROUTE + "name: ${NOPE}\n", "7:7: name: ", "NOPE is not set (set it, or write a default"),
    "variable demanded": (ROUTE + "name: ${NOPE:?who am I}\n", "7:7: name: ", "NOPE is not set or empty: who am I"),
    "variable empty": (ROUTE + "name: ${EMPTY}\n", "7:7: name: ", "a value is needed"),
    "expansion open": (ROUTE + "name: 'a${NOPE'\n", "7:7: name: ", "without its }"),
    "expansion malformed": (ROUTE + "name: 'a${1x}'\n", "7:7: name: ", "not an expansion"),
    "expansion nested": (ROUTE + "name: ${A:-${B}}\n", "7:7: name: ", "don't nest"),
    "expanded file missing": (ROUTE + "name: ${file:/nonexistent/x}\n", "7:7: name: ", "No such file or directory"),
    "expanded file is endless": (ROUTE + "name: ${file:/dev/zero}\n", "7:7: name: ", "is not a regular file"),
    "same name": (
        ROUTE + SECOND.replace("other", "mongo"),
        "7:11: routes[1].name: ",
        "mongo is the name of routes[0].name too, on line 2",
    ),
    "same listen": (
        ROUTE + SECOND.replace("27018", "27017"),
        "9:13: routes[1].listen: ",
        "127.0.0.1:27017 is the address of routes[0].listen too, on line 4",
    ),
    "same Unix socket, written differently": (
        ROUTE.replace("127.0.0.1:27017", "unix:a.sock") + SECOND.replace("127.0.0.1:27018", "unix:./b/../a.sock"),
        "9:13: routes[1].listen: ",
        "a.sock is the address of routes[0].listen too, on line 4",
    ),
    "a route on the store's socket": (
        "run_dir: /run/x\n" + ROUTE.replace("127.0.0.1:27017", "unix:/run/x/store.sock"),
        "5:13: routes[0].listen: ",
        "that is the socket of the embedded store",
    ),
    "same listen in one route": (
        ROUTE.replace("127.0.0.1:27017", "[a:1, b:1, a:1]"),
        "4:24: routes[0].listen[2]: ",
        "routes[0].listen[0] too",
    ),
    "admin on a route's address": (
        ROUTE + "admin: {listen: 127.0.0.1:27017}\n",
        "7:17: admin.listen: ",
        "routes[0].listen too, on line 4",
    ),
    "admin above a route's address": (
        "admin: {listen: 127.0.0.1:27017}\n" + ROUTE,
        "5:13: routes[0].listen: ",
        "admin.listen too, on line 1",
    ),
    "admin socket on a route's path": (
        ROUTE.replace("127.0.0.1:27017", "unix:/run/p.sock") + "admin: {socket: /run/p.sock}\n",
        "7:17: admin.socket: ",
        "routes[0].listen too",
    ),
    "backend twice": (
        ROUTE + "      - address: 127.0.0.1:27101\n",
        "7:18: routes[0].backends[1].address: ",
        "routes[0].backends[0].address too, on line 6",
    ),
    "proxy loop": (
        ROUTE.replace("27101", "27017"),
        "6:19: routes[0].backends[0].address: ",
        "it would connect to itself",
    ),
    "all weights 0": (ROUTE.replace("weight: 1", "weight: 0"), "6:9: routes[0].backends: ", "every weight is 0"),
    "session without pattern": (
        ROUTE + "    affinity: {by: session}\n",
        "7:20: routes[0].affinity.by: ",
        "session needs affinity.session_pattern",
    ),
    "none with pattern": (
        ROUTE + "    affinity: {by: none, session_pattern: a}\n",
        "7:43: routes[0].affinity.session_pattern: ",
        "has no use when affinity.by is none",
    ),
    "tcp by session": (
        ROUTE + SECOND + "    affinity: {by: session}\n",
        "11:20: routes[1].affinity.by: ",
        "tcp looks at no bytes",
    ),
    "tcp by fingerprint": (
        ROUTE + SECOND + "    affinity: {by: fingerprint}\n",
        "11:20: routes[1].affinity.by: ",
        "tcp looks at no bytes",
    ),
    "tcp with pattern": (
        ROUTE + SECOND + "    affinity: {session_pattern: a}\n",
        "11:33: routes[1].affinity.session_pattern: ",
        "tcp looks at no bytes",
    ),
    "no seeds": (
        REDIS.replace("    cluster: [10.0.0.1:7001, redis-2:7002]\n", ""),
        "2:5: routes[0].cluster: ",
        "is missing (add it: seeds",
    ),
    "seed twice": (
        REDIS.replace("redis-2:7002", "10.0.0.1:7001"),
        "5:30: routes[0].cluster[1]: ",
        "routes[0].cluster[0] too, on line 5 (list each seed once)",
    ),
    "seed is ourselves": (
        REDIS.replace("10.0.0.1:7001", "127.0.0.1:6380"),
        "5:15: routes[0].cluster[0]: ",
        "it would connect to itself",
    ),
    "seed is a socket": (
        REDIS.replace("10.0.0.1:7001", "unix:/run/r.sock"),
        "5:15: routes[0].cluster[0]: ",
        "a Unix socket, but nodes of a cluster know each other by host and port",
    ),
    "user without password": (
        REDIS + "    auth: {username: puerta}\n",
        "6:22: routes[0].auth.username: ",
        "a user without auth.password",
    ),
    "empty client password": (
        REDIS + '    client_auth: {password: "${EMPTY}"}\n',
        "6:29: routes[0].client_auth.password: ",
        "empty, or not printable",
    ),
    "redis with backends": (
        REDIS + "    backends: [{address: a:1}]\n",
        "6:5: routes[0].backends: ",
        "unknown key (not in this mode; it belongs to mode mongodb, tcp)",
    ),
    "redis with on_down": (
        REDIS + "    health: {on_down: keep}\n",
        "6:14: routes[0].health.on_down: ",
        "unknown key (allowed: every, timeout, rise, fall)",
    ),
    "redis sends no header": (
        REDIS + "    proxy_protocol: {send: v2}\n",
        "6:22: routes[0].proxy_protocol.send: ",
        "unknown key (allowed: accept)",
    ),
    "too many redirects": (
        REDIS + "    max_redirects: 17\n",
        "6:20: routes[0].max_redirects: ",
        "17 is out of range (write 0 to 16)",
    ),
    "tcp with a cluster": (
        ROUTE + "    cluster: a:1\n",
        "7:5: routes[0].cluster: ",
        "not in this mode; it belongs to mode redis",
    ),
    "yaml: open list": ("routes: [\n", "2:1: file: ", "while parsing a flow node"),
    "yaml: tab": (ROUTE + "log:\n\tlevel: info\n", "8:1: file: ", "cannot start any token"),
    "yaml: two colons": (ROUTE + "name: a: b\n", "7:8: file: ", "mapping values are not allowed here"),
    "yaml: expansion in flow": (ROUTE + "log: {level: ${A}}\n", "7:15: file: ", "quote a value with ${...} that is"),
    "yaml: indentation": (ROUTE + " name: b\n", "7:2: file: ", "while parsing a block mapping"),
    "yaml: open quote": (ROUTE + 'name: "abc\n', "8:1: file: ", "(look from 7:7 on)"),
    "yaml: no anchor": (ROUTE + "name: *x\n", "7:7: file: ", "an alias without its anchor (quote a value"),
    "yaml: second document": (ROUTE + "---\nname: b\n", "7:1: file: ", "a second document begins"),
    "yaml: control character": (ROUTE + "name: a\x1bb\n", "7:8: file: ", r"the control character '\x1b'"),
    "a list": ("- a\n", "1:1: file: ", "is not a mapping"),
    "a word": ("\nhello\n", "2:1: file: ", "is not a mapping"),
    "empty": ("", "1:1: file: ", "is empty"),
    "comments only": ("# nothing\n", "1:1: file: ", "is empty"),
    "too deep": (ROUTE + "name: " + "[" * 30 + "]" * 30 + "\n", "7:23: file: ", "nested more than 16 levels"),
    "too many nodes": (ROUTE + "name: [" + "a," * 100_001 + "]\n", "7:199970: file: ", "more than 100000 keys"),
}


@pytest.mark.parametrize("text, where, what", BAD.values(), ids=BAD)
def test_problem(read: Loader, text: str, where: str, what: str) -> None:
    (problem,) = problems_of(read, text, {"EMPTY": ""})
    assert problem.startswith(where)
    assert what in problem
    assert len(problem) < 600


def test_every_problem_at_once_in_the_order_of_the_file(read: Loader) -> None:
    text = """\
nam: x
workers: many
log: {level: loud, acess: true}
routes:
  - mode: mongo
    name: a/b
    listen: [127.0.0.1:1, nowhere]
    backends:
      - {address: 127.0.0.1:1, weight: -1}
      - {weight: 1}
    affinity: {by: session}
    bufer: 1
  - {name: two, mode: tcp, listen: 127.0.0.1:1, backends: [{address: "${NOPE}"}]}
workers: 2
"""
    assert [problem.split(": ")[:2] for problem in problems_of(read, text)] == [
        ["1:1", "nam"],
        ["2:10", "workers"],
        ["3:14", "log.level"],
        ["3:20", "log.acess"],
        ["5:11", "routes[0].mode"],
        ["6:11", "routes[0].name"],
        ["7:27", "routes[0].listen[1]"],
        ["9:19", "routes[0].backends[0].address"],
        ["9:40", "routes[0].backends[0].weight"],
        ["10:9", "routes[0].backends[1].address"],
        ["11:20", "routes[0].affinity.by"],
        ["12:5", "routes[0].bufer"],
        ["13:36", "routes[1].listen"],
        ["13:70", "routes[1].backends[0].address"],
        ["14:1", "workers"],
    ]


# -- files -------------------------------------------------------------------------------------------------------------


def test_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load(str(path), {})
    reason = "can't be read: No such file or directory (check the path and its permissions)"
    assert caught.value.problems == [f"{path}:1:1: file: {reason}"]


def test_file_that_is_no_file(tmp_path: Path) -> None:
    for path, what in ((str(tmp_path), "Is a directory"), ("/dev/null", "is not a regular file")):
        with pytest.raises(ConfigError, match=what) as caught:
            load(path, {})
        assert len(caught.value.problems) == 1


def test_file_name_can_not_forge_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "a\nb\x1b[2J"), {})
    assert str(caught.value).count("\n") == 0
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "data, where, what",
    [
        (b"name: a\nuser: \xff\n", "2:7: ", "is not UTF-8 text"),
        ("name: ä\n".encode("latin-1"), "1:7: ", "is not UTF-8 text"),
        ("name: ö".encode() + b"\xe9", "1:8: ", "is not UTF-8 text"),
        (ROUTE.encode("utf-16"), "1:1: ", "is not UTF-8 text"),
        (b"\x7fELF\x00\x00", "1:1: ", "is not text"),
        (b"name: a\n\x00", "2:1: ", "is not text"),
        (b"#" * ((1 << 20) + 1), "1:1: ", "is larger than 1024 KiB"),
    ],
)
def test_file_that_is_not_text(read: Loader, data: bytes, where: str, what: str) -> None:
    (problem,) = problems_of(read, data)
    assert problem.startswith(where + "file: ")
    assert what in problem


def test_byte_order_mark_and_dos_line_ends(read: Loader) -> None:
    assert read(b"\xef\xbb\xbf" + ROUTE.replace("\n", "\r\n").encode()).routes[0].name == "mongo"


def test_aliases(read: Loader) -> None:
    config = read(ROUTE + "    health: &h {every: 9s}\n" + SECOND + "    health: *h\n")
    assert [route.health.every for route in config.routes] == [9.0, 9.0]


def test_alias_bomb(read: Loader) -> None:
    """Two levels of aliases make 25 million backends out of a few kilobytes."""
    text = ROUTE.replace("backends:", "backends: &b").replace("- name", "- &r\n    name")
    text += "      - &a {address: 127.0.0.1:27101}\n" + "      - *a\n" * 5000 + "  - *r\n" * 5000
    (last,) = [problem for problem in problems_of(read, text) if ": file: " in problem]
    assert "aliases repeat more than 100000 keys and values" in last


def test_recursive_alias(read: Loader) -> None:
    (problem,) = problems_of(read, "routes: &r [*r]\n")
    assert problem.startswith("1:9: routes[0]: a list where a mapping belongs")


# -- values ------------------------------------------------------------------------------------------------------------


def test_least_config_has_the_defaults(read: Loader) -> None:
    config = read(ROUTE)
    (route,) = config.routes
    assert isinstance(route, MongodbRoute)
    assert (config.workers, config.store.url, config.admin.listen, config.stop_timeout) == (None, "embedded", None, 30)
    assert route.listen == (Address("127.0.0.1", 27017),)
    assert (route.expect, route.limits.buffer, route.proxy_protocol.accept) == ("mongos", 512 << 10, None)


def test_least_redis_route_has_the_defaults(read: Loader) -> None:
    (route,) = read(REDIS).routes
    assert isinstance(route, RedisRoute)
    assert [str(seed) for seed in route.cluster] == ["10.0.0.1:7001", "redis-2:7002"]
    assert (route.auth, route.client_auth.password) == (Auth(None, None), None)
    assert (route.read_from, route.max_redirects, route.topology_refresh) == ("masters", 5, 30)
    assert route.health == Checks(5.0, 2.0, 2, 3)
    assert route.limits == RedisLimits(10000, 1024, 64 << 20, None, 0.01, 1.0, 5.0)
    assert route.proxy_protocol.accept is None


def test_redis_route_as_written(read: Loader) -> None:
    text = """\
routes:
- name: cache
  mode: redis
  listen: unix:/run/cache.sock
  cluster: "[::1]:7001"
  auth: {username: puerta, password: "${IN}"}
  client_auth: {password: "${OUT}"}
  read_from: any
  max_redirects: 0
  topology_refresh: 1m
  health: {every: 1s}
  limits: {slowlog: 0, buffer: 1MiB, pending: 5, idle_timeout: 1h, call_timeout: 250ms}
  proxy_protocol: {accept: 10.0.0.0/8}
"""
    (route,) = read(text, {"IN": "open", "OUT": "sesame"}).routes
    assert isinstance(route, RedisRoute)
    assert (route.auth, route.client_auth) == (Auth("puerta", "open"), ClientAuth("sesame"))
    assert [str(seed) for seed in route.cluster] == ["[::1]:7001"]
    assert (route.read_from, route.max_redirects, route.topology_refresh, route.health.every) == ("any", 0, 60, 1)
    assert route.limits == RedisLimits(10000, 5, 1 << 20, 3600, 0, 1, 0.25)
    assert [str(network) for network in route.proxy_protocol.accept or ()] == ["10.0.0.0/8"]
    assert "open" not in repr(route)
    assert "sesame" not in repr(route)


def test_values_as_written(read: Loader) -> None:
    text = """\
workers: 3
pin_cpus: true
scheduling: batch
io_uring: false
user: ~
stop_timeout: 1.5s
store:
admin: {socket: /run/p.sock, listen: "[::1]:9127"}
log:
  access: false
routes:
- name: "1"
  mode: tcp
  listen: ["[0::0:1]:80", unix:/run/a.sock, localhost:0080]
  backends: [{address: "db-1.example:27017", weight: 0}, {address: unix:b.sock}]
  affinity: {by: hybrid, ttl: 2m}
  slow_start: 0
  limits: {idle_timeout: null, buffer: 1MiB}
  proxy_protocol: {accept: [10.0.0.0/8, "::1"], send: v2}
"""
    config = read(text)
    (route,) = config.routes
    assert type(route) is TcpRoute
    assert (config.workers, config.pin_cpus, config.scheduling, config.io_uring) == (3, True, "batch", False)
    assert (config.user, config.stop_timeout) == (None, 1.5)
    assert (config.store.url, config.log.access) == ("embedded", False)
    assert str(config.admin.listen) == "[::1]:9127"
    assert [str(address) for address in route.listen] == ["[::1]:80", "unix:/run/a.sock", "localhost:80"]
    assert [(backend.id, backend.weight) for backend in route.backends] == [
        ("db-1.example:27017", 0),
        ("unix:b.sock", 1),
    ]
    assert (route.affinity.ttl, route.slow_start) == (120, 0)
    assert (route.limits.idle_timeout, route.limits.buffer) == (None, 1 << 20)
    assert [str(network) for network in route.proxy_protocol.accept or ()] == ["10.0.0.0/8", "::1/128"]


def test_empty_list_is_none_where_none_is_the_default(read: Loader) -> None:
    assert read(ROUTE + "    proxy_protocol: {accept: []}\n").routes[0].proxy_protocol.accept is None


# -- expansion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written, user",
    [
        ("${WHO}", "ana"),
        ("x-${WHO}-${WHO}", "x-ana-ana"),
        ("${NOPE:-bob}", "bob"),
        ("${EMPTY:-bob}", "bob"),
        ("${WHO:-bob}", "ana"),
        ("${WHO:?needed}", "ana"),
        ("${NOPE:-}", None),
        ("'${NOPE:-}'", None),
        ("${EMPTY}", None),
        ("$$", "$"),
        ("$${WHO}", "${WHO}"),
        ("$$$${WHO}", "$${WHO}"),
        ("$$${WHO}", "$ana"),
        ("a$b$", "a$b$"),
        ("${NOPE:-$$5}", "$5"),
        ("${DOLLAR}", "${WHO} $$"),
        ("${YAML}", "{a: [b, *c]} # d"),
        ("${TILDE}", "~"),
        ('"${WHO}\\x24{WHO}"', "anaana"),
    ],
)
def test_expansion(read: Loader, written: str, user: str | None) -> None:
    environ = {"WHO": "ana", "EMPTY": "", "DOLLAR": "${WHO} $$", "YAML": "{a: [b, *c]} # d", "TILDE": "~"}
    assert read(ROUTE + f"user: {written}\n", environ).user == user


@pytest.mark.parametrize(
    "content, user", [("ana", "ana"), ("ana\n", "ana"), ("ana\r\n", "ana"), ("${WHO}\n", "${WHO}")]
)
def test_expansion_of_a_file(read: Loader, tmp_path: Path, content: str, user: str) -> None:
    (tmp_path / "who").write_bytes(content.encode())
    assert read(ROUTE + f"user: ${{file:{tmp_path}/who}}\n").user == user


@pytest.mark.parametrize(
    "content, what",
    [(b"a" * ((64 << 10) + 1), "is larger than 64 KiB"), (b"\xff", "is not UTF-8 text"), (b"a\n\n", "not printable")],
)
def test_expansion_of_a_bad_file(read: Loader, tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "who").write_bytes(content)
    (problem,) = problems_of(read, ROUTE + f"user: ${{file:{tmp_path}/who}}\n")
    assert problem.startswith("7:7: user: ")
    assert what in problem


def test_expansions_have_one_budget(read: Loader) -> None:
    problems = problems_of(read, ROUTE + "user: " + "${BIG}" * 9 + "\n", {"BIG": "b" * (128 << 10)})
    assert problems == ["7:7: user: all expansions together are longer than 1024 KiB (use less)"]


def test_keys_are_not_expanded(read: Loader) -> None:
    (problem,) = problems_of(read, ROUTE + "${WHO}: x\n", {"WHO": "name"})
    assert problem.startswith("7:1: ${WHO}: unknown key")


def test_mode_is_expanded(read: Loader) -> None:
    assert type(read(ROUTE.replace("mongodb", "${M}"), {"M": "tcp"}).routes[0]) is TcpRoute


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h:99999/0",
        "redis://u:hunter2/x@h/0",
        "redis://u:hunter2 @h/0",
        "rediss://u:p#hunter2@h",
        "redis://[hunter2",
        "mongodb://u:hunter2@h",
        '"redis://u:hunter2\\n@h"',
        "${hunter2",
        "redis://u:${hunter2@h",
        "*hunter2",
        "!hunter2",
        "!h!hunter2",
        "[hunter2]",
        "{hunter2: x}",
        "'redis://u:hunter2@h",
        "unix://:hunter2@",
    ],
)
def test_errors_never_show_a_secret(read: Loader, url: str) -> None:
    for problem in problems_of(read, ROUTE + f"store:\n  url: {url}\n"):
        assert "hunter2" not in problem


@dataclass(frozen=True, slots=True)
class Credentials:
    password: str | None = option(SECRET, "A password.", None)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A mode that shares no key with the others but the first three."""

    name: str = option(NAME, "The name.")
    mode: str = option(choice("guarded"), "The mode.")
    listen: tuple[Address, ...] = option(ADDRESS, "The addresses.", many=True)
    auth: Credentials = section(Credentials, "A secret.")  # noqa: RUF009


@pytest.fixture
def guarded(read: Loader, monkeypatch: pytest.MonkeyPatch) -> Loader:
    monkeypatch.setitem(cast(dict[str, Any], ROUTES), "guarded", Guarded)

    def read_guarded(password: str, environ: Mapping[str, str] | None = None) -> Config:
        return read(f"routes: [{{name: g, mode: guarded, listen: a:1, auth: {{password: {password}}}}}]\n", environ)

    return read_guarded


@pytest.mark.parametrize(
    "written, password",
    [("~", None), ("", None), ("hunter2", "hunter2"), ('"${PW}"', "hunter2"), ("'~'", "~"), ("a$$b", "a$b")],
)
def test_secret(guarded: Loader, written: str, password: str | None) -> None:
    route = cast(Any, guarded(written, {"PW": "hunter2"}).routes[0])
    assert route.auth == Credentials(password)
    assert "hunter2" not in repr(route)


@pytest.mark.parametrize(
    "written", ['""', '"${PW}"', '"${NOPE:-}"', '"hunter2\\n"', "[hunter2]", "${hunter2", "*hunter2"]
)
def test_bad_secret_is_refused_unseen(guarded: Loader, written: str) -> None:
    (problem,) = problems_of(guarded, written, {"PW": ""})
    assert re.match(r"1:\d+: (routes\[0\]\.auth\.password|file): ", problem)
    assert "hunter2" not in problem


def test_repr_of_a_config_shows_no_secret(read: Loader) -> None:
    config = read(ROUTE + "store: {url: 'redis://u:hunter2@h/0'}\n")
    assert config.store.url == "redis://u:hunter2@h/0"
    assert "hunter2" not in repr(config)


# -- PORT --------------------------------------------------------------------------------------------------------------


def test_port_replaces_the_first_address_of_the_first_route(read: Loader) -> None:
    config = read(ROUTE.replace("127.0.0.1:27017", "[0.0.0.0:1, 0.0.0.0:2]") + SECOND, {"PORT": "8080"})
    assert [str(address) for route in config.routes for address in route.listen] == [
        "0.0.0.0:8080",
        "0.0.0.0:2",
        "127.0.0.1:27018",
    ]


def test_port_is_for_tcp_and_empty_is_unset(read: Loader) -> None:
    unix = ROUTE.replace("127.0.0.1:27017", "unix:/run/a.sock")
    assert str(read(unix, {"PORT": "8080"}).routes[0].listen[0]) == "unix:/run/a.sock"
    assert read(ROUTE, {"PORT": ""}).routes[0].listen[0].port == 27017


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "80 ", "\uff18\uff10"])
def test_port_that_is_none(read: Loader, port: str) -> None:
    (problem,) = problems_of(read, ROUTE, {"PORT": port})
    assert problem.startswith(f"4:13: routes[0].listen: PORT in the environment is {port!r}, not a port")


def test_port_is_checked_like_the_address_it_replaces(read: Loader) -> None:
    (problem,) = problems_of(read, ROUTE, {"PORT": "27101"})
    assert problem.startswith("6:19: routes[0].backends[0].address: 127.0.0.1:27101 is this route's own listen address")


# -- the file that is shipped ------------------------------------------------------------------------------------------


def test_the_shipped_config_loads() -> None:
    path = Path(__file__).parents[2] / "etc" / "puerta.yaml"
    config = load(str(path), {})
    route, cache = config.routes
    assert isinstance(route, MongodbRoute) and isinstance(cache, RedisRoute)
    assert [str(seed) for seed in cache.cluster] == [f"127.0.0.1:{port}" for port in (7001, 7002, 7003)]
    assert (config.store.url, config.run_dir, str(config.admin.listen)) == ("embedded", "run", "127.0.0.1:9127")
    assert ([str(listen) for listen in route.listen], route.expect) == (["127.0.0.1:27017"], "any")
    assert [backend.id for backend in route.backends] == [f"127.0.0.1:{port}" for port in (27101, 27102, 27103)]
    other = load(str(path), {"PUERTA_STORE": "redis://h:1/0", "PUERTA_RUN_DIR": "/run/p", "PORT": "1234"})
    assert (other.store.url, other.run_dir, other.routes[0].listen[0].port) == ("redis://h:1/0", "/run/p", 1234)
