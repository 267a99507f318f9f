"""LoRA by PEFT: a few trainable factors beside frozen weights (arXiv 2106.09685)."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mcd.model.adapted.network import Adapted

if TYPE_CHECKING:
    from mcd.model.denoiser import Denoiser

ADAPTER = "default"
"""The name of the one adapter that PEFT is asked for."""
_FACTOR = re.compile(rf"(.*)\.lora_(A|B)\.{ADAPTER}\.weight")


@dataclass(frozen=True)
class LoRA:
    """Train W + (alpha / rank) B A in place of W, of the linear layers of the blocks; all else is frozen."""

    lora_rank: int = 0
    """Rank of the factors of LoRA; 0 trains all weights."""
    lora_alpha: float | None = None
    """What LoRA's product is multiplied by, times the rank; twice the rank by default."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that LoRA learns beside, such as query value or q_proj v_proj; by default all of the
    blocks."""
    lora_dropout: float = 0.0
    """Dropout of what goes into LoRA's factors."""

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError(f"--lora-rank {self.lora_rank}: must be at least 0")
        if self.lora_alpha is not None and not 0.0 < self.lora_alpha < math.inf:
            raise ValueError(f"--lora-alpha {self.lora_alpha}: must be positive and finite")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ValueError(f"--lora-dropout {self.lora_dropout}: must be in [0, 1)")
        if not self.lora_rank and (self.lora_alpha is not None or self.lora_targets or self.lora_dropout):
            raise ValueError("--lora-rank 0: there is no LoRA, so give --lora-rank or leave the other options out")

    @property
    def alpha(self) -> float:
        """The alpha that is used."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else float(self.lora_alpha)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.lora_rank

    def apply(self, model: "Denoiser", seed: int = 0) -> None:
        """Freeze a model in place and give its layers factors, of which the second is 0: what it says stays the same.

        The factors are float32 whatever the weights are. Nothing is done for rank 0. Raises ValueError for a model that
        is not of Hugging Face or has LoRA already, and for a target that is no layer of it, with those that are;
        ImportError, which names the extra, without PEFT.
        """
        if not self.lora_rank:
            return
        if model.lora is not None:
            raise ValueError(f"--lora-rank {self.lora_rank}: the model has LoRA already")
        if not isinstance(model.backbone, Adapted):
            raise ValueError(
                f"--lora-rank {self.lora_rank}: is for networks of Hugging Face; this one is trained whole"
            )
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise ImportError("LoRA needs PEFT: pip install 'mcd-lm[lora]'", name="peft") from None
        config = LoraConfig(
            r=self.lora_rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # any number works
            lora_dropout=self.lora_dropout,
            target_modules=self._layers(model.backbone),
        )
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model.backbone.body, ADAPTER)  # type: ignore[arg-type]
        for name, p in model.named_parameters():
            p.requires_grad_(_FACTOR.fullmatch(name) is not None)
            if p.requires_grad:
                p.data = p.data.float()
        model.lora = self

    def _layers(self, backbone: Adapted) -> list[str]:
        """Paths in the body of the layers that get factors."""
        inside = {id(m) for layer in backbone.shardable_layers() for m in layer.modules() if isinstance(m, nn.Linear)}
        paths = [path for path, m in backbone.body.named_modules() if id(m) in inside]
        for target in self.lora_targets:
            if not any(path.endswith("." + target) for path in paths):
                known = dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths)
                raise ValueError(f"--lora-targets {target}: is no linear layer of the model; it has {', '.join(known)}")
        return [p for p in paths if not self.lora_targets or p.endswith(tuple("." + t for t in self.lora_targets))]


def merged(tensors: dict[str, Tensor], lora: LoRA) -> dict[str, Tensor]:
    """Tensors of a `state_dict` with LoRA, as those of the same model without: factors are multiplied and added.

    The sum is made in float32, and has the dtype of the frozen weight.
    """
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if _FACTOR.fullmatch(name):
            continue
        layer, base, kind = name.rpartition(".base_layer")
        if base and kind == ".weight":
            a, b = (tensors[f"{layer}.lora_{factor}.{ADAPTER}.weight"].float() for factor in "AB")
            value = (value.float() + lora.scale * (b @ a)).to(value.dtype)
        plain[layer + kind if base else name] = value
    return plain


def adapter_of(model: "Denoiser", tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of adapter_model.safetensors, as PEFT reads them beside the frozen network.

    tensors: of the `state_dict` of a model with LoRA.
    """
    assert model.lora is not None
    stored: dict[str, Tensor] = {}
    layers: dict[str, None] = {}
    for name, value in tensors.items():
        if match := _FACTOR.fullmatch(name):
            path = model.backbone.stored_name(match[1].removeprefix("backbone.") + ".weight").removesuffix(".weight")
            stored[f"base_model.model.{path}.lora_{match[2]}.weight"] = value
            layers[path] = None
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None if model.folder is None else str(model.folder),
        "r": model.lora.lora_rank,
        "lora_alpha": model.lora.alpha,
        "lora_dropout": model.lora.lora_dropout,
        "target_modules": list(layers),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return config, stored
