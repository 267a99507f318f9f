"""What this process may use of the machine: cores and memory, within the limits of its control group (containers)."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def usable_cores() -> tuple[int, float | None]:
    """Cores that this process may run on, and the quota of its control group in cores (None when there is none)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [int(words[0]) / int(words[1]) for words in _read("cpu.max") if words[0] != "max" and len(words) == 2]
    limits = zip(_read("cpu/cpu.cfs_quota_us"), _read("cpu/cpu.cfs_period_us"), strict=False)  # version 1
    quotas += [int(quota[0]) / int(period[0]) for quota, period in limits if int(quota[0]) > 0]
    return cores, min(quotas, default=None)


def usable_memory() -> tuple[int | None, int | None]:
    """Bytes of memory of the machine, and the limit of the control group below it; None where nothing says."""
    total = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [int(words[0]) for name in ("memory.max", "memory/memory.limit_in_bytes") for words in _read(name)
              if words[0].isdigit()]  # fmt: skip
    limit = min(limits, default=None)
    return total, limit if limit is not None and (total is None or limit < total) else None


def available_memory() -> int | None:
    """Bytes that new work could take without swapping, as the kernel counts; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _read(name: str) -> list[list[str]]:
    """The words of such a file in the control group of this process and in all above it."""
    controller, _, file = name.rpartition("/")
    try:
        lines = [line.split(":", 2) for line in OWN.read_text().splitlines()]
    except OSError:
        return []
    own = next((path for _, names, path in lines if controller in names.split(",")), None)
    if own is None:
        return []
    top = CGROUPS / controller
    here = top / own.lstrip("/")
    found = []
    for folder in (here, *here.parents):
        if folder == top.parent:
            break
        try:
            words = (folder / file).read_text().split()
        except OSError:
            continue
        if words:
            found.append(words)
    return found
