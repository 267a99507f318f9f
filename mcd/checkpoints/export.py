"""Export models for the code of others: MDLM's (arXiv 2406.07524), and `transformers` (docs/checkpoints.md)."""

import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from mcd.checkpoints import smollm
from mcd.checkpoints.config import NOTES, config_to_json, read_config
from mcd.checkpoints.folder import copy_companions, from_pretrained, save_pretrained
from mcd.checkpoints.public_config import MDLM_EPS
from mcd.checkpoints.public_layout import ROTARY, Sizes, own_name, rotary_buffer
from mcd.checkpoints.weights import WEIGHTS, Stored, checked, open_safetensors, write_streamed
from mcd.errors import ModelError
from mcd.files import optional_object, write_json
from mcd.model.adapted.config import AdaptedConfig
from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.process.schedule import LogLinear

CODE = "kuleshov-group/mdlm-owt"
"""The hub's repository with MDLM's own classes; a configuration names them there, and nothing of it is shipped."""

MASK = "[MASK]"
"""The name of the mask in an export for `transformers`, where its tokenizer has no token of that name."""
MODELING = "modeling_mcd"
"""The module next to this one that is copied into an export for `transformers`."""


def export_mdlm(model: Path, out: Path, weights: str = "ema") -> None:
    """Write the model in the folder `model` to the new folder `out` as MDLM's: config.json and model.safetensors.

    Keys are `backbone.` and the public model's, with its rotary buffer; config.json has the fields of MDLMConfig and,
    as "mcd", our own, so that `mcd import` gives back the same model. A tokenizer.json and its companions go along.
    weights: "ema" or "raw", where the folder holds both. Raises ModelError for a model that has no such layout, and for
    weights that are missing or do not fit.
    """
    config = read_config(model)
    backbone = _check(config, str(model))
    path = model / WEIGHTS[weights]
    if not path.is_file():
        raise ModelError(f"{path}: missing; is this run still training, or the copy incomplete?")
    found, _ = open_safetensors([path])
    shapes = Sizes(backbone.rows, backbone.hidden, backbone.layers, backbone.cond_dim).shapes()
    expected = {own_name(name): shape for name, shape in shapes.items()}
    held = {name: tensor.shape for name, tensor in found.items()}
    wrong = sorted(name for name in held.keys() | expected.keys() if held.get(name) != expected.get(name))
    if wrong:
        raise ModelError(f"{path}: does not fit its config.json ({', '.join(wrong[:8])})")
    tensors = {f"backbone.{name}": checked(found[own_name(name)], own_name(name), str(path)) for name in shapes}
    rotary = rotary_buffer(backbone.hidden, backbone.heads)
    tensors[f"backbone.{ROTARY}"] = Stored(tuple(rotary.shape), lambda: rotary)
    out.mkdir(parents=True, exist_ok=True)
    write_streamed(out / "model.safetensors", tensors)
    _copy_tokenizer(model, out)
    write_json(out / "config.json", _mdlm_config(config, backbone))


def export_transformers(model: Path, out: Path, weights: Literal["ema", "raw"] = "ema") -> None:
    """Write the model in the folder `model` to the new folder `out` for `transformers`, with the code of its network.

    The code is a copy of `mcd.checkpoints.modeling_mcd`, which needs nothing of mcd; the tensors keep their names. A
    network whose class `transformers` has (BERT) needs none. A tokenizer.json and its companions go along. weights:
    "ema" or "raw". Raises ModelError for a model that neither runs, and for weights that are missing or do not fit.
    """
    config = read_config(model)
    backbone = config.backbone
    if config.process not in ("masked", "uniform"):
        raise ModelError(
            f"{model}: is a model of {config.process} kind; only masked and uniform diffusion are exported"
        )
    if isinstance(backbone, AdaptedConfig):
        _check_known(backbone, str(model))
    out.mkdir(parents=True, exist_ok=True)
    denoiser = from_pretrained(str(model), weights)
    if isinstance(backbone, AdaptedConfig):
        save_pretrained(denoiser, out)
        _copy_tokenizer(model, out)
        return
    tensors = denoiser.state_dict()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    _write_tokenizer(model, out, config.mask_id)
    shutil.copyfile(Path(__file__).with_name(f"{MODELING}.py"), out / f"{MODELING}.py")
    sizes = {
        "vocab_size": backbone.rows,
        "hidden_size": backbone.hidden,
        "num_hidden_layers": backbone.layers,
        "num_attention_heads": backbone.heads,
        "max_position_embeddings": backbone.length,
        "cond_dim": backbone.cond_dim,
        "time_conditioned": config.time_conditioned,
        "mask_token_id": config.mask_id,
    }
    code = {"AutoConfig": f"{MODELING}.MCDConfig", "AutoModelForMaskedLM": f"{MODELING}.MCDForMaskedLM"}
    named = {"architectures": ["MCDForMaskedLM"], "auto_map": code, "model_type": "mcd", "dtype": "float32"}
    write_json(out / "config.json", {**named, **sizes})


def _check_known(backbone: AdaptedConfig, source: str) -> None:
    """Raise ModelError for a network that `transformers` has no masked language model of."""
    kind = backbone.settings["model_type"]
    if backbone.family.causal or kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ModelError(
            f"{source}: transformers has no masked language model of the kind {kind}; mcd reads this folder"
        )


def _write_tokenizer(model: Path, out: Path, mask_id: int | None) -> None:
    """The tokenizer as `transformers` reads it: with a name for the mask, whose id is the one behind all tokens."""
    _copy_tokenizer(model, out)
    path = out / "tokenizer.json"
    if not path.is_file():
        return
    tokenizer = Tokenizer.from_file(str(path))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **optional_object(out / NOTES[0])}
    if tokenizer.token_to_id(smollm.END) is not None:
        said.setdefault("eos_token", smollm.END)
    if mask_id == tokenizer.get_vocab_size() and tokenizer.token_to_id(MASK) is None:
        tokenizer.add_special_tokens([MASK])
        said["mask_token"] = MASK
        tokenizer.save(str(path))
    write_json(out / NOTES[0], said)


def _copy_tokenizer(model: Path, out: Path) -> None:
    if (model / "tokenizer.json").is_file():
        shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    copy_companions(model, out)


def _check(config: DenoiserConfig, source: str) -> DiTConfig:
    """The backbone of a model that MDLM's code can run. Raises ModelError for another."""
    backbone = config.backbone
    if not isinstance(backbone, DiTConfig):
        raise ModelError(f"{source}: its network is not MDLM's transformer, so it has no MDLM layout")
    if config.process != "masked":
        raise ModelError(f"{source}: is a model of {config.process} kind; MDLM's layout is for masked diffusion")
    if config.time_conditioned and config.schedule != LogLinear(MDLM_EPS):
        raise ModelError(
            f"{source}: it is conditioned on time by {config.schedule}; MDLM's code knows LogLinear(eps={MDLM_EPS})"
        )
    return backbone


def _mdlm_config(config: DenoiserConfig, backbone: DiTConfig) -> dict[str, Any]:
    """config.json as MDLM has it on the hub, and our own configuration under "mcd", which its class passes over."""
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
