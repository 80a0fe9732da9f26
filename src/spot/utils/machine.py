"""This machine: what it is, and what this process may use of it."""

from __future__ import annotations

import os
import platform
import resource
from contextlib import suppress
from pathlib import Path

from spot.utils.progress import say

CPUINFO = Path("/proc/cpuinfo")
SPARE_FILES = 64  # that may be opened beside connections: rows, logs, pipes to graders, modules
LIMITS = (  # of this process's control group, version 2 and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def processor() -> str:
    """`2 cores of AMD EPYC 7763`: those this process may use, and their model where the system tells."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(named, platform.processor() or platform.machine())
    return f"{cores()} cores of {model}"


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory() -> float:
    """Bytes of main memory that this process may use: the machine's, or what its container is given."""
    here = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits = (path.read_text().strip() for path in LIMITS if path.is_file())
    return min([here, *(float(limit) for limit in limits if limit.isdecimal())])


def set_threads(threads: int | None) -> None:
    """Let torch use so many cores; the order of additions, so the last bits, depend on it."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def connections(wanted: int, stage: str) -> int:
    """How many of the `wanted` connections may be open at once, at least one.

    Raises the limit of open files to what the system allows, and says where that is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS names no limit, and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    left = max(1, limit - len(os.listdir("/dev/fd")) - SPARE_FILES)
    if left < wanted:
        say(
            f"{stage}: {left} requests at once, not {wanted}: this system allows {limit} open files "
            "(ulimit -Hn)"
        )
    return min(left, wanted)
