"""What is looked at before a model's files are trusted: nothing is unpickled, no memory is taken on a header's word."""

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mcd.errors import ModelError
from mcd.files import LARGEST, JSONError, parse_json
from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import DiTConfig

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MODEST = 1 << 26
"""Numbers (256 MiB of float32) up to which a model is built before the file of its weights is compared with it."""


def dit_of(config: DenoiserConfig) -> DiTConfig:
    """The backbone of a model that is a DiT. Raises ModelError for an adapted network."""
    if not isinstance(config.backbone, DiTConfig):
        raise ModelError("is an adapted network of Hugging Face, not a DiT as MDLM, SDTT and Duo have it")
    return config.backbone


def is_pickle(path: Path) -> bool:
    """Does the file look like a pickle, bare or in PyTorch's zip archive? Only its first bytes are read."""
    with path.open("rb") as file:
        first, size = file.read(9), path.stat().st_size
    if len(first) == 9 and first[8:] == b"{" and 8 + int.from_bytes(first[:8], "little") <= size:
        return False  # a safetensors header, whose length may begin with any byte
    return first.startswith(b"PK\x03\x04") or (first[:1] == pickle.PROTO and first[1:2] in b"\1\2\3\4\5")


def why_no_model(path: Path) -> str:
    """What is said of a file that was given in place of a model's folder."""
    mend = f"`mcd import {path} --out DIR` makes one of it"
    if path.suffix in PICKLED or is_pickle(path):
        return f"{path}: is a pickle, which can run code when it is read; a model is a folder: {mend} and runs nothing"
    return f"{path}: is a file; a model is a folder" + (f": {mend}" if path.suffix == ".safetensors" else "")


def check_weights_file(path: Path) -> list[list[int]]:
    """The shapes a safetensors file holds; raises ModelError for what is none, before a tensor is read or made.

    That offsets lie within the file, do not overlap and agree with the shapes is left to the safetensors library.
    """
    if not path.is_file():
        others = [other.name for other in sorted(path.parent.glob("*")) if other.suffix in PICKLED]
        mend = "is this run still training, or the copy incomplete?"
        if others:
            mend = (
                f"{others[0]} is a pickle, never loaded; `mcd import {path.parent} --out DIR` reads it and runs nothing"
            )
        raise ModelError(f"{path}: missing; {mend}")
    if is_pickle(path):
        raise ModelError(
            f"{path}: not a safetensors file but a pickle, which could run code when it is read; get the model as "
            f"safetensors, or `mcd import {path} --out DIR`, which runs nothing"
        )
    try:
        return header_shapes(path)
    except JSONError as error:
        raise ModelError(f"{path}: truncated or not a safetensors file ({error})") from None


def check_size(path: Path, shapes: list[list[int]], config: DenoiserConfig) -> None:
    """Raise ModelError when the weights at `path`, of these shapes, are far from those that a configuration asks for.

    Of an adapted network only its largest matrices and its layers are compared.
    """
    held, backbone = sum(map(math.prod, shapes)), config.backbone
    if isinstance(backbone, DiTConfig):
        needed, layers = backbone.parameters, backbone.layers
    else:
        inner, layers = (backbone.settings.get(key, 0) for key in ("intermediate_size", "num_hidden_layers"))
        sizes = [n if type(n) is int else 0 for n in (inner, layers)]
        needed, layers = max(held, backbone.hidden * max(backbone.rows, sizes[0])), sizes[1]
    if max(held, needed) > max(2 * min(held, needed), MODEST) or layers > max(len(shapes), 1000):
        raise ModelError(
            f"{path}: does not fit its config.json: it holds {held:,} numbers in {len(shapes):,} tensors, "
            f"and the configuration is of {needed:,} in {layers:,} layers"
        )


def header_shapes(path: Path) -> list[list[int]]:
    """The shapes in the header of a safetensors file. Raises JSONError when the header is none."""
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


def _shape(name: str, entry: Any) -> list[int]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise JSONError(f"the header's entry {name[:60]!r} has no shape")
    return shape


def check_finite_file(path: Path) -> None:
    """`check_finite` of a file, one tensor in memory at a time. Raises ModelError also where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                check_finite({name: file.get_tensor(name)}, str(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: truncated or not a safetensors file ({error})") from None


def check_finite(tensors: dict[str, Tensor], source: str) -> None:
    """Raise ModelError that names the tensors in which NaN or infinity stands."""
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


def _is_finite(value: Tensor) -> bool:
    """By the sum, which one pass without memory gives; where it overflowed, number by number."""
    if torch.promote_types(value.dtype, torch.float32) == value.dtype and math.isfinite(value.sum()):
        return True
    return bool(value.isfinite().all())
