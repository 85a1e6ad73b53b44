"""What is printed can be read again and means the same; secrets stay unseen; changes are named."""

import dataclasses
import ipaddress
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puerta.config import schema
from puerta.config.kinds import SECRET, Address, Kind, parse_duration, parse_size, show_duration, show_size
from puerta.config.load import load
from puerta.config.reference import reference
from puerta.config.render import Difference, differences, redact_url, render
from puerta.config.schema import Backend, Config, MongodbRoute, RedisRoute, TcpRoute, option, section

# -- any config --------------------------------------------------------------------------------------------------------

PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
TEXTS = st.text(PRINTABLE, min_size=1, max_size=20)
WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True) | st.sampled_from(
    ["null", "true", "1e3", "08"]
)
ADDRESSES = st.one_of(
    st.builds(lambda path: Address("", 0, path), TEXTS.filter(lambda path: not path.startswith("//"))),
    st.builds(lambda host, port: Address(str(host), port), st.ip_addresses(), st.integers(1, 65535)),
    st.builds(Address, st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), st.integers(1, 65535)),
)
SEED = Address("seed", 1)
STORES = st.sampled_from(
    ["embedded", "redis://h:1/0", "rediss://u:p$$w@[::1]/3", "unix:///run/a?db=1", "redis://ü:ö@h/$"]
)
BY_KIND: dict[str, st.SearchStrategy[Any]] = {
    "address": ADDRESSES,
    "true | false": st.booleans(),
    "name": WORDS,
    "network": st.ip_addresses().map(ipaddress.ip_network),
    "path": TEXTS,
    "regular expression": st.text(min_size=1, max_size=10).map(re.escape).map(re.compile)
    | st.sampled_from(["^a-(\\d+)$", "${x}", "$$", " # ", "a\nb"]).map(
        lambda text: re.compile(text.replace("{", "[{]"))
    ),
    "store URL": STORES,
    "text": TEXTS,
    "secret": TEXTS,
    "auto | integer 1 to 128": st.none() | st.integers(1, 128),
}


def values(kind: Kind) -> st.SearchStrategy[Any]:
    """Any value of a kind, found by the name that the reference gives it."""
    if kind.name in BY_KIND:
        return BY_KIND[kind.name]
    bounds = re.fullmatch(r"(integer|size|duration) (\S+) to (\S+)", kind.name)
    if bounds is None:
        return st.sampled_from(kind.name.split(" | "))
    if bounds[1] == "integer":
        return st.integers(int(bounds[2]), int(bounds[3]))
    if bounds[1] == "size":
        return st.integers(parse_size(bounds[2]), parse_size(bounds[3]))
    lowest, highest = (round(parse_duration(text) * 1_000_000) for text in bounds.groups()[1:])
    return st.integers(lowest, highest).map(lambda microseconds: round(microseconds / 1_000_000, 6))


def mappings(cls: Any, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any instance of a class of the schema."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in fixed}
    return st.builds(cls, **{name: entries(field) for name, field in fields.items()}, **fixed)


def entries(field: Any) -> st.SearchStrategy[Any]:
    inside = field.metadata.get("section")
    if isinstance(inside, dict):
        one = st.one_of(*(mappings(cls, mode=st.just(mode)) for mode, cls in inside.items()))
    else:
        one = mappings(inside) if inside else values(field.metadata["kind"])
    if field.metadata["many"]:
        one = st.lists(one, min_size=1, max_size=2).map(tuple)
    return st.none() | one if field.default is None else one


def lawful(config: Config) -> Config:
    """The config with what the rules demand: every address and name once, and an affinity that its mode can have."""
    routes = []
    for index, route in enumerate(config.routes):
        listen = tuple(Address(f"l{index}-{number}", 1) for number in range(len(route.listen)))
        changes: dict[str, Any] = {"name": f"{index}{route.name}"[:64], "listen": listen}
        if isinstance(route, TcpRoute):
            changes["backends"] = tuple({backend.address: backend for backend in route.backends}.values())
            changes["backends"] += (Backend(Address("last", 1), 7),)
            if route.mode == "tcp" or route.affinity.by in ("none", "session"):
                changes["affinity"] = dataclasses.replace(route.affinity, by="hybrid", session_pattern=None)
        if isinstance(route, RedisRoute):
            changes["cluster"] = tuple(dict.fromkeys(seed for seed in route.cluster if not seed.path)) or (SEED,)
            changes["auth"] = route.auth if route.auth.password is not None else schema.Auth()
        routes.append(dataclasses.replace(route, **changes))
    admin = dataclasses.replace(config.admin, listen=config.admin.listen and Address("admin", 1))
    return dataclasses.replace(config, routes=tuple(routes), admin=admin)


def reload(text: str) -> Config:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load(file.name, {"x": "expanded"})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings(Config).map(lawful))
def test_what_is_rendered_loads_as_the_same(config: Config) -> None:
    assert reload(render(config, redact=False)) == config


def test_a_redis_route_hides_both_passwords() -> None:
    auth, client_auth = schema.Auth("puerta", "open"), schema.ClientAuth("sesame")
    route = RedisRoute("c", "redis", (Address("a", 1),), (SEED,), auth, client_auth)
    text = render(Config(routes=(route,)))
    assert text.count('password: "***"') == 2
    changed = dataclasses.replace(route, auth=schema.Auth("puerta", "closed"), cluster=(SEED, Address("b", 2)))
    found = [str(each) for each in differences(Config(routes=(route,)), Config(routes=(changed,)))]
    assert found == ["routes[c].cluster: seed:1 -> seed:1, b:2", "routes[c].auth.password: *** -> ***"]
    assert not [word for word in ("open", "sesame", "closed") if word in text + "".join(found)]


@settings(deadline=None)
@given(st.integers(0, 30 * 86400 * 10**6), st.integers(0, 1 << 40))
def test_durations_and_sizes_read_as_they_are_shown(microseconds: int, size: int) -> None:
    seconds = round(microseconds / 1_000_000, 6)
    assert parse_duration(show_duration(seconds)) == seconds
    assert parse_size(show_size(size)) == size


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (0.05, "50ms"),
        (0.0015, "1.5ms"),
        (1.5, "1500ms"),
        (5, "5s"),
        (90, "90s"),
        (1800, "30m"),
        (86400, "1d"),
    ],
)
def test_durations_are_shown_in_the_house_format(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


def test_rendered_in_the_schema_s_order_with_every_key() -> None:
    backends = (Backend(Address("::1", 1)),)
    listen = (Address("a", 1), Address("", 0, "/b c"))
    config = Config(routes=(MongodbRoute(name="true", mode="mongodb", listen=listen, backends=backends),))
    text = render(config)
    assert text.startswith(
        "name: puerta\nworkers: auto\npin_cpus: false\nscheduling: auto\nio_uring: true\nuser: ~\nrun_dir: run\n"
        "stop_timeout: 30s\n"
    )
    assert text.endswith("      send: ~\n    expect: mongos\n")
    assert '  - name: "true"\n    mode: mongodb\n    listen: [a:1, "unix:/b c"]\n    backends:\n' in text
    assert '      - address: "[::1]:1"\n        weight: 1\n    balance: rendezvous\n' in text
    assert "      buffer: 512KiB\n" in text


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, redacted",
    [
        ("embedded", "embedded"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://ana:hunter2@h/0", "rediss://ana:***@h/0"),
        ("redis://ana:hunter2@hunter2@h", "redis://ana:***@h"),
        ("redis://ana:hunter2:hunter2/?#@h", "redis://ana:***@h"),
        ("redis://hunter2@h", "redis://***@h"),
        ("redis://ana:hunter2://hunter2@h", "redis://ana:***@h"),
        ("unix://ana:hunter2@/run/a.sock?db=1", "unix://ana:***@/run/a.sock?db=1"),
        ("unix:///run/a.sock?db=1&password=hunter2&x=y", "unix:///run/a.sock?db=1&password=***&x=y"),
        ("rediss://h?p%61ssword=hunter2@x", "rediss://h?p%61ssword=***"),
        ("rediss://h?ssl_password=hunter2", "rediss://h?ssl_password=***"),
        ("ana:hunter2@h", "ana:***@h"),
    ],
)
def test_redacted_url(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted


@dataclasses.dataclass(frozen=True)
class Auth:
    password: str | None = option(SECRET, "A password.", None)
    tokens: tuple[str, ...] | None = option(SECRET, "More.", None, many=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithSecret(Config):
    auth: Auth = section(Auth, "Secrets.")  # noqa: RUF009


def with_secret(password: str | None, url: str = "embedded") -> WithSecret:
    route = TcpRoute(name="a", mode="tcp", listen=(Address("a", 1),), backends=(Backend(Address("b", 1)),))
    return WithSecret(routes=(route,), store=schema.Store(url=url), auth=Auth(password, ("hunter2", "hunter2")))


def test_secrets_are_rendered_as_stars() -> None:
    config = with_secret("hunter2", "redis://ana:hunter2@h/0")
    text = render(config)
    assert "hunter2" not in text
    assert '  url: "redis://ana:***@h/0"\n' in text
    assert '  password: "***"\n' in text
    assert '  tokens: ["***", "***"]\n' in text
    assert render(config, redact=False).count("hunter2") == 4
    assert "hunter2" not in repr(config)
    assert "  password: ~\n" in render(with_secret(None))


def test_secrets_do_not_show_in_differences() -> None:
    (difference,) = differences(with_secret("hunter2"), with_secret("hunter3"))
    assert difference == Difference("auth.password", "***", "***", True)


# -- differences -------------------------------------------------------------------------------------------------------

OLD = """\
store: {url: 'redis://:hunter2@h/0'}
routes:
  - name: one
    mode: mongodb
    listen: a:1
    backends: [{address: b:1}, {address: b:2, weight: 2}]
    expect: any
  - {name: two, mode: tcp, listen: a:2, backends: [{address: c:1}]}
"""


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("any", "any", []),
        ("expect: any", "expect: mongos", ["routes[one].expect: any -> mongos"]),
        ("weight: 2", "weight: 3", ["routes[one].backends[b:2].weight: 2 -> 3"]),
        (
            "address: b:1}",
            "address: b:3}",
            ["routes[one].backends[b:1]: present -> absent", "routes[one].backends[b:3]: absent -> present"],
        ),
        ("[{address: b:1}, {address: b:2, weight: 2}]", "[{address: b:2, weight: 2}, {address: b:1}]", []),
        ("listen: a:1", "listen: [a:1, 'unix:/x']", ["routes[one].listen: a:1 -> a:1, unix:/x"]),
        ("name: two", "name: three", ["routes[two]: present -> absent", "routes[three]: absent -> present"]),
        (
            "two, mode: tcp",
            "two, mode: mongodb",
            ["routes[two].mode: tcp -> mongodb", "routes[two].expect: absent -> mongos"],
        ),
        ("hunter2", "hunter3", ["store.url: redis://:***@h/0 -> redis://:***@h/0 (needs a restart)"]),
        ("store:", "workers: 2\nstore:", ["workers: auto -> 2"]),
        ("store:", "user: ana\nstore:", ["user: ~ -> ana (needs a restart)"]),
        ("    expect", "    limits: {buffer: 1MiB}\n    expect", ["routes[one].limits.buffer: 512KiB -> 1MiB"]),
    ],
)
def test_differences(old: str, new: str, expected: list[str]) -> None:
    assert old in OLD
    found = differences(reload(OLD), reload(OLD.replace(old, new)))
    assert sorted(str(difference) for difference in found) == sorted(expected)
    assert all(difference.reloadable == ("restart" not in str(difference)) for difference in found)


# -- the reference -----------------------------------------------------------------------------------------------------


def test_the_reference_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "docs" / "configuration.md"
    again = "run: python -m puerta.config.reference > docs/configuration.md"
    assert path.read_text(encoding="utf-8") == reference(), again


def test_the_reference_has_every_option() -> None:
    text = reference()
    for cls in (Config, schema.Store, schema.Admin, schema.Log, schema.Backend, *schema.ROUTES.values()):
        for field in dataclasses.fields(cls):
            if "section" in field.metadata:
                assert re.search(rf"^## (\S+\.)?{field.name}(\[\])?(,|$)", text, re.MULTILINE), field.name
            else:
                assert f"\n| `{field.name}` | " in text
