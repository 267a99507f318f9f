"""Public checkpoints on disk, opened and not yet read: a hub snapshot or folder, a bare safetensors file, a .ckpt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcd.checkpoints.inert_pickle import Inert, PickleFault, attributes, mapping, plain
from mcd.checkpoints.torch_file import TorchFile
from mcd.checkpoints.weights import Stored, files_of_index, open_safetensors
from mcd.errors import ModelError
from mcd.files import JSONError, read_json

INDEX = "model.safetensors.index.json"
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_USED = ("state_dict", "ema", "hyper_parameters", "global_step", "checkpoint_weights")


@dataclass(frozen=True)
class Source:
    """A checkpoint whose names, shapes and configuration are known; tensors are read one at a time.

    name: of the file, for messages. container: "hub" (config.json with safetensors), "lightning" (a .ckpt) or "bare"
    (only weights). files: what was opened. tensors: by the file's own keys. config: the public code's configuration as
    plain values, {} where there is none. others: keys that hold no weights. unused: other parts of the file. tokenizer:
    JSON of a pickled tokenizer. ema: the averaged parameters in the order of the model's, with ema_decay. steps: of the
    optimiser. averaged: are the weights themselves an average, as the file says?
    nameless: Lightning's own file without `hyper_parameters` and without the `sampler` that MDLM's and Duo's code adds,
    as SDTT's code writes it (its `save_hyperparameters` finds none, since its constructors do not use `super`).
    """

    name: str
    container: Literal["hub", "lightning", "bare"]
    files: tuple[Path, ...]
    tensors: Mapping[str, Stored]
    config: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    tokenizer: str | None = None
    ema: Sequence[Stored] | None = None
    ema_decay: float | None = None
    steps: int | None = None
    averaged: bool = False
    nameless: bool = False


def open_source(path: Path) -> Source:
    """Open a file of weights, or a folder of config.json and model.safetensors, its index or pytorch_model.bin, or of
    one .ckpt.

    Raises ModelError, naming the file, for what is missing, damaged or of no known kind.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file or folder")
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02") or path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return _open_torch(path)
    config = path.parent / "config.json"
    return _open_safetensors([path], _read_object(config) if config.is_file() else None)


def _open_folder(folder: Path) -> Source:
    config = folder / "config.json"
    checkpoints = sorted(folder.glob("*.ckpt"))
    if len(checkpoints) == 1 and not any((folder / name).exists() for name in (INDEX, *_SINGLE)):
        return _open_torch(checkpoints[0], _read_object(config) if config.exists() else {})
    found = _read_object(config)
    if (folder / INDEX).is_file():
        files = files_of_index(folder / INDEX)
        for file in files:
            if not file.is_file():
                raise ModelError(f"{file}: missing; is the copy complete?")
        return _open_safetensors(files, found)
    file = next((folder / name for name in _SINGLE if (folder / name).is_file()), None)
    if file is None:
        names = ", ".join(file.name for file in checkpoints[:3])
        fix = f"name one of its files ({names})" if names else "is the copy complete?"
        raise ModelError(f"{folder}: no {_SINGLE[0]}, {INDEX} or {_SINGLE[1]} in this folder; {fix}")
    return _open_torch(file, found) if file.suffix == ".bin" else _open_safetensors([file], found)


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError when the file is missing, too large, damaged or holds something else."""
    try:
        value = read_json(path, strict=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: missing") from None
    except (OSError, JSONError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return value


def _open_safetensors(files: Sequence[Path], config: dict[str, Any] | None) -> Source:
    tensors, others = open_safetensors(files)
    container = "bare" if config is None else "hub"
    return Source(str(files[0]), container, tuple(files), tensors, config or {}, tuple(others))


def _open_torch(path: Path, beside: dict[str, Any] | None = None) -> Source:
    """A Lightning checkpoint, or a bare `torch.save` of a state dict; `beside`: the config.json of its folder.

    Raises ModelError when it is damaged, or holds no weights.
    """
    file = TorchFile(path)
    root = mapping(file.root)
    if root is None:
        raise ModelError(f"{path}: holds no dictionary, so no checkpoint of MDLM, SDTT or Duo")
    bare = "state_dict" not in root
    state = root if bare else mapping(root["state_dict"])
    if state is None:
        raise ModelError(f"{path}: no mapping of names to tensors where one is expected")
    tensors = file.tensors(state)
    if not tensors:
        raise ModelError(f"{path}: holds no weights (no tensors in its state_dict)")
    others = tuple(str(name) for name in state if name not in tensors)
    if bare:
        return Source(str(path), "hub" if beside else "bare", (path,), tensors, beside or {}, others)
    hyper = mapping(root.get("hyper_parameters")) or {}
    try:
        config = plain(hyper.get("config"))
    except PickleFault as error:
        raise ModelError(f"{path}: {error}") from None
    config = config if isinstance(config, dict) else {}
    nameless = "pytorch-lightning_version" in root and not {"hyper_parameters", "sampler"} & root.keys()
    ema, decay = _average(file, root.get("ema"))
    steps = root.get("global_step")
    return Source(
        name=str(path),
        container="lightning" if config or nameless else "hub" if beside else "bare",
        files=(path,),
        tensors=tensors,
        config=config or beside or {},
        others=others,
        unused=tuple(str(name) for name in root if name not in _USED),
        tokenizer=_tokenizer_json(hyper.get("tokenizer")),
        ema=ema,
        ema_decay=decay,
        steps=steps if type(steps) is int else None,
        # dlm-mmd's MMDCheckpointIO marks its files; Lightning's callback WeightAveraging puts the average in state_dict
        averaged=root.get("checkpoint_weights") == "ema" or "current_model_state" in root,
        nameless=nameless,
    )


def _average(file: TorchFile, node: Any) -> tuple[list[Stored] | None, float | None]:
    """MDLM's ExponentialMovingAverage.state_dict(): {decay, num_updates, shadow_params}."""
    entries = mapping(node) or {}
    shadow, decay = entries.get("shadow_params"), entries.get("decay")
    if not isinstance(shadow, list) or not shadow:
        return None, None
    tensors = list(file.tensors(shadow).values())
    if len(tensors) < len(shadow):
        raise ModelError(f"{file.path}: its ema holds what is no tensor of weights; take --weights raw")
    return tensors, decay if type(decay) is float else None


def _tokenizer_json(node: Any) -> str | None:
    """The JSON inside a pickled fast tokenizer of transformers: `_tokenizer` of its state, whose state is that JSON."""
    state = getattr(attributes(node).get("_tokenizer"), "state", None)
    try:
        match state:
            case Inert(args=(str(text), "latin1", *_)) if state.made_by("_codecs.encode"):
                return text.encode("latin1").decode("utf-8")  # how pickles of protocol 2 spell bytes
            case bytes():
                return state.decode("utf-8")
    except UnicodeError:
        pass
    return None
