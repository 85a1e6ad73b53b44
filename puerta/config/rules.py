"""What the values of a config must be together: the rules that no single key can tell."""

import os
from dataclasses import replace
from typing import Any

from puerta.config.schema import Address, RedisRoute, TcpRoute
from puerta.config.source import Problems
from puerta.config.walk import Section, Value


def check(config: Section, problems: Problems) -> None:
    """Note every breach. Keys that had a problem of their own are not there and are not looked at."""
    _names(config, problems)
    _listens(config, problems)
    for route in config.items("routes"):
        if issubclass(route.type, TcpRoute):
            _backends(route, problems)
            _affinity(route, problems)
        if issubclass(route.type, RedisRoute):
            _cluster(route, problems)
            _auth(route, problems)


def _names(config: Section, problems: Problems) -> None:
    named = [route.values["name"] for route in config.items("routes") if "name" in route.values]
    _unique(named, "is the name of", "give each route a name of its own", problems)


def _listens(config: Section, problems: Problems) -> None:
    values = [listen for route in config.items("routes") for listen in route.items("listen")]
    admin = config.values.get("admin")
    if isinstance(admin, Section):
        if admin.get("listen") is not None:
            values.append(admin.values["listen"])
        if admin.get("socket") is not None:
            socket = admin.values["socket"]
            values.append(Value(Address("", 0, socket.value), socket.path, socket.place))
    values = [_in_full(value) for value in values]
    _unique(values, "is the address of", "give each an address of its own", problems)
    run_dir = os.path.abspath(config.get("run_dir") or "run")
    for name, owner in (("puerta.sock", "admin interface"), ("store.sock", "embedded store")):
        for value in values:
            if value.value.path == f"{run_dir}/{name}" and value.path != "admin.socket":
                problems.add(value.place, value.path, f"that is the socket of the {owner} (choose another path)")


def _in_full(value: Value) -> Value:
    """A Unix socket's address may be written in many ways."""
    path = value.value.path
    return replace(value, value=Address("", 0, os.path.abspath(path))) if path else value


def _unique(values: list[Any], verb: str, advice: str, problems: Problems) -> None:
    """Each of `values` once; a later one is told where the first is."""
    seen: dict[Any, Value] = {}
    for value in sorted(values, key=lambda value: value.place):
        first = seen.setdefault(value.value, value)
        if first is not value:
            what = f"{value.value} {verb} {first.path} too, on line {first.place[0]} ({advice})"
            problems.add(value.place, value.path, what)


def _backends(route: Section, problems: Problems) -> None:
    backends = route.items("backends")
    addresses = [backend.values["address"] for backend in backends if "address" in backend.values]
    _unique(addresses, "is the address of", "list each backend once, and give it a weight", problems)
    _not_itself(route, addresses, problems)
    if backends and all(backend.get("weight") == 0 for backend in backends):
        path = f"{route.path}.backends"
        problems.add(route.place_of("backends"), path, "every weight is 0: no new client is served (raise one)")


def _not_itself(route: Section, addresses: list[Value], problems: Problems) -> None:
    listens = {listen.value for listen in route.items("listen")}
    for address in addresses:
        if address.value in listens:
            what = f"{address.value} is this route's own listen address: it would connect to itself (name the server)"
            problems.add(address.place, address.path, what)


def _cluster(route: Section, problems: Problems) -> None:
    seeds = route.items("cluster")
    _unique(seeds, "is the address of", "list each seed once", problems)
    _not_itself(route, seeds, problems)
    for seed in seeds:
        if seed.value.path:
            what = "a Unix socket, but nodes of a cluster know each other by host and port (write HOST:PORT)"
            problems.add(seed.place, seed.path, what)


def _auth(route: Section, problems: Problems) -> None:
    auth = route.values.get("auth")
    if not isinstance(auth, Section) or "password" not in auth.values:
        return
    if auth.get("username") is not None and auth.get("password") is None:
        what = "a user without auth.password, so that no AUTH would be sent (add it, or remove the user)"
        problems.add(auth.place_of("username"), f"{auth.path}.username", what)


def _affinity(route: Section, problems: Problems) -> None:
    affinity = route.values.get("affinity")
    if not isinstance(affinity, Section):
        return
    by, pattern = affinity.get("by"), affinity.get("session_pattern")

    def add(key: str, what: str) -> None:
        problems.add(affinity.place_of(key), f"{affinity.path}.{key}", what)

    if route.get("mode") == "tcp":
        # hybrid is fine: the identity that a trusted PROXY header gives, else the address
        if by in ("fingerprint", "session"):
            add(
                "by", f"{by} needs the client's first message, and mode tcp looks at no bytes (write address or hybrid)"
            )
        if pattern is not None:
            add("session_pattern", "mode tcp looks at no bytes, so no application name is known (remove it)")
    elif by == "session" and pattern is None and "session_pattern" in affinity.values:
        add("by", "session needs affinity.session_pattern (add it, or write hybrid)")
    elif by == "none" and pattern is not None:
        add("session_pattern", "has no use when affinity.by is none (remove it, or write by: session)")
