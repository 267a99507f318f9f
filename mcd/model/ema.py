"""Exponential moving average of weights, warmed up as in MDLM: decay_n = min(decay, (1 + n) / (10 + n))."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_towards(followers: Iterable[Tensor], leaders: Iterable[Tensor], share: float) -> None:
    """follower = follower + share (leader - follower) in place, for each pair; on GPUs in a few kernels for all."""
    lerp_ = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
    lerp_(list(followers), list(leaders), share)


class EMA:
    """Shadow weights of a module's trainable parameters, updated in place after each optimiser step."""

    def __init__(self, module: nn.Module, decay: float):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay must be in [0, 1), not {decay}")
        self.decay = decay
        self.updates = 0
        self.shadow: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """shadow = decay_n shadow + (1 - decay_n) weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        move_towards(self.shadow.values(), (p for p in module.parameters() if p.requires_grad), 1.0 - decay)
