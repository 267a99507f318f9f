"""Facts about this machine and what of it this process may use: versions, processor, cores, memory.

Cores and memory are those within the limits of the process's control group, as containers set them.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mcd
from mcd.errors import MissingCompiler

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")
FEW_CORES = 4
"""Cores up to which waking a thread costs less than a core that spins."""
OWN_CGROUP = Path("/proc/self/cgroup")


def environment() -> dict[str, Any]:
    """Versions and machine facts that a number may depend on; run.json holds them."""
    import torch

    git = ["git", "-C", str(Path(mcd.__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "mcd": mcd.__version__,
        "git_commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    } | (
        {"gpu": torch.cuda.get_device_name(device()), "tf32": torch.backends.cuda.matmul.allow_tf32}
        if torch.cuda.is_available()
        else {}
    )


def machine() -> dict[str, Any]:
    """What the numbers of a benchmark depend on: `environment`, system, processor, memory and the time."""
    name = _cpuinfo("model name") or platform.processor()
    facts = environment() | {"system": platform.system(), "cpu": name, "time": datetime.now(UTC).isoformat()}
    memory, _ = usable_memory()
    return facts if memory is None else facts | {"memory_bytes": memory}


def device() -> "torch.device":
    """Where networks run: this process's CUDA device, or the CPU where there is none."""
    import torch

    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def check_compiler() -> None:
    """Raise MissingCompiler when there is no C++ compiler, or no Python.h, for the kernels that torch.compile writes
    for CPUs. PyTorch itself would say so only in the first step, in a page of traceback.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        lacks, package = f"a C++ compiler, and {compiler} is not found", "g++"
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacks, package = "Python.h, the headers of Python", "python3-dev"
    else:
        return
    raise MissingCompiler(
        f"--compile: needs {lacks}; install it (on Debian and Ubuntu: apt install {package}) or give --no-compile"
    )


def cpu_flags() -> set[str]:
    """The processor's features by the kernel's names; empty where the kernel names none."""
    return set((_cpuinfo("flags") or _cpuinfo("features")).split())


def usable_cores() -> tuple[int, float | None]:
    """Cores that this process may run on, and the quota of its control group in cores (None when there is none)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [int(words[0]) / int(words[1]) for words in _limits("cpu.max") if words[0] != "max" and len(words) == 2]
    version_1 = zip(_limits("cpu/cpu.cfs_quota_us"), _limits("cpu/cpu.cfs_period_us"), strict=False)
    quotas += [int(quota[0]) / int(period[0]) for quota, period in version_1 if int(quota[0]) > 0]
    return cores, min(quotas, default=None)


def let_threads_sleep() -> bool:
    """Let the threads of OpenMP sleep while they wait for each other, instead of spinning; returns whether it was set.

    It must be called before torch is imported. Each small product of a small network ends with its threads waiting for
    each other. On few cores that other programs use too, a thread that spins takes the core that the thread it waits
    for needs: two threads then took 6 to 7 s for a step of the bundled model, and 0.8 to 1.0 s asleep. On many cores,
    where waking costs more, and where the user has chosen, nothing is set.
    """
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()
    if chosen or usable_cores()[0] > FEW_CORES:
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def usable_memory() -> tuple[int | None, int | None]:
    """Bytes of memory of the machine, and the lower limit of the control group; None where the system gives none."""
    total = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = _limits("memory.max") + _limits("memory/memory.limit_in_bytes")
    limit = min((int(words[0]) for words in found if words[0].isdigit()), default=None)
    return total, limit if limit is not None and (total is None or limit < total) else None


def available_memory() -> int | None:
    """Bytes that new work can take without swapping, as the kernel counts; None where it does not count."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _cpuinfo(field: str) -> str:
    """The first value of a field of /proc/cpuinfo, or ""."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.lower().startswith(field)), "").partition(":")[2].strip()


def _limits(name: str) -> list[list[str]]:
    """The words of the file `name` in the control group of this process and in all groups above it."""
    controller, _, file = name.rpartition("/")
    try:
        lines = [line.split(":", 2) for line in OWN_CGROUP.read_text().splitlines()]
    except OSError:
        return []
    own = next((path for _, names, path in lines if controller in names.split(",")), None)
    if own is None:
        return []
    top, found = CGROUPS / controller, []
    group = top / own.lstrip("/")
    for folder in (group, *group.parents):
        if folder == top.parent:
            break
        try:
            found.append((folder / file).read_text().split())
        except OSError:
            continue
    return [words for words in found if words]
