"""Files of weights (safetensors): checked before a tensor is read, opened lazily, and written atomically."""

import errno
import json
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mcd.errors import ModelError
from mcd.files import LARGEST, JSONError, atomic_file, parse_json, read_json

WEIGHTS = {"ema": "model.safetensors", "raw": "model.raw.safetensors"}
"""The files of the two weight sets of a model folder: the average, and the weights as trained."""
FACTORS = {"ema": "adapter_model.safetensors", "raw": "adapter_model.raw.safetensors"}
"""The same of a folder that holds only factors of LoRA and names the network they belong to."""
FACTORS_CONFIG = "adapter_config.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape, and the function that reads it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def open_safetensors(paths: Iterable[Path]) -> tuple[dict[str, Stored], list[str]]:
    """The tensors of floating point in some files by name, none of which is read yet; and the names of all others.

    Raises ModelError for files that are damaged or hold one name twice.
    """
    found: dict[str, Stored] = {}
    others: list[str] = []
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    if name in found:
                        raise ModelError(f"{path}: {name} is in another file of the model too")
                    part = file.get_slice(name)
                    if part.get_dtype() in _FLOATS:
                        found[name] = Stored(tuple(part.get_shape()), partial(_read, path, name))
                    else:
                        others.append(name)
        except (OSError, SafetensorError, ValueError, OverflowError) as error:
            raise _damaged(path, error) from None
    return found, others


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:  # closed again, so that only one file is mapped
        return file.get_tensor(name)


def write_streamed(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write tensors as float32, in this order, with one of them in memory at a time.

    Raises OSError when the disk refuses, and what reading raises; nothing is left behind then.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        size = 4 * math.prod(tensor.shape)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, stored in tensors.items():
            tensor = stored.read().detach().to("cpu", torch.float32).contiguous()
            assert tensor.shape == stored.shape, name
            file.write(tensor.numpy().data)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with their own dtypes. Raises OSError when the disk refuses, and leaves the existing file."""
    with atomic_file(path) as partial:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
        except SafetensorError as error:  # it hides the system's number in its text
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from None
        partial.chmod(0o644)  # safetensors leaves files that only their owner can read


def parts_of_weights(path: Path) -> list[Path]:
    """The files of a weight set: model.safetensors, those that an index of Hugging Face names in its place, or factors.

    Raises ModelError as `files_of_index`.
    """
    index = path.with_name(path.name + ".index.json")
    if path.exists():
        return [path]
    if index.is_file():
        return files_of_index(index)
    factors = {WEIGHTS[kind]: path.with_name(name) for kind, name in FACTORS.items()}.get(path.name)
    return [path if factors is None or not factors.is_file() else factors]


def files_of_index(index: Path) -> list[Path]:
    """The files that an index of Hugging Face names, sorted, whether they exist or not.

    Raises ModelError for an index that is damaged or names anything but safetensors files in its folder.
    """
    try:
        names = list(read_json(index)["weight_map"].values())
        if not names:
            raise ValueError("holds no weight_map")
        for name in names:
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(f"names {name!r}, which is no file of its folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: cannot be read ({error})") from None
    return [index.with_name(name) for name in sorted(set(names))]


def is_pickle(path: Path) -> bool:
    """Does the file look like a pickle, bare or in PyTorch's zip archive? Only its first bytes are read."""
    with path.open("rb") as file:
        first, size = file.read(9), path.stat().st_size
    if len(first) == 9 and first[8:] == b"{" and 8 + int.from_bytes(first[:8], "little") <= size:
        return False  # a safetensors header, whose length may begin with any byte
    return first.startswith(b"PK\x03\x04") or (first[:1] == pickle.PROTO and first[1:2] in b"\1\2\3\4\5")


def header_shapes(path: Path) -> list[list[int]]:
    """The shapes that a safetensors file states, before a tensor is read or memory is taken.

    The safetensors library checks that offsets lie within the file, do not overlap and agree with the shapes. Raises
    ModelError for a file that is missing, a pickle, or damaged, with how to fix it.
    """
    if not path.is_file():
        raise ModelError(f"{path}: missing; {_why_missing(path.parent)}")
    if is_pickle(path):
        raise ModelError(
            f"{path}: not a safetensors file but a pickle, which could run code when it is read; get the model as "
            "safetensors, or where it is a checkpoint of MDLM, SDTT or Duo, "
            f"`mcd import {path} --out DIR` reads it and runs nothing"
        )
    try:
        with path.open("rb") as file:
            first = file.read(8)
            length, rest = int.from_bytes(first, "little"), path.stat().st_size - 8
            if len(first) < 8 or length > rest:
                raise JSONError("it ends within its header")
            if length > LARGEST:
                raise JSONError(f"its header claims {length:,} bytes")
            header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise JSONError("its header is no JSON object")
        header.pop("__metadata__", None)
        return [_shape(name, entry) for name, entry in header.items()]
    except JSONError as error:
        raise _damaged(path, error) from None


def _shape(name: str, entry: Any) -> list[int]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise JSONError(f"the header's entry {name[:60]!r} has no shape")
    return shape


def _why_missing(folder: Path) -> str:
    """What the folder of a missing model.safetensors holds in its place, and how to fix it."""
    pickled = next((path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLED), None)
    if pickled is None:
        return "is this run still training, or the copy incomplete?"
    try:
        published = "model_type" in read_json(folder / "config.json", strict=False)
    except (OSError, JSONError, TypeError):
        published = False
    if published:
        return (
            f"{pickled} is a pickle, never loaded; get the model as safetensors (save_pretrained of transformers "
            "writes it where you trust the file)"
        )
    return f"{pickled} is a pickle, never loaded; `mcd import {folder} --out DIR` reads it and runs nothing"


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise a ModelError that names the tensors with NaN or infinity."""
    faults = [
        f"{name} ({int((~value.isfinite()).sum())} of {value.numel()})"
        for name, value in tensors.items()
        if value.is_floating_point() and not _is_finite(value)
    ]
    if faults:
        shown = ", ".join(faults[:8]) + (f", and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ModelError(
            f"{source}: NaN or infinity in {shown}; the training that wrote it diverged, or the file is damaged"
        )


def checked(tensor: Stored, name: str, source: str) -> Stored:
    """The same tensor; reading it raises ModelError as `check_finite`."""

    def read() -> Tensor:
        value = tensor.read()
        check_finite({name: value}, source)
        return value

    return Stored(tensor.shape, read)


def _is_finite(value: Tensor) -> bool:
    """Check the sum, which needs one pass and no memory; if it overflowed, check each number."""
    if torch.promote_types(value.dtype, torch.float32) == value.dtype and math.isfinite(value.sum()):
        return True
    return bool(value.isfinite().all())


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path}: truncated or not a safetensors file ({error})")
