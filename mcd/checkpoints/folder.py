"""Models on disk: a folder of config.json, model.safetensors and tokenizer.json; ours, or one of Hugging Face."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mcd.checkpoints.adapted import (
    FETCHED,
    config_from_published,
    config_to_published,
    copy_companions,
    read_published,
)
from mcd.checkpoints.checks import check_finite, check_size, check_weights_file, why_no_model
from mcd.checkpoints.weights import write_tensors
from mcd.errors import ModelError
from mcd.files import read_json, write_durably
from mcd.hub_access import hub_access
from mcd.model.adapted.config import AdaptedConfig
from mcd.model.adapted.families import family_of
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.lora import adapter_of, merged
from mcd.process.schedule import config_of_schedule, schedule_of_config

FORMAT = "mcd-model-1"
DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
WEIGHTS = {"ema": "model.safetensors", "raw": "model.raw.safetensors"}


class _Unfilled(TorchFunctionMode):
    """Leaves new weights as they are: what is loaded overwrites them. Random ones for 170M parameters take 1 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def config_to_json(config: DenoiserConfig) -> dict[str, Any]:
    """The JSON form of a model's configuration; `config_of_json` reads it back.

    That of an adapted network is its config.json as published, with a section "mcd".
    """
    if isinstance(config.backbone, AdaptedConfig):
        assert config.mask_id is not None
        section = {"format": FORMAT, "mask_id": config.mask_id, "schedule": config_of_schedule(config.schedule)}
        return config_to_published(config.backbone, section)
    return {
        "format": FORMAT,
        "backbone": asdict(config.backbone),
        "mask_id": config.mask_id,
        "schedule": config_of_schedule(config.schedule),
        "time_conditioned": config.time_conditioned,
    }


def config_of_json(value: Any) -> DenoiserConfig:
    """A configuration from its JSON form. Raises ModelError when it is of another format."""
    if isinstance(value, dict) and isinstance(value.get("mcd"), dict):
        return _config_of_section(value)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ModelError(f'config.json is not of an mcd model (no "format": "{FORMAT}")')
    try:
        return DenoiserConfig(
            backbone=DiTConfig(**value["backbone"]),
            mask_id=value["mask_id"],
            schedule=schedule_of_config(value["schedule"]),
            time_conditioned=value["time_conditioned"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"config.json is damaged: {error}") from None


def _config_of_section(value: dict[str, Any]) -> DenoiserConfig:
    """The configuration of an adapted network that was saved here, or read from a folder of Hugging Face."""
    section = value["mcd"]
    if section.get("format") != FORMAT:
        raise ModelError(f'the section "mcd" of config.json has no "format": "{FORMAT}"')
    try:
        family_of(value)
    except ValueError as error:
        raise ModelError(str(error)) from None
    try:
        backbone = config_from_published(value)
        return DenoiserConfig(backbone, section["mask_id"], schedule_of_config(section["schedule"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"config.json is damaged: {error}") from None


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
                raise ModelError(f"{name}: is a run that is not finished; to go on, run its command again")
            raise ModelError(f"{name}: no config.json in this folder; a model is config.json + model.safetensors")
        return path
    if path.is_file():
        raise ModelError(why_no_model(path))
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


def read_config(folder: Path) -> DenoiserConfig:
    """The configuration of a model's folder. Raises ModelError when config.json is missing, damaged or foreign.

    A folder of Hugging Face says what network it is, and its tokenizer which id is the mask; the schedule is LogLinear.
    """
    try:
        value = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json: cannot be read ({error})") from None
    try:
        if isinstance(value, dict) and "model_type" in value and "mcd" not in value:
            try:
                return DenoiserConfig(*read_published(folder, value))
            except (KeyError, TypeError, ValueError) as error:
                raise ModelError(str(error)) from None
        return config_of_json(value)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None


def from_pretrained(name: str, weights: Literal["ema", "raw"] = "ema", dtype: torch.dtype = torch.float32) -> Denoiser:
    """Load a model in evaluation mode, its weights in `dtype`.

    name: a folder, ours or one of Hugging Face, a hub id, or "demo". weights: "ema" (published) or "raw" (as trained;
    run folders have both). Raises ModelError for a missing, truncated or foreign checkpoint, with the keys that do not
    fit; ImportError, which names the extra, for a network of Hugging Face without its library.
    """
    folder = locate(name, files=list(FETCHED))
    config = read_config(folder)
    path = folder / WEIGHTS[weights]
    tensors: dict[str, Tensor] = {}
    parts = parts_of_weights(path)
    check_size(path, [shape for part in parts for shape in check_weights_file(part)], config)
    for part in parts:
        try:
            tensors |= load_file(part)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{part}: truncated or not a safetensors file ({error})") from None
    try:
        model = _empty(config, dtype)
    except ValueError as error:
        raise ModelError(f"{folder}: config.json is damaged: {error}") from None
    load_strictly(model, tensors, str(path))
    check_finite(tensors, str(path))
    model.folder = folder
    return model.eval()


def _empty(config: DenoiserConfig, dtype: torch.dtype = torch.float32) -> Denoiser:
    """A model whose weights are whatever was in memory, and are to be overwritten."""
    with contextlib.ExitStack() as stack:
        if isinstance(config.backbone, AdaptedConfig):
            from mcd.model.adapted.network import unfilled

            stack.enter_context(unfilled())
        stack.enter_context(_Unfilled())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype)
        return Denoiser(config)


def parts_of_weights(path: Path) -> list[Path]:
    """The files of a weight set: model.safetensors, or those that an index of Hugging Face names in its place.

    Raises ModelError for an index that is damaged or names anything but files beside it.
    """
    index = path.with_name(path.name + ".index.json")
    return [path] if path.exists() or not index.is_file() else files_of_index(index)


def files_of_index(index: Path) -> list[Path]:
    """The files that an index of Hugging Face names, by name, whether they are there or not.

    Raises ModelError for an index that is damaged or names anything but safetensors files beside it.
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


def lengthened(model: Denoiser, length: int) -> Denoiser:
    """The same weights in a model whose longest sequence is `length`: rotary positions are not learnt.

    Raises ValueError for an adapted network that has learnt its positions, and fewer.
    """
    longer = _empty(replace(model.config, backbone=replace(model.config.backbone, length=length)))
    longer.load_state_dict(model.state_dict())
    longer.folder = model.folder
    return longer.eval()


def load_strictly(model: Denoiser, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights, every key and shape accounted for, or raise ModelError with the list of those that are not."""
    own = {model.backbone.stored_name(name.removeprefix("backbone.")): p for name, p in model.state_dict().items()}
    try:
        tensors = model.backbone.tidied(tensors)
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from None
    faults = [f"missing {name}" for name in own if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in own]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ModelError(f"{source}: does not fit its config.json: {shown}")
    for name, p in own.items():
        p.copy_(tensors[name])


def save_pretrained(
    model: Denoiser,
    folder: Path,
    tokenizer_json: str | None = None,
    raw: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a model folder; the weights last, each file by way of a temporary one.

    raw: a second weight set (as trained, beside the EMA in `model`). dtype: of the stored weights. beside: texts to
    write by the names of their files, in place of what stood beside the model, which goes along (`copy_companions`). An
    adapted network is written as it is published, so that `transformers` reads it too, with the dtype of what is
    stored; what LoRA has learnt is added to its weights, and written once more by itself, in the folder "adapter", as
    PEFT reads it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_to_json(model.config)
    if isinstance(model.config.backbone, AdaptedConfig):  # `transformers` rounds what it loads to what it reads here
        config |= dict.fromkeys(("dtype", "torch_dtype"), str(dtype).removeprefix("torch."))
    write_durably(folder / "config.json", json.dumps(config, indent=2) + "\n")
    if model.folder is not None and model.folder != folder:
        copy_companions(model.folder, folder)
    tokenizer = {} if tokenizer_json is None else {"tokenizer.json": tokenizer_json}
    for name, text in {**tokenizer, **(beside or {})}.items():
        write_durably(folder / name, text)
    for kind, tensors in (("raw", raw), ("ema", model.state_dict())):
        if tensors is not None:
            write_tensors(folder / WEIGHTS[kind], stored_tensors(model, tensors, dtype))
    if model.lora is not None:
        (folder / "adapter").mkdir(exist_ok=True)
        settings, factors = adapter_of(model.lora, model.backbone, model.state_dict(), model.folder)
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        write_tensors(folder / "adapter" / "adapter_model.safetensors", factors)


def stored_tensors(model: Denoiser, tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors named as in `state_dict` of a model, named and shaped as in its model file."""
    if model.lora is not None:
        tensors = merged(tensors, model.lora)
    stored = model.backbone.stored_name
    return {stored(name.removeprefix("backbone.")): value.to(dtype) for name, value in tensors.items()}
