"""Models of ours in the layout of MDLM on the hub, which its own code reads (arXiv 2406.07524; docs/checkpoints.md)."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mcd.checkpoints.adapted import copy_companions
from mcd.checkpoints.checks import check_finite, dit_of
from mcd.checkpoints.folder import WEIGHTS, config_to_json, read_config
from mcd.checkpoints.public_config import MDLM_EPS
from mcd.checkpoints.public_layout import ROTARY, Sizes, own_name, rotary_buffer
from mcd.checkpoints.weights import write_streamed
from mcd.errors import ModelError
from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.process.schedule import LogLinear

CODE = "kuleshov-group/mdlm-owt"
"""The hub's repository with MDLM's own classes; a configuration names them there, and nothing of it is shipped."""


def export_mdlm(model: Path, out: Path, weights: str = "ema") -> None:
    """Write the model in the folder `model` to the new folder `out` as MDLM's: config.json and model.safetensors.

    Keys are `backbone.` and the public model's, with its rotary buffer; config.json has the fields of MDLMConfig and,
    as "mcd", our own, so that `mcd import` gives back the same model. A tokenizer.json and its companions go along.
    weights: "ema" or "raw", where the folder holds both. Raises ModelError for a model that has no such layout, and for
    weights that are missing or do not fit.
    """
    config = read_config(model)
    sizes = _check(config, str(model))
    path = model / WEIGHTS[weights]
    if not path.is_file():
        raise ModelError(f"{path}: missing; is this run still training, or the copy incomplete?")
    own = {f"backbone.{name}": own_name(name) for name in sizes.shapes()}
    shapes = {f"backbone.{name}": shape for name, shape in sizes.shapes().items()}
    rotary = rotary_buffer(sizes.hidden, dit_of(config).heads)
    shapes[f"backbone.{ROTARY}"] = tuple(rotary.shape)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: truncated or not a safetensors file ({error})") from None
    expected = {own[name]: shape for name, shape in shapes.items() if name in own}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ModelError(f"{path}: does not fit its config.json ({', '.join(wrong[:8])})")

    def read(name: str) -> Tensor:
        if name not in own:
            return rotary
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(own[name])
        check_finite({own[name]: tensor}, str(path))
        return tensor

    out.mkdir(parents=True, exist_ok=True)
    write_streamed(out / "model.safetensors", shapes, read)
    if (model / "tokenizer.json").is_file():
        shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    copy_companions(model, out)
    (out / "config.json").write_text(json.dumps(mdlm_config(config), indent=2) + "\n", encoding="utf-8")


def mdlm_config(config: DenoiserConfig) -> dict[str, Any]:
    """config.json as MDLM has it on the hub, and our own configuration under "mcd", which its class passes over."""
    backbone = dit_of(config)
    return {
        "architectures": ["MDLM"],
        "auto_map": {
            "AutoConfig": f"{CODE}--configuration_mdlm.MDLMConfig",
            "AutoModelForMaskedLM": f"{CODE}--modeling_mdlm.MDLM",
        },
        "cond_dim": backbone.cond_dim,
        "dropout": backbone.dropout,
        "hidden_dim": backbone.hidden,
        "mcd": config_to_json(config),
        "model_length": backbone.length,
        "model_type": "mdlm",
        "n_blocks": backbone.layers,
        "n_heads": backbone.heads,
        "return_dict": False,
        "time_conditioning": config.time_conditioned,
        "torch_dtype": "float32",
        "vocab_size": backbone.rows,
    }


def _check(config: DenoiserConfig, source: str) -> Sizes:
    """The sizes of a model that MDLM's code can run. Raises ModelError for another."""
    backbone = config.backbone
    if not isinstance(backbone, DiTConfig):
        raise ModelError(f"{source}: its network is not MDLM's transformer, so it has no MDLM layout")
    if config.process != "masked":
        raise ModelError(f"{source}: is a model of {config.process} kind; MDLM's layout is for masked diffusion")
    if config.mask_id != backbone.rows - 1:
        raise ModelError(f"{source}: its mask, {config.mask_id}, is not the last row, where MDLM's code has it")
    if config.time_conditioned and config.schedule != LogLinear(MDLM_EPS):
        raise ModelError(
            f"{source}: it is conditioned on time by {config.schedule}; MDLM's code knows LogLinear(eps={MDLM_EPS})"
        )
    return Sizes(backbone.rows, backbone.hidden, backbone.layers, backbone.cond_dim, backbone.heads)
