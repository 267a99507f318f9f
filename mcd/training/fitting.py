"""How many rows fit the memory of a GPU: by the estimate of `mcd plan`, and then by trying."""

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from mcd.model.denoiser import Denoiser
from mcd.model.shapes import free_memory
from mcd.model.sizes import sizes_of
from mcd.objective.base import Clock, Objective
from mcd.process.draws import Draws
from mcd.process.transfer import checks_later
from mcd.training.config import TrainConfig
from mcd.training.estimate import FREE, Setup, memory
from mcd.training.ranks import largest as largest_of_ranks
from mcd.training.ranks import world_size
from mcd.training.state import copy_of, teacher_of, trainable

MOST = 4096
"""Rows of a part that are tried at most."""


def batch_that_fits(
    student: Denoiser,
    objective: Objective,
    config: TrainConfig,
    length: int,
    fabric: Fabric,
    teacher: Denoiser | None = None,
) -> int:
    """--batch-size auto: the rows of a step of which each process computes a power of two in each of its parts.

    They begin at the estimate of `mcd plan` for what is free on the device. A trial of one part of random tokens, on a
    copy of the student and with as much memory held as a run holds, then says whether they fit; if not, half are
    tried. With --strategy fsdp, whose weights are not whole here, the estimate alone decides. All processes must ask.
    teacher: as of `Trainer`. Raises torch.OutOfMemoryError where not even one row fits.
    """
    parts, sizes = world_size() * config.accumulate, sizes_of(student.config.backbone)
    precision = config.resolved().precision
    assert precision != "auto"

    def setup_of(rows: int) -> Setup:
        return Setup(
            sizes,
            rows * parts,
            length,
            devices=world_size(),
            precision=precision,
            strategy=config.strategy,
            distils=objective.needs_teacher,
            accumulate=config.accumulate,
            checkpointing=config.checkpoint_activations,
        )

    rows = estimated_rows(setup_of, free_memory(fabric.device))
    if config.strategy != "fsdp":
        rows = fewer_of(rows, partial(try_part, student, objective, config, length, fabric, teacher))
    (most,) = largest_of_ranks(-float(rows))
    return int(-most) * parts


def estimated_rows(setup_of: Callable[[int], Setup], free: float) -> int:
    """The largest power of two, at least 1, of rows whose peak fits into `free` bytes by the estimate."""
    rows = 1
    while 2 * rows <= MOST and memory(setup_of(2 * rows))["peak"] < (1 - FREE) * free:
        rows *= 2
    return rows


def fewer_of(rows: int, work: Callable[[int], Any]) -> int:
    """`rows`, or the first half of them, quarter and so on with which `work` does not run out of memory."""
    return largest([rows >> i for i in range(rows.bit_length())], work)


def try_part(
    student: Denoiser,
    objective: Objective,
    config: TrainConfig,
    length: int,
    fabric: Fabric,
    teacher: Denoiser | None,
    rows: int,
) -> None:
    """Forward and backward pass on random rows, on copies; the student stays as it is."""
    model = copy_of(student, shared=False).to(fabric.device)
    if teacher is None and objective.needs_teacher:
        teacher = teacher_of(model, shared=True)
    objective.equip(model, length)
    model.backbone.checkpointing = config.checkpoint_activations
    others = {name: copy_of(model, shared=True) for name in sorted({*objective.turns} - {"student"})}
    trained = sum(p.numel() for p in trainable(model).values())
    numbers = trained * (2 * (1 + len(others)) + 1 + (world_size() > 1))  # AdamW of each network, EMA, DDP's buckets
    held = torch.empty(numbers, device=fabric.device)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(student.config.vocab_size, (rows, length), generator=generator)
    draws = Draws(generator, rows, length)
    with checks_later(), fabric.autocast():
        loss = objective.loss(model.train(), teacher, x0, Clock(), draws, **others)
        loss.total.backward()
    del held


def largest(batches: Sequence[int], work: Callable[[int], Any]) -> int:
    """The first of falling `batches` with which `work` does not run out of memory; raises if it does with the last."""
    for batch in batches[:-1]:
        try:
            work(batch)
            return batch
        except torch.OutOfMemoryError:
            pass
        finally:
            clean()
    work(batches[-1])
    clean()
    return batches[-1]


def clean() -> None:
    """Give back what is not used any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
