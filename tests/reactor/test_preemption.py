"""The rules of `scheduling: auto`, with the kernel's accounts written by hand; test_scheduling.py has real workers."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from puerta.reactor.preemption import LONG_WAIT, LONGEST_PAUSE, QUIET, SHORTEST_PAUSE, Preemption

TICK = 0.1


class Kernel:
    """What it would answer, and what it was asked to do."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.now = path, 1000.0
        self.account = [0, 0, 0]
        self.asked: list[int] = []
        self.forbids = False
        monkeypatch.setattr(os, "sched_setscheduler", self.set)
        self.preemption = Preemption("auto")
        assert self.preemption.accounts is not None
        path.write_text("0 0 0\n")
        with path.open() as file:
            os.dup2(file.fileno(), self.preemption.accounts)
        self.preemption.look(self.now)

    def set(self, pid: int, policy: int, parameter: os.sched_param) -> None:
        assert (pid, parameter.sched_priority) == (0, 0)
        if self.forbids:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        self.asked.append(policy)

    def tick(self, share: float, wait: float, slices: int = 100) -> bool:
        """Returns whether the policy is SCHED_BATCH afterwards."""
        self.now += TICK
        for index, more in enumerate((share * TICK * 1e9, wait * slices * 1e9, slices)):
            self.account[index] += round(more)
        self.path.write_text(" ".join(map(str, self.account)) + "\n")
        self.preemption.look(self.now)
        return self.preemption.batch

    def ticks_until_batch(self) -> int:
        return next(count for count in range(1, 10_000) if self.tick(0.5, LONG_WAIT / 4))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel(tmp_path / "schedstat", monkeypatch)
    yield made
    made.preemption.close()


def test_a_busy_worker_is_batch_until_it_was_quiet_for_a_while(kernel: Kernel) -> None:
    assert not kernel.tick(0.05, 0)
    assert kernel.tick(0.3, LONG_WAIT * 2), "what it waited before says nothing: it preempted others then"
    assert kernel.tick(0.3, LONG_WAIT / 2)
    assert kernel.tick(0.0, 0, slices=0)
    assert kernel.tick(0.3, LONG_WAIT / 2)
    quiet = next(count for count in range(1, 100) if not kernel.tick(0.1, LONG_WAIT / 2))
    assert quiet * TICK == pytest.approx(QUIET, abs=2 * TICK)
    assert kernel.tick(0.3, LONG_WAIT / 2), "that was no failure: the next try needs no pause"
    assert kernel.asked == [os.SCHED_BATCH, os.SCHED_OTHER, os.SCHED_BATCH]


def test_a_few_long_waits_do_not_matter(kernel: Kernel) -> None:
    """As of an idle worker's own ticks, beside busy loops."""
    assert kernel.tick(0.3, 0)
    for _ in range(10):
        assert kernel.tick(0.001, LONG_WAIT * 10, slices=2)


def test_a_worker_that_waits_long_gives_it_up_and_tries_ever_more_rarely(kernel: Kernel) -> None:
    pauses = []
    for _ in range(9):
        pauses.append(kernel.ticks_until_batch() * TICK)
        assert not kernel.tick(0.3, LONG_WAIT * 1.1)
    assert pauses == pytest.approx([TICK, 1, 2, 4, 8, 16, 32, 64, 64], abs=2 * TICK)
    assert kernel.asked == [os.SCHED_BATCH, os.SCHED_OTHER] * 9


def test_a_long_success_makes_it_try_often_again(kernel: Kernel) -> None:
    for _ in range(5):
        kernel.ticks_until_batch()
        kernel.tick(0.3, LONG_WAIT * 2)
    kernel.ticks_until_batch()
    for _ in range(round(LONGEST_PAUSE / TICK) + 1):
        assert kernel.tick(0.3, LONG_WAIT / 2)
    assert not kernel.tick(0.3, LONG_WAIT * 2)
    assert kernel.ticks_until_batch() * TICK == pytest.approx(SHORTEST_PAUSE, abs=2 * TICK)


def test_a_sandbox_that_forbids_it_costs_one_line(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.forbids = True
    for _ in range(3):
        assert not kernel.tick(0.5, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "scheduling: batch is not to be had here, going on without it: Operation not permitted"
    ]


def test_where_the_kernel_does_not_count_it_stays_normal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(path: str, flags: int) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    caplog.set_level("INFO")
    monkeypatch.setattr(os, "open", missing)
    preemption = Preemption("auto")
    preemption.look(1.0)
    assert not preemption.batch and "auto is not to be had here, going on with normal: No such file" in caplog.text


def test_a_policy_that_somebody_chose_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: os.SCHED_RR)
    preemption = Preemption("auto")
    preemption.look(1.0)
    assert preemption.accounts is None and not preemption.batch
