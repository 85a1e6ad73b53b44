"""What the kernel says about our processes: CPU time, memory and open descriptors, from /proc (proc(5))."""

import os
from dataclasses import dataclass

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since the process began (user and system), resident bytes, descriptors (None: we may not look)."""

    cpu: float
    resident: int
    descriptors: int | None


def usage(pid: int) -> Usage | None:
    """None when there is no such process, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
        return Usage(
            cpu=(int(fields[11]) + int(fields[12])) / TICKS,
            resident=int(fields[21]) * PAGE,
            descriptors=_descriptors(pid),
        )
    except (OSError, ValueError, IndexError):
        return None


def _descriptors(pid: int) -> int | None:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
