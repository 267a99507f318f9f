"""Checkpoints: tensors in safetensors, the rest in JSON, written atomically, never pickled.

`step-XXXXXXXX/` holds `state.json` and `state.safetensors`; of a sharded run, one `shard-...` file per process,
written
and read by torch.distributed.checkpoint. Either is resumed on any number of processes, sharded or not.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mcd.checkpoints.weights import write_tensors
from mcd.errors import CheckpointError
from mcd.files import file_sha256, read_json, sync_folder, write_json
from mcd.progress import notice
from mcd.training.ranks import barrier, broadcast, first_alone, is_sharded, rank
from mcd.training.state import Counters, TrainState

KEEP = 2


def save_checkpoint(folder: Path, state: TrainState) -> None:
    """Write `folder/step-XXXXXXXX` under a temporary name, rename it, then drop all but the last `KEEP`.

    All processes must call it. The state of a run that is not sharded is written only by the first one. Raises OSError
    when the disk refuses, and then leaves the older checkpoints as they were.
    """
    step, tensors = state.counters.step, state.tensors()
    final, partial, replaced = (folder / f"{kind}-{step:08d}" for kind in ("step", "partial", "partial-old"))
    with first_alone():
        if rank() == 0:
            for stale in folder.glob("partial-*"):  # of runs that were killed here
                shutil.rmtree(stale)
            partial.mkdir(parents=True)
    try:
        if _sharded(tensors):
            _save_shards(partial, tensors)
        elif rank() == 0:
            write_tensors(partial / "state.safetensors", tensors)
        if rank() == 0:
            files = {path.name: file_sha256(path) for path in sorted(partial.glob("*.safetensors"))}
            counters = state.meta()
            content = {"counters": counters, "files": files, "sha256": _digest(counters, files)}
            write_json(partial / "state.json", content)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if rank() == 0:
        sync_folder(partial)
        if final.exists():  # of a run that was stopped right after it; never without one of the two
            final.replace(replaced)
        partial.replace(final)
        sync_folder(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        for old in sorted(folder.glob("step-*"))[:-KEEP]:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, state: TrainState) -> bool:
    """Fill `state` from the newest readable checkpoint; False when there is none.

    A damaged one is passed over for the one before; if all are damaged, CheckpointError names them. The first process
    chooses for all, and each reads what it needs.
    """
    chosen: tuple[Path, dict[str, Any], list[str]] | CheckpointError | None = None
    if rank() == 0:
        try:
            chosen = newest(folder)
        except CheckpointError as error:
            chosen = error
    chosen = broadcast(chosen)
    if isinstance(chosen, CheckpointError):
        raise chosen
    if chosen is None:
        return False
    path, meta, faults = chosen
    if rank() == 0 and faults:
        notice(f"mcd: resumes from {path.name}, since these are damaged: {'; '.join(faults)}")
    try:
        _load_shards(path, state)
        state.ema.updates = meta.pop("ema_updates")
        state.counters = Counters(**meta)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is of another model or another version of mcd ({error})") from None
    return True


def newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The newest checkpoint that is what it was when written, its counters, and the faults of newer ones; None when
    there is none at all.

    Raises CheckpointError when all are damaged.
    """
    faults: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return path, _verified(path), faults
        except (OSError, ValueError) as error:
            faults.append(f"{path}: {error}")
    if faults:
        raise CheckpointError("no readable checkpoint; " + "; ".join(faults))
    return None


def _verified(path: Path) -> dict[str, Any]:
    """The counters of a checkpoint, all of whose checksums hold. Raises OSError or ValueError."""
    try:
        content = read_json(path / "state.json")
        counters, files, digest = content["counters"], content["files"], content["sha256"]
        if digest != _digest(counters, files) or not files or any(Path(name).name != name for name in files):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("state.json is damaged, or of another version of mcd") from None
    for name, expected in files.items():
        if expected != file_sha256(path / name):
            raise ValueError(f"the checksum of {name} differs from the one in state.json")
    return counters


def _digest(counters: dict[str, Any], files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([counters, files], sort_keys=True).encode()).hexdigest()


def _save_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.WARNING)
    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    for path in folder.glob(f"shard-{rank() + 1:05d}-*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    barrier()


def _load_shards(folder: Path, state: TrainState) -> None:
    """Fill the tensors of `state`, sharded or whole, from the files of a checkpoint, sharded or whole."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    stored = reader.read_metadata().state_dict_metadata
    shapes = {name: torch.Size(info.size) for name, info in stored.items()}  # type: ignore[union-attr]
    state.prepare(shapes)
    tensors = state.tensors()
    other = [name for name in sorted(tensors.keys() | shapes.keys()) if shapes.get(name) != _shape(tensors.get(name))]
    if other:
        raise ValueError(f"{len(other)} tensors do not match: {', '.join(other[:4])}" + ", ..." * (len(other) > 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no process group is there, which is so by intent
        load(tensors, storage_reader=reader, no_dist=not _sharded(tensors))


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _sharded(tensors: dict[str, Tensor]) -> bool:
    return any(is_sharded(value) for value in tensors.values())
