"""What a side costs: the CPU time and the memory of every process it consists of, read from /proc.

A side is a tree: Puerta is a master, workers, a supervisor and perhaps a store; nginx a master and workers. All are
counted, so a side can't win by moving work into another of its processes.
"""

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

CPUCLOCK_SCHED = 2
"""Linux' kind of CPU clock that counts what the scheduler gave; a clock of another process is ~pid << 3 | kind."""

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process of a side at one moment."""

    pid: int
    title: str
    cpu_seconds: float
    """User and system time of all its threads, and of its children that it has waited for."""


def stat_fields(text: str) -> list[str]:
    """The fields of /proc/PID/stat from `state` on (proc(5), field 3): the name before may hold blanks and brackets."""
    return text[text.rindex(")") + 2 :].split()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that it has waited for. Raises OSError when there is no such process.

    Its own time is the reading of its CPU clock, in nanoseconds: what clock_getcpuclockid(3) would name. /proc/PID/stat
    has it in steps of 10 ms, which is too coarse for a turn; that of the children is only there.
    """
    own = time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    return own + children_seconds((PROC / str(pid) / "stat").read_text())


def children_seconds(stat: str) -> float:
    """cutime + cstime (fields 16 and 17) of a /proc/PID/stat."""
    return sum(int(field) for field in stat_fields(stat)[13:15]) / TICKS


def parents() -> dict[int, int]:
    """pid → parent's pid, of all processes that can be seen."""
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                found[int(entry.name)] = int(stat_fields((entry / "stat").read_text(errors="replace"))[1])
    return found


def tree(root: int) -> list[int]:
    """`root` and all that descend from it, parents first."""
    parent_of = parents()
    found = [root]
    for pid in found:  # grows while we walk it
        found += [child for child, parent in parent_of.items() if parent == pid]
    return found


def title_of(pid: int) -> str:
    return short_title((PROC / str(pid) / "cmdline").read_bytes())


def short_title(cmdline: bytes) -> str:
    """A process's title, or its program, without path and options."""
    text = cmdline.replace(b"\0", b" ").decode(errors="replace").strip()
    return re.split(r"\s+[-/]", re.sub(r"^/\S*/", "", text))[0][:60]


def look(root: int) -> list[Process]:
    """Every process of the tree with the CPU time it has used so far."""
    found = []
    for pid in tree(root):
        with contextlib.suppress(OSError, ValueError):
            found.append(Process(pid, title_of(pid), cpu_seconds(pid)))
    return found


def spent(before: list[Process], after: list[Process]) -> dict[str, float]:
    """CPU seconds by process between two looks, `TITLE (PID)` → seconds."""
    earlier = {process.pid: process.cpu_seconds for process in before}
    return {
        f"{process.title} ({process.pid})": round(process.cpu_seconds - earlier.get(process.pid, 0.0), 6)
        for process in after
    }


def memory(root: int) -> int:
    """Bytes of memory of the tree: the proportional set size, so that pages shared by forked workers count once.

    Where the kernel does not let us read that, the resident set size.
    """
    return sum(_memory_of(pid) for pid in tree(root))


def _memory_of(pid: int) -> int:
    for name, pattern in (("smaps_rollup", r"^Pss:\s+(\d+) kB"), ("status", r"^VmRSS:\s+(\d+) kB")):
        with contextlib.suppress(OSError):
            match = re.search(pattern, (PROC / str(pid) / name).read_text(), re.MULTILINE)
            if match:
                return int(match[1]) * 1024
    return 0


def end(pids: list[int], seconds: float = 2.0) -> None:
    """Kill what is left of a tree whose root has been told to stop; `pids` were read while it lived."""
    deadline = time.monotonic() + seconds
    left = [pid for pid in pids if alive(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if alive(pid)]
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether the process still runs: a zombie does not."""
    try:
        return stat_fields((PROC / str(pid) / "stat").read_text())[0] != "Z"
    except OSError:
        return False
