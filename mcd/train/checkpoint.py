"""Checkpoints: tensors in safetensors, the rest in JSON, written whole or not at all, never pickled."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mcd.data.corpus import file_sha256
from mcd.model.pretrained import write_tensors

KEEP = 2


class CheckpointError(RuntimeError):
    """No usable checkpoint where one was expected; the message says which file and why."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON by way of a temporary file, so that a reader never sees half of it."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write `folder/step-XXXXXXXX` under a temporary name, rename it, then drop all but the last `KEEP`."""
    final = folder / f"step-{step:08d}"
    partial = folder / f"partial-{step:08d}"
    for stale in folder.glob("partial-*"):  # of runs that were killed here
        shutil.rmtree(stale)
    partial.mkdir(parents=True)
    try:
        write_tensors(partial / "state.safetensors", tensors)
        write_json(partial / "state.json", {**meta, "sha256": file_sha256(partial / "state.safetensors")})
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)


def load_latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest readable checkpoint as (tensors, meta), or None when there is none.

    A damaged one is passed over for the one before; if all are damaged, CheckpointError names them.
    """
    faults = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            meta = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if meta.pop("sha256") != file_sha256(path / "state.safetensors"):
                raise ValueError("its checksum differs from the one in state.json")
            return load_file(path / "state.safetensors"), meta
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            faults.append(f"{path}: {error}")
    if faults:
        raise CheckpointError("no readable checkpoint; " + "; ".join(faults))
    return None


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The tensors of the optimisers' states, as `optimizer.{i}.{parameter}.{name}`."""
    return {
        f"optimizer.{i}.{index}.{name}": value
        for i, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out; groups and their options stay as configured."""
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer.{i}."
        for key, value in tensors.items():
            if key.startswith(prefix):
                index, name = key.removeprefix(prefix).split(".")
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
