"""Models on disk: a folder of config.json, model.safetensors and tokenizer.json."""

import errno
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mcd.files import read_json, sync_folder, write_durably
from mcd.model.checks import ModelError, check_config, check_finite, check_weights_file, why_no_model
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
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
    """The JSON form of a model's configuration; `config_of_json` reads it back."""
    return {
        "format": FORMAT,
        "backbone": asdict(config.backbone),
        "mask_id": config.mask_id,
        "schedule": config_of_schedule(config.schedule),
        "time_conditioned": config.time_conditioned,
    }


def config_of_json(value: Any) -> DenoiserConfig:
    """A configuration from its JSON form. Raises ModelError when it is of another format."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ModelError(f'config.json is not of an mcd model (no "format": "{FORMAT}")')
    try:
        config = DenoiserConfig(
            backbone=DiTConfig(**value["backbone"]),
            mask_id=value["mask_id"],
            schedule=schedule_of_config(value["schedule"]),
            time_conditioned=value["time_conditioned"],
        )
        check_config(config)
        return config
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"config.json is damaged: {error}") from None


def locate(name: str) -> Path:
    """The folder of MODEL: "demo" (the bundled teacher), a local folder, or a hub id (needs the `hub` extra)."""
    if name == "demo":
        return DEMO
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
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
    try:
        return Path(snapshot_download(name))
    except Exception as error:  # the hub client raises many kinds; all mean the same to the user
        raise ModelError(f"{name}: no such folder, and the hub did not give it ({type(error).__name__})") from None


def read_config(folder: Path) -> DenoiserConfig:
    """The configuration of a model's folder. Raises ModelError when config.json is missing, damaged or foreign."""
    try:
        return config_of_json(read_json(folder / "config.json"))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json: cannot be read ({error})") from None


def from_pretrained(name: str, weights: Literal["ema", "raw"] = "ema") -> Denoiser:
    """Load a model in evaluation mode, in float32.

    name: a folder, a hub id, or "demo". weights: "ema" (published) or "raw" (as trained; run folders have both).
    Raises ModelError for a missing, truncated or foreign checkpoint, with the keys that do not fit.
    """
    folder = locate(name)
    config = read_config(folder)
    path = folder / WEIGHTS[weights]
    check_weights_file(path, config)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: truncated or not a safetensors file ({error})") from None
    with _Unfilled():
        model = Denoiser(config)
    load_strictly(model, tensors, str(path))
    check_finite(tensors, str(path))
    model.folder = folder
    return model.eval()


def lengthened(model: Denoiser, length: int) -> Denoiser:
    """The same weights in a model whose longest sequence is `length`: positions are rotary, so none are learnt."""
    config = replace(model.config, backbone=replace(model.config.backbone, length=length))
    with _Unfilled():
        longer = Denoiser(config)
    longer.load_state_dict(model.state_dict())
    longer.folder = model.folder
    return longer.eval()


def load_strictly(model: Denoiser, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights, every key and shape accounted for, or raise ModelError with the list of those that are not."""
    own = model.state_dict()
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
    model.load_state_dict({name: value.float() for name, value in tensors.items()})


def save_pretrained(
    model: Denoiser,
    folder: Path,
    tokenizer_json: str | None = None,
    raw: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model folder; the weights last, each file by way of a temporary one.

    raw: a second weight set (as trained, beside the EMA in `model`). dtype: of the stored weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "config.json", json.dumps(config_to_json(model.config), indent=2) + "\n")
    if tokenizer_json is not None:
        write_durably(folder / "tokenizer.json", tokenizer_json)
    for kind, tensors in (("raw", raw), ("ema", model.state_dict())):
        if tensors is not None:
            write_tensors(folder / WEIGHTS[kind], {name: value.to(dtype) for name, value in tensors.items()})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors by way of a temporary file: whole or not at all. Raises OSError when the disk refuses."""
    partial = path.with_suffix(path.suffix + ".partial")
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # safetensors leaves files that only their owner can read
    except SafetensorError as error:  # it hides the system's number in its text
        partial.unlink(missing_ok=True)
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None
    partial.replace(path)
    sync_folder(path.parent)
