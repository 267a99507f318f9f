"""Checkpoints of `torch.save`, Lightning's among them, read without running anything in them.

The pickle inside goes through `mcd.checkpoints.inert_pickle`; tensors are views of storages that are read from the zip
file one at a time, after every size, offset and stride has been checked against it.
"""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcd.checkpoints.inert_pickle import PERSISTENT, Inert, Name, PickleFault, attributes, mapping, plain, read_pickle
from mcd.errors import ModelError

_OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}
"""Storages of weights, by the name of their class in torch."""


@dataclass(frozen=True)
class View:
    """A tensor that has not been read: where it lies in which storage."""

    key: str
    dtype: torch.dtype
    elements: int
    """Of the storage."""
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
        if start.startswith(_OLD_MAGIC[:14]):
            raise ModelError(
                f"{path}: in torch's old format (before 1.6), which is not read here; where you trust the file, "
                "load it with torch and save it again with torch.save"
            )
        if not start.startswith(b"PK"):
            raise ModelError(f"{path}: not a file of torch.save (no zip archive); is the download complete?")
        try:
            self._zip = zipfile.ZipFile(path)
            names = [name for name in self._zip.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ModelError(f"{path}: a zip archive, but not of torch.save (no data.pkl)")
            self._folder = names[0].removesuffix("data.pkl")
            if self._read("byteorder", 16, missing=b"little") != b"little":
                raise ModelError(f"{path}: of a big-endian machine, which is not read here")
            self.root = read_pickle(bytes(self._read("data.pkl")))
        except PickleFault as error:
            raise ModelError(f"{path}: {error}") from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise ModelError(f"{path}: truncated or damaged ({error})") from None

    def _read(self, name: str, most: int | None = None, missing: bytes | None = None) -> bytearray:
        """An entry's bytes, their checksum compared. `most`: refuse more."""
        try:
            info = self._zip.getinfo(self._folder + name)
        except KeyError:
            if missing is not None:
                return bytearray(missing)
            raise ModelError(f"{self.path}: it refers to {name}, which is not in it") from None
        size = self.path.stat().st_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > size or (most and info.file_size > most):
            raise ModelError(f"{self.path}: {name} is compressed, or larger than the file; torch.save writes no such")
        data = bytearray(info.file_size)
        with self._zip.open(info) as entry:
            view, at = memoryview(data), 0
            while at < len(data):
                got = entry.read(min(1 << 24, len(data) - at))
                if not got:
                    raise zipfile.BadZipFile(f"{name} ends early")
                view[at : at + len(got)] = got
                at += len(got)
            entry.read(1)  # the checksum is compared at the end
        return data

    def view(self, node: Any) -> View | None:
        """Where the tensor that `node` would have been lies; None for what is no tensor of weights.

        Raises ModelError when its sizes, strides or offset lead out of its storage.
        """
        if isinstance(node, Inert) and node.made_by("torch._utils._rebuild_parameter") and _long(node.args, 1):
            node = node.args[0]
        if (
            not isinstance(node, Inert)
            or not node.made_by("torch._utils._rebuild_tensor_v2")
            or not _long(node.args, 4)
        ):
            return None
        storage, offset, shape, stride = node.args[:4]
        if not isinstance(storage, Inert) or storage.maker != PERSISTENT or not _long(storage.args, 5):
            return None
        tag, kind, key, _, elements = storage.args[:5]
        dtype = DTYPES.get(kind.name) if isinstance(kind, Name) else None
        if tag != "storage" or dtype is None or type(key) is not str:
            return None
        tuples = type(shape) is tuple and type(stride) is tuple and len(shape) == len(stride) <= 8
        if not tuples or any(type(n) is not int or n < 0 for n in (elements, offset, *shape, *stride)):
            raise ModelError(f"{self.path}: a tensor with sizes or strides that are no whole numbers")
        numel = math.prod(shape)
        end = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1 if numel else offset
        if numel > elements or end > elements:
            raise ModelError(f"{self.path}: a tensor of shape {shape}, strides {stride} leads out of its storage")
        return View(key, dtype, elements, offset, shape, stride)

    def read(self, view: View) -> Tensor:
        """The tensor itself. Raises ModelError when its storage is missing, damaged or of another size."""
        if self._last is None or self._last[0] != view.key:
            self._last = None  # before the next is read: one at a time
            try:
                data = self._read(f"data/{view.key}")
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
                raise ModelError(f"{self.path}: truncated or damaged ({error})") from None
            if len(data) != view.elements * view.dtype.itemsize:
                raise ModelError(f"{self.path}: storage {view.key} has {len(data)} bytes, not what it is said to have")
            flat = torch.frombuffer(data, dtype=view.dtype) if data else torch.empty(0, dtype=view.dtype)
            self._last = view.key, flat
        flat = self._last[1]
        if flat.dtype != view.dtype or len(flat) != view.elements:
            raise ModelError(f"{self.path}: storage {view.key} is said to be of two kinds")
        return flat.as_strided(view.shape, view.stride, view.offset)

    def views(self, node: Any) -> dict[str, View]:
        """The tensors of weights in a mapping, in its order. Raises ModelError when `node` is none, or as `view`."""
        entries = mapping(node)
        if entries is None:
            raise ModelError(f"{self.path}: no mapping of names to tensors where one is expected")
        found = {name: self.view(value) for name, value in entries.items() if type(name) is str}
        return {name: view for name, view in found.items() if view is not None}


def _long(args: Any, n: int) -> bool:
    return type(args) is tuple and len(args) >= n


@dataclass(frozen=True)
class Lightning:
    """What is used of a Lightning checkpoint, and of a bare `torch.save` of a state dict (`steps` None, `config` {}).

    weights: the state_dict; others: its entries that are no weights, such as buffers of whole numbers; ema: the
    averaged parameters in the order of the model's, or None; ema_decay; steps: of the optimiser; config: the public
    code's configuration as plain values; tokenizer: JSON of the tokenizer object, when one was pickled; unused: other
    parts of the file. averaged: are the weights themselves an average, as the file says?
    nameless: Lightning's own file without `hyper_parameters` and without the `sampler` that MDLM's and Duo's code adds,
    as SDTT's code writes it (its `save_hyperparameters` finds none, since its constructors do not use `super`).
    """

    file: TorchFile
    weights: dict[str, View]
    others: tuple[str, ...]
    ema: tuple[View, ...] | None
    ema_decay: float | None
    steps: int | None
    config: dict[str, Any]
    tokenizer: str | None
    unused: tuple[str, ...]
    averaged: bool = False
    nameless: bool = False


def read_lightning(path: Path) -> Lightning:
    """Open a checkpoint. Raises ModelError when it is damaged, or holds no weights."""
    file = TorchFile(path)
    root = mapping(file.root)
    if root is None:
        raise ModelError(f"{path}: holds no dictionary, so no checkpoint of MDLM, SDTT or Duo")
    bare = "state_dict" not in root
    state = root if bare else mapping(root["state_dict"])
    weights = file.views(state)
    if not weights:
        raise ModelError(f"{path}: holds no weights (no tensors in its state_dict)")
    assert state is not None
    others = tuple(str(name) for name in state if name not in weights)
    if bare:
        return Lightning(file, weights, others, None, None, None, {}, None, ())
    ema, decay = _ema(file, root.get("ema"))
    hyper = mapping(root.get("hyper_parameters")) or {}
    try:
        config = plain(hyper.get("config"))
    except PickleFault as error:
        raise ModelError(f"{path}: {error}") from None
    used = ("state_dict", "ema", "hyper_parameters", "global_step", "checkpoint_weights")
    steps = root.get("global_step")
    return Lightning(
        file=file,
        weights=weights,
        others=others,
        ema=ema,
        ema_decay=decay,
        steps=steps if type(steps) is int else None,
        config=config if isinstance(config, dict) else {},
        tokenizer=_tokenizer_json(hyper.get("tokenizer")),
        unused=tuple(str(name) for name in root if name not in used),
        # dlm-mmd's MMDCheckpointIO marks its files; Lightning's callback WeightAveraging puts the average in state_dict
        averaged=root.get("checkpoint_weights") == "ema" or "current_model_state" in root,
        nameless="pytorch-lightning_version" in root and not {"hyper_parameters", "sampler"} & root.keys(),
    )


def _ema(file: TorchFile, node: Any) -> tuple[tuple[View, ...] | None, float | None]:
    """MDLM's ExponentialMovingAverage.state_dict(): {decay, num_updates, shadow_params}."""
    entries = mapping(node) or {}
    shadow, decay = entries.get("shadow_params"), entries.get("decay")
    if type(shadow) is not list or not shadow:
        return None, None
    views = [file.view(value) for value in shadow]
    if any(view is None for view in views):
        raise ModelError(f"{file.path}: its ema holds what is no tensor of weights; take --weights raw")
    return tuple(view for view in views if view is not None), decay if type(decay) is float else None


def _tokenizer_json(node: Any) -> str | None:
    """The JSON inside a pickled fast tokenizer of transformers: `_tokenizer` of its state, whose state is that JSON."""
    state = getattr(attributes(node).get("_tokenizer"), "state", None)
    if isinstance(state, Inert) and state.made_by("_codecs.encode") and _long(state.args, 2):
        text, encoding = state.args[:2]  # how pickles of protocol 2 spell bytes
        if type(text) is str and encoding == "latin1":
            try:
                state = text.encode("latin1")
            except UnicodeError:
                return None
    if type(state) is bytes:
        try:
            return state.decode("utf-8")
        except UnicodeError:
            return None
    return None


def total_bytes(views: Sequence[View]) -> int:
    """Bytes of the tensors, were each written by itself."""
    return sum(math.prod(view.shape) * view.dtype.itemsize for view in views)
