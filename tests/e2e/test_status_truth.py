"""What /status tells is what clients hold: counted on both machines, by route, by backend and by worker."""

from collections import Counter
from contextlib import suppress
from typing import Any

from tests.e2e.machines import Machine
from tests.e2e.peers import Raw, Scripted, in_threads
from tests.harness import wait_for

CLIENTS, EACH = 20, 6


def counts(machine: Machine, old: dict[str, Any]) -> dict[str, Any]:
    """What /status says of the route `crowd`, as the difference to what it once said where it only grows."""
    status = machine.status()
    [route] = [route for route in status["routes"] if route["name"] == "crowd"]
    in_workers = sum(worker["connections"] for worker in status["workers"])
    return {
        "connections": route["connections"],
        "by backend": {each["id"]: each["connections"] for each in route["backends"] if each["connections"]},
        "elsewhere": in_workers - sum(each["connections"] for each in status["routes"]),
        "total": route["connections_total"] - old["connections_total"],
        "found": sum(route["found"].values()) - sum(old["found"].values()),
        "bytes in": route["bytes_in"] - old["bytes_in"],
        "closed by clients": route["closed"]["client_closed"] - old["closed"]["client_closed"],
        "closed": sum(route["closed"].values()) - sum(old["closed"].values()),
    }


def test_counts_are_what_clients_hold(machines: list[Machine], scripted: list[Scripted]) -> None:
    wait_for(lambda: not any(machine.route("crowd")["connections"] for machine in machines), "nobody is left")
    wait_for(lambda: all(is_still(machine) for machine in machines), "what was before is counted")
    before = [machine.route("crowd") for machine in machines]
    held: list[list[Raw]] = [[], []]
    for number in range(CLIENTS):
        for turn in range(EACH):
            held[turn % 2].append(Raw(machines[turn % 2].ports["crowd"], f"app@count{number}"))
    for part in (1, 2, None):  # all of them, every second, none
        for machine, mine, old in zip(machines, held, before, strict=True):
            left = mine[::part] if part else []
            for raw in mine:
                if raw not in left:
                    raw.close()
            expected = {
                "connections": len(left),
                "by backend": dict(Counter(raw.backend for raw in left)),
                "elsewhere": 0,
                "total": len(mine),
                "found": len(mine),
                "bytes in": sum(len(raw.message) for raw in mine),
                "closed by clients": len(mine) - len(left),
                "closed": len(mine) - len(left),
            }
            told: dict[str, Any] = {}
            with suppress(AssertionError):
                wait_for(lambda a=machine, o=old, e=expected, t=told: t.update(counts(a, o)) or t == e, "it is told", 5)
            assert told == expected
            assert machine.status()["store"]["state"] == "up"


def is_still(machine: Machine) -> bool:
    route = machine.route("crowd")
    return bool(sum(route["closed"].values()) == sum(route["found"].values()) == route["connections_total"])


def test_connections_of_one_client_are_counted_where_it_is(machines: list[Machine]) -> None:
    held: list[Raw] = []
    assert not in_threads(10, lambda index: held.append(Raw(machines[index % 2].ports["brief"], "app@status")))
    [backend] = {raw.backend for raw in held}
    for machine in machines:
        wait_for(lambda at=machine: at.connections("brief") == {backend: 5}, f"five are on {backend}")
    for raw in held:
        raw.close()
    for machine in machines:
        wait_for(lambda at=machine: not at.connections("brief"), "none is left")
