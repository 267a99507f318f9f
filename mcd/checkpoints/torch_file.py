"""Files of `torch.save`, read without running anything in them.

The pickle inside goes through `mcd.checkpoints.inert_pickle`. Tensors are views of storages that are read from the zip
archive one at a time, after every size, offset and stride has been checked against it.
"""

import math
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcd.checkpoints.inert_pickle import Inert, Name, PickleFault, mapping, read_pickle
from mcd.checkpoints.weights import Stored
from mcd.errors import ModelError

_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}
"""Storages of weights, by the name of their class in torch."""


@dataclass(frozen=True)
class View:
    """A tensor that has not been read: its storage, which has `elements` numbers, and its place there."""

    key: str
    dtype: torch.dtype
    elements: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class TorchFile:
    """A file of `torch.save` in the zip format (torch 1.6 and later), opened: `root` is the tree of its pickle.

    Raises ModelError, naming the file and what is wrong, for anything else.
    """

    def __init__(self, path: Path):
        self.path = path
        self._last: tuple[str, Tensor] | None = None
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(_OLD_FORMAT):
            raise ModelError(
                f"{path}: in torch's old format (before 1.6), which is not read here; where you trust the file, "
                "load it with torch and save it again with torch.save"
            )
        if not start.startswith(b"PK"):
            raise ModelError(f"{path}: not a file of torch.save (no zip archive); is the download complete?")
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise self._damaged(error) from None
        names = [name for name in self._zip.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ModelError(f"{path}: a zip archive, but not of torch.save (no data.pkl)")
        self._folder = names[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in self._zip.namelist() and self._bytes("byteorder", most=16) != b"little":
            raise ModelError(f"{path}: of a big-endian machine, which is not read here")
        try:
            self.root = read_pickle(bytes(self._bytes("data.pkl")))
        except PickleFault as error:
            raise ModelError(f"{path}: {error}") from None

    def _damaged(self, error: Exception) -> ModelError:
        return ModelError(f"{self.path}: truncated or damaged ({error})")

    def _bytes(self, name: str, most: int | None = None) -> bytearray:
        """The bytes of an entry, their checksum compared. `most`: refuse more."""
        try:
            info = self._zip.getinfo(self._folder + name)
        except KeyError:
            raise ModelError(f"{self.path}: it refers to {name}, which is not in it") from None
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > (most or self.path.stat().st_size):
            raise ModelError(f"{self.path}: {name} is compressed, or larger than the file; torch.save writes no such")
        data = bytearray()
        try:
            with self._zip.open(info) as entry:
                while chunk := entry.read(1 << 24):  # the last one compares the checksum
                    data += chunk
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise self._damaged(error) from None
        return data

    def tensors(self, nodes: Any) -> dict[Any, Stored]:
        """The tensors of weights in a mapping by name, or in a list by index, in its order.

        Raises ModelError as `view`, and for tensors that share storages and together would fill more than the file.
        """
        named = enumerate(nodes) if isinstance(nodes, list) else (mapping(nodes) or {}).items()
        kind = int if isinstance(nodes, list) else str
        views = {name: view for name, node in named if type(name) is kind and (view := self.view(node))}
        if sum(math.prod(view.shape) * view.dtype.itemsize for view in views.values()) > self.path.stat().st_size:
            raise ModelError(f"{self.path}: its tensors share storages; written out they would be larger than the file")
        return {name: Stored(view.shape, partial(self.read, view)) for name, view in views.items()}

    def view(self, node: Any) -> View | None:
        """The place of the tensor that `node` would have been; None if it is not a tensor of weights.

        Raises ModelError when its sizes, strides or offset lead out of its storage.
        """
        match node:
            case Inert(maker=Name("torch._utils", "_rebuild_parameter"), args=(inner, *_)):
                node = inner
        match node:
            case Inert(
                maker=Name("torch._utils", "_rebuild_tensor_v2"),
                args=(Inert(maker="persistent", args=("storage", Name(name=kind), str(key), _, elements, *_)), *rest),
            ) if kind in _DTYPES and len(rest) >= 3:
                offset, shape, stride = rest[:3]
            case _:
                return None
        tuples = type(shape) is tuple and type(stride) is tuple and len(shape) == len(stride) <= 8
        if not tuples or any(type(n) is not int or n < 0 for n in (elements, offset, *shape, *stride)):
            raise ModelError(f"{self.path}: a tensor with sizes or strides that are no whole numbers")
        numel = math.prod(shape)
        end = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1 if numel else offset
        if numel > elements or end > elements:
            raise ModelError(f"{self.path}: a tensor of shape {shape}, strides {stride} leads out of its storage")
        return View(key, _DTYPES[kind], elements, offset, shape, stride)

    def read(self, view: View) -> Tensor:
        """The tensor itself. Raises ModelError when its storage is missing, damaged or of another size."""
        if self._last is None or self._last[0] != view.key:
            self._last = None  # it is freed before the next is read: one storage at a time
            data = self._bytes(f"data/{view.key}")
            if len(data) != view.elements * view.dtype.itemsize:
                raise ModelError(f"{self.path}: storage {view.key} has {len(data)} bytes, not its declared size")
            flat = torch.frombuffer(data, dtype=view.dtype) if data else torch.empty(0, dtype=view.dtype)
            self._last = view.key, flat
        flat = self._last[1]
        if flat.dtype != view.dtype or len(flat) != view.elements:
            raise ModelError(f"{self.path}: storage {view.key} is declared with two dtypes")
        return flat.as_strided(view.shape, view.stride, view.offset)
