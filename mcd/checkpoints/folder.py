"""A model folder: config.json, weights as safetensors, tokenizer.json; ours, or one of Hugging Face.

`from_pretrained` reads one by its name, `save_pretrained` writes one.
"""

import contextlib
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mcd.checkpoints.config import NOTES, config_to_json, read_config
from mcd.checkpoints.weights import (
    PICKLED,
    WEIGHTS,
    check_finite,
    header_shapes,
    is_pickle,
    parts_of_weights,
    write_tensors,
)
from mcd.errors import ModelError
from mcd.files import atomic_file, optional_object, write_durably, write_json
from mcd.hub_access import hub_access
from mcd.model.adapted.config import AdaptedConfig
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.lora import adapter_of, merged

DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
OF_TOKENIZER = (
    *NOTES,
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)
COMPANIONS = (*OF_TOKENIZER, "generation_config.json", "LICENSE*", "NOTICE*")
"""Files that a model keeps, besides config.json, weights and tokenizer.json, when it is saved again: without them
`transformers` would guess (and lower the case of a cased BERT's text), or know no chat template."""
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py", "LICENSE*", "NOTICE*")
"""What is fetched of a model on the hub. Its code (.py) is kept for `transformers`; nothing here runs it."""
MODEST = 1 << 26
"""Numbers (256 MiB of float32) up to which a model is built before the file of its weights is compared with it."""


def locate(name: str, revision: str | None = None, files: list[str] | None = None) -> Path:
    """The folder of MODEL: "demo" (the bundled teacher), a local folder, or a hub id (needs the `hub` extra).

    revision: a branch, tag or commit of the hub. files: patterns of what is fetched; all by default. Raises ModelError
    when there is no such model, or no such revision.
    """
    if name == "demo":
        return DEMO
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / "run.json").is_file():
                raise ModelError(f"{name}: is a run that is not finished; to resume it, run its command again")
            raise ModelError(f"{name}: no config.json in this folder; a model is config.json + model.safetensors")
        return path
    if path.is_file():
        fix = f"of a checkpoint of MDLM, SDTT or Duo `mcd import {path} --out DIR` makes one"
        if path.suffix in PICKLED or is_pickle(path):
            raise ModelError(
                f"{path}: is a pickle, which can run code when it is read; a model is a folder: {fix} and runs nothing"
            )
        raise ModelError(
            f"{path}: is a file; a model is a folder" + (f": {fix}" if path.suffix == ".safetensors" else "")
        )
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such model folder (a model is a folder, a hub id OWNER/NAME, or demo)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelError(f"{name}: no such folder; for a hub id, pip install 'mcd-lm[hub]'") from None
    with hub_access() as access:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=files))
        except Exception as error:  # the hub client raises many kinds; all mean the same to the user
            asked = name if revision is None else f"{name} at revision {revision}"
            raise ModelError(f"{asked}: no such folder, and {access.refusal(error)}") from None


def from_pretrained(name: str, weights: Literal["ema", "raw"] = "ema", dtype: torch.dtype = torch.float32) -> Denoiser:
    """Load a model in evaluation mode, its weights in `dtype`.

    name: a folder, ours or one of Hugging Face, a hub id, or "demo". weights: "ema" (published) or "raw" (as trained;
    run folders have both). Raises ModelError for a missing, truncated or foreign checkpoint, with the keys that do not
    fit; ImportError, which names the extra, for a network of Hugging Face without its library.
    """
    folder = locate(name, files=list(FETCHED))
    config = read_config(folder)
    path = folder / WEIGHTS[weights]
    parts = parts_of_weights(path)
    _check_size(path, [shape for part in parts for shape in header_shapes(part)], config)
    tensors: dict[str, Tensor] = {}
    for part in parts:
        try:
            tensors |= load_file(part)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{part}: truncated or not a safetensors file ({error})") from None
    try:
        model = _unfilled(config, dtype)
    except ValueError as error:
        raise ModelError(f"{folder}: config.json is damaged: {error}") from None
    _load_strictly(model, tensors, str(path))
    check_finite(tensors, str(path))
    model.folder = folder
    return model.eval()


def _check_size(path: Path, shapes: list[list[int]], config: DenoiserConfig) -> None:
    """Raise ModelError when the weights at `path`, of these shapes, are far from those that a configuration asks for.

    For an adapted network only its largest matrices and its layers are compared.
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


class _NoInitialisation(TorchFunctionMode):
    """Leaves new weights unfilled, since loading overwrites them. Random ones for 170M parameters take 1 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _unfilled(config: DenoiserConfig, dtype: torch.dtype = torch.float32) -> Denoiser:
    """A model whose weights are whatever was in memory, and are to be overwritten."""
    with contextlib.ExitStack() as stack:
        if isinstance(config.backbone, AdaptedConfig):
            from mcd.model.adapted.network import unfilled

            stack.enter_context(unfilled())
        stack.enter_context(_NoInitialisation())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype)
        return Denoiser(config)


def _load_strictly(model: Denoiser, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights, every key and shape accounted for, or raise ModelError with the list of those that are not."""
    own = {model.backbone.stored_name(name.removeprefix("backbone.")): p for name, p in model.state_dict().items()}
    try:
        tensors = model.backbone.tidied(tensors)
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from None
    faults = [f"missing {name}" for name in own if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in own]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(p.shape)}"
        for name, p in own.items()
        if name in tensors and p.shape != tensors[name].shape
    ]
    if faults:
        raise ModelError(f"{source}: does not fit its config.json: {listed(faults)}")
    for name, p in own.items():
        p.copy_(tensors[name])


def lengthened(model: Denoiser, length: int) -> Denoiser:
    """The same weights in a model whose longest sequence is `length`: rotary positions are not learnt.

    Raises ValueError for an adapted network that has learnt its positions, and fewer.
    """
    longer = _unfilled(replace(model.config, backbone=replace(model.config.backbone, length=length)))
    longer.load_state_dict(model.state_dict())
    longer.folder = model.folder
    return longer.eval()


def save_pretrained(
    model: Denoiser,
    folder: Path,
    tokenizer_json: str | None = None,
    raw: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a model folder, each file atomically, the weights last.

    raw: a second weight set (as trained, where `model` holds the average). dtype: of the stored weights. beside: texts
    to write by the names of their files; they replace those of the folder that `model` was read from, which are copied
    (`copy_companions`). An adapted network is written as Hugging Face publishes it, so that `transformers` reads it
    too, with the dtype of what is stored; what LoRA has learnt is added to its weights, and also written by itself in
    the folder "adapter", as PEFT reads it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_to_json(model.config)
    if isinstance(model.config.backbone, AdaptedConfig):  # `transformers` rounds what it loads to what it reads here
        config |= dict.fromkeys(("dtype", "torch_dtype"), str(dtype).removeprefix("torch."))
    write_json(folder / "config.json", config)
    if model.folder is not None and model.folder != folder:
        copy_companions(model.folder, folder)
    tokenizer = {} if tokenizer_json is None else {"tokenizer.json": tokenizer_json}
    for name, text in {**tokenizer, **(beside or {})}.items():
        write_durably(folder / name, text)
    for kind, tensors in (("raw", raw), ("ema", model.state_dict())):
        if tensors is not None:
            plain = tensors if model.lora is None else merged(tensors, model.lora)
            names = {name: model.backbone.stored_name(name.removeprefix("backbone.")) for name in plain}
            write_tensors(folder / WEIGHTS[kind], {names[name]: value.to(dtype) for name, value in plain.items()})
    if model.lora is not None:
        (folder / "adapter").mkdir(exist_ok=True)
        settings, factors = adapter_of(model.lora, model.backbone, model.state_dict(), model.folder)
        write_json(folder / "adapter" / "adapter_config.json", settings)
        write_tensors(folder / "adapter" / "adapter_model.safetensors", factors)


def companions_of(folder: Path, names: tuple[str, ...] | None = None) -> list[Path]:
    """The files of `names` in a folder. By default COMPANIONS, and code (.py) if config.json names classes of it."""
    if names is None:
        names = (*COMPANIONS, "*.py") if "auto_map" in optional_object(folder / "config.json") else COMPANIONS
    return [path for name in names for path in sorted(folder.glob(name)) if path.is_file()]


def copy_companions(source: Path, target: Path, names: tuple[str, ...] | None = None) -> None:
    """Copy the files of `companions_of` to the folder `target`, each atomically. Raises OSError."""
    for path in companions_of(source, names):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        with atomic_file(copy) as partial:
            shutil.copyfile(path, partial)


def listed(faults: list[str]) -> str:
    """The first eight of some faults, and how many more there are."""
    return "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
