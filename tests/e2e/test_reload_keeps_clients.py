"""A reload changes where new clients go, and leaves the others where they are."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.machines import Machine
from tests.e2e.peers import Raw, Scripted, at_home

STOP = 4.0


@pytest.fixture
def machine(tmp_path: Path, scripted: list[Scripted]) -> Iterator[Machine]:
    two = [each.address for each in scripted[:2]]
    with Machine(tmp_path, two, stop=f"{STOP:g}s") as made:
        yield made


def reload(machine: Machine, generation: int) -> None:
    machine.signal(signal.SIGHUP)
    machine.wait_log(rf"reloaded: generation {generation} is up")


def visit(machine: Machine, name: str) -> str:
    with Raw(machine.port, name) as raw:
        return raw.backend


def test_new_backend_takes_nobody_away(machine: Machine, scripted: list[Scripted]) -> None:
    two, three = [each.address for each in scripted[:2]], [each.address for each in scripted]
    newcomers = at_home(three[2], three)  # with three backends, their home would be the third
    names = [next(newcomers) for _ in range(10)]
    before = {name: visit(machine, name) for name in names}
    assert set(before.values()) <= set(two)
    machine.configure(backends=three)
    reload(machine, 2)
    machine.wait_up()
    assert {name: visit(machine, name) for name in names} == before
    assert {visit(machine, next(newcomers)) for _ in range(5)} == {three[2]}


def test_sessions_of_a_removed_backend_go_on_until_the_deadline(machine: Machine, scripted: list[Scripted]) -> None:
    stays, goes = (each.address for each in scripted[:2])
    names = at_home(goes, [stays, goes])
    held = Raw(machine.port, next(names))
    assert held.backend == goes
    answers: list[tuple[float, str]] = []

    def keep_busy() -> None:  # a session that is quiet may be closed before the deadline
        with suppress(OSError):
            while True:
                answers.append((time.monotonic(), held.again()))
                time.sleep(0.05)

    busy = threading.Thread(target=keep_busy, daemon=True)
    busy.start()
    machine.configure(backends=[stays])
    asked = time.monotonic()
    reload(machine, 2)
    reloaded = time.monotonic()
    assert visit(machine, next(names)) == stays
    busy.join(STOP + 10)
    last = answers[-1][0]
    print(
        f"it was served for {last - reloaded:.1f} s of {STOP:g} s after the reload, which took {reloaded - asked:.1f} s"
    )
    assert {backend for _, backend in answers} == {goes}
    assert last - asked > STOP - 0.5
    assert last - reloaded < STOP + 2
    assert visit(machine, "app@after") == stays


def test_bad_file_keeps_the_old_configuration(machine: Machine, scripted: list[Scripted]) -> None:
    held = Raw(machine.port, "app@steady")
    machine.write_config(machine.config.read_text().replace("balance: rendezvous", "balance: dice"))
    machine.signal(signal.SIGHUP)
    machine.wait_log("reload refused")
    assert "balance" in machine.text()
    assert held.again() == held.backend == visit(machine, "app@steady")
    assert machine.status()["generation"] == 1
    held.close()
