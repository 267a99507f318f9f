"""One step of training: the gradient of a batch, in one part or several, and the update of the weights."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mcd.data.loader import Batch
from mcd.model.denoiser import Denoiser
from mcd.objective.base import Clock, Loss, Objective
from mcd.process.draws import Draws
from mcd.train.config import TrainConfig
from mcd.train.ranks import part_of, rank, summed, whole, world_size


class LossOfStudent(nn.Module):
    """One forward pass as a module, so that Fabric's precision and data-parallel wrappers see all of it."""

    def __init__(self, student: Denoiser, teacher: Denoiser | None = None):
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, loss_of: Callable[[Denoiser, Denoiser | None], Loss]) -> Loss:
        """The loss that `loss_of` makes of student and teacher."""
        return loss_of(self.student, self.teacher)


def add_gradient(
    fabric: Fabric, module: Any, objective: Objective, batch: Batch, clock: Clock, config: TrainConfig
) -> Loss:
    """Add the gradient of this process's rows of a batch to the weights' own; returns their loss, for the log only.

    The rows go in `config.accumulate` equal parts. Draws are of the whole batch (`Draws`), so that neither the number
    of parts nor that of processes changes what a row meets; dropout alone is drawn part by part. Gradient, loss and
    terms are the means of the parts', counts their sums. A loss that is not finite makes the gradient so, which
    `update` sees on every process. batch: x0 of this process's rows, `diffused` of all rows, which is what the loss is
    divided by. module: a `LossOfStudent` set up by `fabric`.
    """
    losses = []
    for i in range(config.accumulate):
        x0, draws = share_of(batch, i, clock, config, fabric.device)
        with fabric.no_backward_sync(module, enabled=i + 1 < config.accumulate):
            loss = module(lambda student, teacher: objective.loss(student, teacher, x0, clock, draws))  # noqa: B023
            fabric.backward(loss.total / config.accumulate)
        losses.append(loss._replace(total=loss.total.detach()))
    return mean_of_parts(losses)


def share_of(batch: Batch, i: int, clock: Clock, config: TrainConfig, device: torch.device) -> tuple[Tensor, Draws]:
    """The rows of part i of this process, on `device`, and their draws, of a stream seeded by (seed, step).

    PyTorch's own generator, which dropout draws from, is seeded for this part.
    """
    torch.manual_seed(part_seed(config.seed, clock.step, rank() * config.accumulate + i, "dropout"))
    generator = torch.Generator().manual_seed(part_seed(config.seed, clock.step, 0, "loss"))
    x0 = batch.x0.chunk(config.accumulate)[i].to(device, non_blocking=True)
    rows = part_of(config.batch_size, config.accumulate, i)
    return x0, Draws(generator, config.batch_size, x0.shape[1], rows, batch.diffused, device)


def mean_of_parts(losses: list[Loss]) -> Loss:
    """The loss of equal parts of one batch: totals and terms averaged, counts summed."""
    return Loss(
        total=torch.stack([loss.total for loss in losses]).mean(),
        terms={name: torch.stack([loss.terms[name] for loss in losses]).mean() for name in losses[0].terms},
        counts={name: torch.stack([loss.counts[name] for loss in losses]).sum() for name in losses[0].counts},
    )


def of_all_processes(loss: Loss) -> Loss:
    """The loss of the whole batch from those of the processes' shares; all must ask."""
    if world_size() == 1:
        return loss
    total, *terms = (
        summed(torch.stack([v.detach().double().cpu() for v in (loss.total, *loss.terms.values())])) / world_size()
    )
    counts = summed(torch.stack([v.detach().long().cpu() for v in loss.counts.values()]))
    return Loss(total, dict(zip(loss.terms, terms, strict=True)), dict(zip(loss.counts, counts, strict=True)))


def update(module: nn.Module, optimizers: list[Any], config: TrainConfig, lr_factor: float) -> Tensor:
    """One update of the weights by their gradient, which is then dropped; returns its norm before clipping.

    Nothing but the gradient changes when the norm is not finite.
    """
    parameters = [p for p in module.parameters() if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True))
    if torch.isfinite(norm):
        if config.clip_norm / (norm + 1e-6) < 1.0:  # else torch would multiply every gradient by one
            torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm, foreach=True)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * lr_factor
            optimizer.step()
    for p in parameters:
        p.grad = None
    return norm


def part_seed(seed: int, step: int, part: int, use: str) -> int:
    """One 63-bit seed for each (seed, step, part, use), by a hash: neighbouring steps share nothing."""
    name = f"{seed}/{step}/{use}" + (f"/{part}" if part else "")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
