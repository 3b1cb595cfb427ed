"""What this process may use of its machine."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def cores() -> int:
    """The CPU cores that this process may use: those it may run on, at most its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([allowed or 1, *map(math.ceil, _quotas(GROUPS, MOUNT))]))


def limit_threads() -> None:
    """Let libraries start no more threads than there are cores, where a quota allows fewer."""
    if hasattr(os, "sched_getaffinity") and cores() < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def _quotas(groups: Path, mount: Path) -> Iterator[float]:
    """The CPU quotas of this process's control groups (versions 1 and 2), in cores."""
    try:
        lines = groups.read_text("utf-8").split("\n")
    except OSError:
        return  # not Linux
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and "cpu" not in names.split(","):
            continue
        roots = [mount / names, mount / "cpu"] if names else [mount, mount / "unified"]
        for root in roots:
            inside = root / path.strip("/")
            for folder in [inside, *inside.parents]:
                if folder.is_relative_to(root):
                    with contextlib.suppress(OSError, ValueError):
                        yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one group, if it has one."""
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text("ascii").split()
    else:
        quota = (folder / "cpu.cfs_quota_us").read_text("ascii")
        period = (folder / "cpu.cfs_period_us").read_text("ascii")
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)
