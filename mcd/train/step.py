"""One step of training: the gradient of a batch, in one part or several, and the update of the weights."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mcd.model.denoiser import Denoiser
from mcd.objective.base import Clock, Loss, Objective
from mcd.train.config import TrainConfig


class LossOfStudent(nn.Module):
    """One forward pass as a module, so that Fabric's precision and data-parallel wrappers see all of it."""

    def __init__(self, student: Denoiser):
        super().__init__()
        self.student = student

    def forward(self, loss_of: Callable[[Denoiser], Loss]) -> Loss:
        """The loss that `loss_of` makes of the student."""
        return loss_of(self.student)


def add_gradient(
    fabric: Fabric,
    module: Any,
    objective: Objective,
    teacher: Denoiser | None,
    x0: Tensor,
    clock: Clock,
    config: TrainConfig,
) -> Loss:
    """Add the gradient of the rows x0 (B, L) to the weights' own; returns the loss, for the log only.

    The rows go in `config.accumulate` equal parts, each with draws of its own, seeded by (seed, step, part). Gradient,
    loss and terms are the means of the parts', counts their sums. module: a `LossOfStudent` set up by `fabric`.
    Raises FloatingPointError when a part's loss is not finite.
    """
    parts = x0.chunk(config.accumulate)
    losses = []
    for i, part in enumerate(parts):
        generator = torch.Generator().manual_seed(part_seed(config.seed, clock.step, i, "loss"))
        torch.manual_seed(part_seed(config.seed, clock.step, i, "dropout"))
        with fabric.no_backward_sync(module, enabled=i + 1 < len(parts)):
            loss = module(lambda model: objective.loss(model, teacher, part, clock, generator))  # noqa: B023
            if not torch.isfinite(loss.total):
                terms = ", ".join(f"{name} {value:.4g}" for name, value in loss.as_floats().items())
                raise FloatingPointError(
                    f"the loss of step {clock.step + 1} is not finite ({terms}); the last checkpoint is intact"
                )
            fabric.backward(loss.total / len(parts))
        losses.append(loss._replace(total=loss.total.detach()))
    return mean_of_parts(losses)


def mean_of_parts(losses: list[Loss]) -> Loss:
    """The loss of equal parts of one batch: totals and terms averaged, counts summed."""
    return Loss(
        total=torch.stack([loss.total for loss in losses]).mean(),
        terms={name: torch.stack([loss.terms[name] for loss in losses]).mean() for name in losses[0].terms},
        counts={name: torch.stack([loss.counts[name] for loss in losses]).sum() for name in losses[0].counts},
    )


def update(module: nn.Module, optimizers: list[Any], config: TrainConfig, lr_factor: float, step: int) -> Tensor:
    """One update of the weights by their gradient, which is then dropped; returns its norm before clipping.

    Raises FloatingPointError, and changes nothing, when the norm is not finite.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None], foreach=True)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient of step {step + 1} is not finite; the last checkpoint is intact")
    if config.clip_norm / (norm + 1e-6) < 1.0:  # else torch would multiply every gradient by one
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), config.clip_norm, norm, foreach=True)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


def part_seed(seed: int, step: int, part: int, use: str) -> int:
    """One 63-bit seed for each (seed, step, part, use), by a hash: neighbouring steps share nothing."""
    name = f"{seed}/{step}/{use}" + (f"/{part}" if part else "")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
