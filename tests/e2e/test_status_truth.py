"""What /status tells is what clients hold: counted on both machines, by route, by backend and by worker."""

from tests.e2e.machines import Machine
from tests.e2e.peers import Raw, Scripted, in_threads
from tests.harness import wait_for

CLIENTS, EACH = 20, 6


def sums_agree(machine: Machine) -> bool:
    """Workers write their own sum ten times a second."""
    status = machine.status()
    return sum(each["connections"] for each in status["workers"]) == sum(
        each["connections"] for each in status["routes"]
    )


def test_counts_are_what_clients_hold(machines: list[Machine], scripted: list[Scripted]) -> None:
    wait_for(lambda: not any(machine.route("crowd")["connections"] for machine in machines), "nobody is left")
    before = [machine.route("crowd") for machine in machines]
    held: list[list[Raw]] = [[], []]
    for number in range(CLIENTS):
        for turn in range(EACH):
            held[turn % 2].append(Raw(machines[turn % 2].ports["crowd"], f"app@count{number}"))
    for machine, mine, old in zip(machines, held, before, strict=True):
        expected = {each.me: count for each in scripted if (count := sum(raw.backend == each.me for raw in mine))}
        wait_for(lambda wanted=expected, at=machine: at.connections("crowd") == wanted, f"connections are {expected}")
        wait_for(lambda at=machine: sums_agree(at), "the workers' sums are the routes'")
        status = machine.status()
        [route] = [route for route in status["routes"] if route["name"] == "crowd"]
        assert route["connections"] == len(mine)
        assert route["connections_total"] - old["connections_total"] == len(mine)
        assert sum(route["found"].values()) - sum(old["found"].values()) == len(mine)
        assert route["bytes_in"] - old["bytes_in"] == sum(len(raw.message) for raw in mine)
        assert route["bytes_out"] > old["bytes_out"]
        assert status["store"]["state"] == "up"
    for mine in held:
        for raw in mine[::2]:
            raw.close()
    for machine, mine in zip(machines, held, strict=True):
        wait_for(lambda at=machine, left=mine[1::2]: at.route("crowd")["connections"] == len(left), "half are left")
        assert sum(machine.connections("crowd").values()) == len(mine[1::2])
    for mine in held:
        for raw in mine[1::2]:
            raw.close()
    for machine, mine, old in zip(machines, held, before, strict=True):
        wait_for(lambda at=machine: at.route("crowd")["connections"] == 0, "none is left")
        closed = machine.route("crowd")["closed"]
        assert closed["client_closed"] - old["closed"]["client_closed"] == len(mine)


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
