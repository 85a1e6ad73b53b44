"""What the figures depend on: the machine they were taken on."""

import os
import platform
import re
import resource
from pathlib import Path

DESCRIPTORS = 19000
"""A proxy of 9,000 idle connections holds twice as many, and the benchmark's own fixtures some more."""


def describe() -> dict[str, str | int]:
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "memory_mib": int(memory[1]) // 1024 if memory else 0,
        "python": platform.python_version(),
    }


def raise_descriptor_limit(wanted: int) -> None:
    """Use all the open files this process may have. Raises SystemExit when that is less than `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(
            f"bench: the limit of open files is {hard} (soft {soft}), but the idle scenarios need {wanted}: "
            f"raise it (ulimit -Hn), or leave them out with --only"
        )
