"""LoRA by PEFT: a few trainable factors next to frozen weights (arXiv 2106.09685)."""

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mcd.model.adapted.network import Adapted
from mcd.model.backbone import Backbone
from mcd.options import Decay, Natural, Options, Positive, option_name

ADAPTER = "default"
"""The name of the one adapter that PEFT is asked for."""
PUBLISHED = "base_model.model."
"""How PEFT begins the names of the factors in a file."""
_UNREAD = ("alpha_pattern", "modules_to_save", "rank_pattern", "use_dora", "use_rslora")
_FACTOR = re.compile(rf"(.*)\.lora_(A|B)\.{ADAPTER}\.weight")


@dataclass(frozen=True)
class LoRA(Options):
    """Train W + (alpha / rank) B A instead of W, for the linear layers of the blocks; everything else is frozen."""

    lora_rank: Natural = 0
    """Rank of the factors of LoRA; 0 trains all weights."""
    lora_alpha: Positive | None = None
    """Alpha of LoRA: the product of the factors is multiplied by alpha / rank; twice the rank by default."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get factors of LoRA, such as query value or q_proj v_proj; by default all of the
    blocks."""
    lora_dropout: Decay = 0.0
    """Dropout on the input of LoRA's factors."""
    lora_dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers of the published factors of LoRA; bfloat16 halves their file. They are trained in float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = {"lora_alpha": None, "lora_targets": (), "lora_dropout": 0.0, "lora_dtype": "float32"}
        others = (option_name(name) for name, value in plain.items() if getattr(self, name) != value)
        if not self.lora_rank and (named := ", ".join(others)):
            raise ValueError(f"{named}: without --lora-rank there is no LoRA; give --lora-rank, or leave this out")

    @property
    def alpha(self) -> float:
        """The alpha that is used."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else float(self.lora_alpha)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.lora_rank


class Base(NamedTuple):
    """The published network that factors were trained next to: its name as MODEL, and the hash of its weights."""

    name: str
    sha256: str


def add_factors(lora: LoRA, backbone: Backbone, seed: int) -> None:
    """Freeze a network in place and give its layers factors; the second ones are 0, so that no prediction changes.

    The factors are float32 whatever the weights are. Raises ValueError for a network that is not of Hugging Face, and
    for a target that is none of its layers, with those that are; ImportError, which names the extra, without PEFT.
    """
    if not isinstance(backbone, Adapted):
        raise ValueError(f"--lora-rank {lora.lora_rank}: is for networks of Hugging Face; this one is trained whole")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError("LoRA needs PEFT: pip install 'mcd-lm[lora]'", name="peft") from None
    config = LoraConfig(
        r=lora.lora_rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number works
        lora_dropout=lora.lora_dropout,
        target_modules=_layers(backbone, lora.lora_targets),
        fan_in_fan_out=backbone.config.family.transposed,
    )
    backbone.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone.body, ADAPTER)  # type: ignore[arg-type]
    for name, p in backbone.named_parameters():
        p.requires_grad_(_FACTOR.fullmatch(name) is not None)
        if p.requires_grad:
            p.data = p.data.float()


def _layers(backbone: Adapted, targets: tuple[str, ...]) -> list[str]:
    """Paths in the body of the layers that get factors."""
    inside = {id(m) for layer in backbone.shardable_layers() for m in layer.modules() if _is_linear(m)}
    paths = [path for path, m in backbone.body.named_modules() if id(m) in inside]
    for target in targets:
        if not any(path.endswith("." + target) for path in paths):
            known = dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths)
            raise ValueError(f"--lora-targets {target}: is no linear layer of the model; it has {', '.join(known)}")
    return [path for path in paths if not targets or path.endswith(tuple("." + target for target in targets))]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's


def merged(tensors: dict[str, Tensor], lora: LoRA, transposed: bool = False) -> dict[str, Tensor]:
    """Tensors of a `state_dict` with LoRA, as those of the same model without: factors are multiplied and added.

    transposed: as of the family. The sum is made in float32, and has the dtype of the frozen weight.
    """
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if _FACTOR.fullmatch(name):
            continue
        layer, base, kind = name.rpartition(".base_layer")
        if base and kind == ".weight":
            a, b = (tensors[f"{layer}.lora_{factor}.{ADAPTER}.weight"].float() for factor in "AB")
            value = _sum(value, a, b, lora.scale, transposed)
        plain[layer + kind if base else name] = value
    return plain


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float, transposed: bool) -> Tensor:
    product = b @ a
    return (weight.float() + scale * (product.t() if transposed else product)).to(weight.dtype)


def adapter_of(
    lora: LoRA, backbone: Adapted, tensors: dict[str, Tensor], base: str | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of adapter_model.safetensors, as PEFT reads them for the frozen network.

    tensors: the `state_dict` of a denoiser with LoRA. base: where the frozen network is: a folder, or MODEL.
    """
    stored: dict[str, Tensor] = {}
    layers: dict[str, None] = {}
    for name, value in tensors.items():
        if match := _FACTOR.fullmatch(name):
            path = backbone.stored_name(match[1].removeprefix("backbone.") + ".weight").removesuffix(".weight")
            stored[f"{PUBLISHED}{path}.lora_{match[2]}.weight"] = value.to(getattr(torch, lora.lora_dtype))
            layers[path] = None
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": lora.lora_rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": list(layers),
        "bias": "none",
        "fan_in_fan_out": backbone.config.family.transposed,
        "inference_mode": True,
    }
    return config, stored


@torch.no_grad()
def add_adapter(backbone: Adapted, settings: dict[str, Any], factors: dict[str, Tensor]) -> None:
    """Add the product of the factors of `adapter_of` to the weights of the network that they were trained next to.

    Raises ValueError for an adapter that is no plain LoRA, and for factors that do not fit the network.
    """
    unread = [key for key in _UNREAD if settings.get(key)]
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or unread:
        raise ValueError(f"adapter_config.json: is no plain LoRA ({', '.join(unread) or 'peft_type, bias'})")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ValueError(f"adapter_config.json: r {rank!r:.20} and lora_alpha {alpha!r:.20} are no rank and no scale")
    weights = {backbone.stored_name(name): p for name, p in backbone.named_parameters() if p.ndim == 2}
    paths = {name.removeprefix(PUBLISHED).rpartition(".lora_")[0] for name in factors}
    names = {f"{PUBLISHED}{path}.lora_{factor}.weight" for path in paths for factor in "AB"}
    if not names or names != factors.keys():
        raise ValueError(f"holds {min(names ^ factors.keys(), default='no factors')!r:.80}, or lacks it")
    transposed = backbone.config.family.transposed
    for path in sorted(paths):
        a, b = (factors[f"{PUBLISHED}{path}.lora_{factor}.weight"] for factor in "AB")
        weight = weights.get(f"{path}.weight")
        shape = None if weight is None else tuple(weight.t().shape if transposed else weight.shape)
        if weight is None or a.shape != (rank, shape[-1]) or b.shape != (shape[0], rank):  # type: ignore[index]
            raise ValueError(f"the factors of {path} ({tuple(b.shape)}, {tuple(a.shape)}) fit no layer {shape or ''}")
        weight.copy_(_sum(weight, a.float(), b.float(), alpha / rank, transposed))
