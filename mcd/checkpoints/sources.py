"""Public checkpoints on disk, opened and not yet read: a hub snapshot or folder, a bare safetensors file, a .ckpt."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mcd.checkpoints.folder import files_of_index
from mcd.checkpoints.lightning import read_lightning, total_bytes
from mcd.errors import ModelError

Container = Literal["hub", "lightning", "bare"]
INDEX = "model.safetensors.index.json"
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_MOST_CONFIG = 16 << 20
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose names, shapes and configuration are known; tensors are read one at a time.

    shapes: of the file's own keys; read: the tensor of a key; files: what was opened; container: "hub" (config.json
    beside safetensors), "lightning" (a .ckpt) or "bare" (weights alone). ema: shapes of the averaged parameters in the
    model's order; read_ema: one of them. others: keys that hold no weights. unused: parts of the file that are not
    looked at. tokenizer: JSON that was found inside. averaged, nameless: as of `mcd.checkpoints.lightning.Lightning`.
    """

    source: str
    container: Container
    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    ema: Sequence[tuple[int, ...]] | None = None
    read_ema: Callable[[int], Tensor] | None = None
    ema_decay: float | None = None
    steps: int | None = None
    others: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    tokenizer: str | None = None
    averaged: bool = False
    nameless: bool = False


def open_checkpoint(path: Path) -> Opened:
    """Open a file of weights, or a folder of config.json and model.safetensors, its index or pytorch_model.bin, or of
    one .ckpt.

    Raises ModelError, naming the file, for what is missing, damaged or of no known kind.
    """
    if path.is_dir():
        checkpoints = sorted(path.glob("*.ckpt"))
        if len(checkpoints) == 1 and not any((path / name).exists() for name in (INDEX, *_SINGLE)):
            has_config = (path / "config.json").exists()
            return _open_file(checkpoints[0], read_json(path / "config.json") if has_config else None)
        config = read_json(path / "config.json")
        if (path / INDEX).is_file():
            files = tuple(files_of_index(path / INDEX))
            for file in files:
                if not file.is_file():
                    raise ModelError(f"{file}: missing; is the copy complete?")
        else:
            files = tuple(path / name for name in _SINGLE if (path / name).is_file())[:1]
        if not files:
            names = ", ".join(file.name for file in checkpoints[:3])
            mend = f"name one of its files ({names})" if names else "is the copy complete?"
            raise ModelError(f"{path}: no {_SINGLE[0]}, {INDEX} or {_SINGLE[1]} in this folder; {mend}")
        return _open_file(files[0], config) if files[0].suffix == ".bin" else _open_safetensors(files, "hub", config)
    if not path.is_file():
        raise ModelError(f"{path}: no such file or folder")
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02") or path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return _open_file(path, None)
    beside = path.parent / "config.json"
    if beside.is_file():
        return _open_safetensors((path,), "hub", read_json(beside))
    return _open_safetensors((path,), "bare", {})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError when the file is missing, too large, damaged or holds something else."""
    try:
        if path.stat().st_size > _MOST_CONFIG:
            raise ModelError(f"{path}: {path.stat().st_size} bytes, too many for a configuration")
        value = json.loads(path.read_text(encoding="utf-8"))
    except ModelError:
        raise
    except FileNotFoundError:
        raise ModelError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return value


def _open_file(path: Path, config: dict[str, Any] | None) -> Opened:
    checkpoint = read_lightning(path)
    weights, ema, file = checkpoint.weights, checkpoint.ema, checkpoint.file
    for views in (tuple(weights.values()), ema or ()):
        if total_bytes(views) > path.stat().st_size:
            raise ModelError(f"{path}: its tensors share storages; written out they would be larger than the file")
    return Opened(
        source=str(path),
        container="lightning" if checkpoint.config or checkpoint.nameless else "hub" if config else "bare",
        files=(path,),
        shapes={name: view.shape for name, view in weights.items()},
        read=lambda name: file.read(weights[name]),
        config=checkpoint.config or config or {},
        ema=None if ema is None else [view.shape for view in ema],
        read_ema=None if ema is None else lambda i: file.read(ema[i]),
        ema_decay=checkpoint.ema_decay,
        steps=checkpoint.steps,
        others=checkpoint.others,
        unused=checkpoint.unused,
        tokenizer=checkpoint.tokenizer,
        averaged=checkpoint.averaged,
        nameless=checkpoint.nameless,
    )


def _open_safetensors(files: Sequence[Path], container: Container, config: dict[str, Any]) -> Opened:
    shapes: dict[str, tuple[int, ...]] = {}
    home: dict[str, Path] = {}
    others = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    if name in home:
                        raise ModelError(f"{path}: {name} is in {home[name].name} too")
                    part = file.get_slice(name)
                    home[name] = path
                    if part.get_dtype() in _FLOATS:
                        shapes[name] = tuple(part.get_shape())
                    else:
                        others.append(name)
        except (OSError, SafetensorError, ValueError, OverflowError) as error:
            raise ModelError(f"{path}: truncated or not a safetensors file ({error})") from None

    def read(name: str) -> Tensor:
        with safe_open(home[name], framework="pt") as file:  # closed again, so that no more than one is mapped
            return file.get_tensor(name)

    return Opened(str(files[0]), container, tuple(files), shapes, read, config, others=tuple(others))
