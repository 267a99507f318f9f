"""A model folder: config.json, weights as safetensors, tokenizer.json; ours, or one of Hugging Face.

`from_pretrained` reads one by its name, `save_pretrained` writes one.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mcd.checkpoints.autoregressive import open_autoregressive, with_weights_of
from mcd.checkpoints.config import NOTES, base_of, config_to_json, read_config
from mcd.checkpoints.loading import check_size, load_strictly, read_tensors, shapes_of, stored_name, unfilled_model
from mcd.checkpoints.locate import FETCHED, locate
from mcd.checkpoints.weights import (
    FACTORS,
    FACTORS_CONFIG,
    WEIGHTS,
    check_finite,
    parts_of_weights,
    write_tensors,
)
from mcd.errors import ModelError
from mcd.files import atomic_file, optional_object, write_durably, write_json
from mcd.model.adapted.config import AdaptedConfig
from mcd.model.adapted.network import Adapted
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.lora import Base, adapter_of, add_adapter, merged

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


def from_pretrained(name: str, weights: Literal["ema", "raw"] = "ema", dtype: torch.dtype = torch.float32) -> Denoiser:
    """Load a model in evaluation mode, its weights in `dtype`.

    name: a folder, ours or one of Hugging Face, a hub id, or "demo". weights: "ema" (published) or "raw" (as trained;
    run folders have both). Raises ModelError for a missing, truncated or foreign checkpoint, with the keys that do not
    fit.
    """
    folder = locate(name, files=list(FETCHED))
    config, base = read_config(folder), base_of(folder)
    if base is not None:
        return _with_factors(folder, config, base, folder / FACTORS[weights], dtype)
    path = folder / WEIGHTS[weights]
    parts = parts_of_weights(path)
    if weights == "raw" and not path.exists() and parts == [path]:
        raise ModelError(
            f"--weights raw: {name} has no {path.name}; only runs of `mcd train` and `mcd distill` have both, so leave "
            "it out"
        )
    check_size(path, shapes_of(parts), config)
    tensors = read_tensors(parts)
    try:
        model = unfilled_model(config, dtype)
    except ValueError as error:
        raise ModelError(f"{folder}: config.json is damaged: {error}") from None
    load_strictly(model, tensors, str(path))
    check_finite(tensors, str(path))
    model.folder = folder
    return model.eval()


def _with_factors(folder: Path, config: DenoiserConfig, base: Base, path: Path, dtype: torch.dtype) -> Denoiser:
    """The model of a folder that holds factors of LoRA at `path`, and names the network they are added to.

    Raises ModelError where that network has other weights than when they were trained, and for damaged factors.
    """
    try:
        source = open_autoregressive(base.name)
    except ModelError as error:
        raise ModelError(f"{folder}: needs the network that its factors are added to: {error}") from None
    if source.base.sha256 != base.sha256:
        raise ModelError(
            f"{folder}: its factors belong to other weights of {base.name} than are there (SHA-256 {base.sha256[:12]}, "
            f"not {source.base.sha256[:12]}); take the version of {base.name} that they were trained with"
        )
    shapes_of([path])
    model, factors = with_weights_of(source, config, dtype), read_tensors([path])
    assert isinstance(model.backbone, Adapted)
    check_finite(factors, str(path))
    try:
        add_adapter(model.backbone, optional_object(folder / FACTORS_CONFIG), factors)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from None
    model.folder = folder
    return model


def lengthened(model: Denoiser, length: int) -> Denoiser:
    """The same weights in a model whose longest sequence is `length`: rotary positions are not learnt.

    Raises ValueError for an adapted network that has learnt its positions, and fewer.
    """
    longer = unfilled_model(replace(model.config, backbone=replace(model.config.backbone, length=length)))
    longer.load_state_dict(model.state_dict())
    longer.folder, longer.base = model.folder, model.base
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
    the folder "adapter", as PEFT reads it. Of a model with LoRA that knows its `base` only that is written, and
    config.json names the base and a hash of its weights; not where it is shown locked noise, which is no factor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_to_json(model.config)
    if isinstance(model.config.backbone, AdaptedConfig):  # `transformers` rounds what it loads to what it reads here
        config |= dict.fromkeys(("dtype", "torch_dtype"), str(dtype).removeprefix("torch."))
    base = None if model.lora is None or model.locked is not None else model.base
    if base is not None:
        config["mcd"]["base"] = base._asdict()
    write_json(folder / "config.json", config)
    if model.folder is not None and model.folder != folder:
        copy_companions(model.folder, folder)
    tokenizer = {} if tokenizer_json is None else {"tokenizer.json": tokenizer_json}
    for name, text in {**tokenizer, **(beside or {})}.items():
        write_durably(folder / name, text)
    for kind, tensors in (("raw", raw), ("ema", model.state_dict())):
        if tensors is not None and base is not None:
            _write_factors(model, tensors, base.name, folder, FACTORS[kind])
        elif tensors is not None:
            plain = tensors if model.lora is None else merged(tensors, model.lora, _transposed(model))
            stored = {stored_name(model, name): value.to(dtype) for name, value in plain.items()}
            write_tensors(folder / WEIGHTS[kind], stored)
    if model.lora is not None and base is None:
        (folder / "adapter").mkdir(exist_ok=True)
        beside_base = None if model.folder is None else str(model.folder)
        _write_factors(model, model.state_dict(), beside_base, folder / "adapter", FACTORS["ema"])


def _write_factors(model: Denoiser, tensors: dict[str, Tensor], base: str | None, folder: Path, name: str) -> None:
    """adapter_config.json and a file of factors. base: where the network is that they were trained next to."""
    assert model.lora is not None and isinstance(model.backbone, Adapted)
    settings, factors = adapter_of(model.lora, model.backbone, tensors, base)
    write_json(folder / FACTORS_CONFIG, settings)
    write_tensors(folder / name, factors)


def _transposed(model: Denoiser) -> bool:
    return isinstance(model.backbone, Adapted) and model.backbone.config.family.transposed


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
