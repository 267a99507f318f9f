"""One step of training: the gradient of a batch, in one part or several, and the update of the weights."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mcd.data.loader import Batch
from mcd.model.denoiser import Denoiser
from mcd.objective.base import Clock, Loss, Objective
from mcd.process.draws import Draws
from mcd.process.transfer import checks_later
from mcd.training.config import TrainConfig
from mcd.training.ranks import part_of, rank, summed, whole, world_size


class Part:
    """Rows x0 (b, L) of a batch and their draws, on the CPU. DDP and FSDP would send a tensor to the GPU; not this."""

    def __init__(self, x0: Tensor, draws: Draws):
        self.x0, self.draws = x0, draws


class LossOfStudent(nn.Module):
    """The loss of a method as a module, so that Fabric's precision and data-parallel wrappers see all of it."""

    def __init__(
        self,
        objective: Objective,
        student: Denoiser,
        teacher: Denoiser | None = None,
        auxiliary: Mapping[str, Denoiser] = MappingProxyType({}),
    ):
        super().__init__()
        self.objective, self.student, self.teacher, self.auxiliary = objective, student, teacher, auxiliary
        for name, model in auxiliary.items():
            self.add_module(f"auxiliary_{name}", model)

    def forward(self, part: Part, clock: Clock) -> Loss:
        """The loss of some rows."""
        return self.objective.loss(self.student, self.teacher, part.x0, clock, part.draws, **self.auxiliary)


def add_gradient(fabric: Fabric, module: Any, batch: Batch, clock: Clock, config: TrainConfig) -> list[Loss]:
    """Add the gradient of this process's rows of a batch to the weights' own; returns the losses of its parts.

    The rows are computed in `config.accumulate` equal parts, and the gradient is the mean of theirs. Draws are made for
    the whole batch (`Draws`), so neither the number of parts nor that of processes changes the draws of a row; only
    dropout is drawn part by part. A loss that is not finite makes the gradient so, which `update` sees on every
    process. module: a `LossOfStudent` set up by `fabric`.
    """
    losses = []
    for i in range(config.accumulate):
        part = part_of_batch(batch, i, clock, config)
        with fabric.no_backward_sync(module, enabled=i + 1 < config.accumulate), checks_later():
            loss = module(part, clock)
            fabric.backward(loss.total / config.accumulate)
        losses.append(loss._replace(total=loss.total.detach()))
    return losses


def part_of_batch(batch: Batch, i: int, clock: Clock, config: TrainConfig) -> Part:
    """The rows of part i of this process, and their draws, from a stream seeded by (seed, step).

    PyTorch's own generator, which dropout draws from, is seeded for this part.
    """
    torch.manual_seed(part_seed(config.seed, clock.step, rank() * config.accumulate + i, "dropout"))
    generator = torch.Generator().manual_seed(part_seed(config.seed, clock.step, 0, "loss"))
    B, L = batch.x0.shape
    rows = part_of(B, config.accumulate, i)
    return Part(batch.x0[rows], Draws(generator, B, L, rows, batch.diffused))


def of_whole_batch(parts: list[Loss]) -> dict[str, float]:
    """Loss and terms (means over equal parts of the batch), counts (sums) and stats (means over all their values), for
    the log; all processes must ask.
    """
    means = {"loss": torch.stack([part.total for part in parts]).mean()}
    means |= {name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms}
    counts = {name: torch.stack([part.counts[name] for part in parts]).sum() for name in parts[0].counts}
    stats = {name: torch.cat([part.stats[name] for part in parts]) for name in parts[0].stats}
    sums = [value.item() for value in (*means.values(), *counts.values(), *(s.sum() for s in stats.values()))]
    sums += [len(values) for values in stats.values()]
    if world_size() > 1:
        sums = summed(torch.tensor(sums, dtype=torch.float64)).tolist()
    each = iter(sums)
    values = {name: next(each) / world_size() for name in means} | {name: int(next(each)) for name in counts}
    totals = {name: next(each) for name in stats}
    return values | {name: total / n for (name, total), n in zip(totals.items(), each, strict=True) if n}


def update(module: nn.Module, optimizers: list[torch.optim.Optimizer], clip_norm: float, lr: float) -> Tensor:
    """One update of the weights by their gradient, which is then dropped; returns its norm before clipping.

    Nothing but the gradient changes when the norm is not finite.
    """
    parameters = [p for p in module.parameters() if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True))
    if torch.isfinite(norm):
        if clip_norm / (norm + 1e-6) < 1.0:  # else torch would multiply every gradient by one
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm, foreach=True)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
    for p in parameters:
        p.grad = None
    return norm


def part_seed(seed: int, step: int, part: int, use: str) -> int:
    """One 63-bit seed for each (seed, step, part, use), by a hash: neighbouring steps share nothing."""
    name = f"{seed}/{step}/{use}" + (f"/{part}" if part else "")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
