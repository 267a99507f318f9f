"""Why a loss or its gradient is not finite: which weights, which term, which regime, which tokens."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mcd.data.loader import Batch
from mcd.model.denoiser import Denoiser
from mcd.model.head import HeadLoss
from mcd.model.targets import Target, TeacherTarget, TokenTarget
from mcd.objective.base import Clock
from mcd.training.config import TrainConfig
from mcd.training.ranks import part_of, whole
from mcd.training.state import TrainState
from mcd.training.step import part_of_batch

SHOWN = 8
REGIMES = {
    TeacherTarget: "distillation, masked for student and teacher",
    TokenTarget: "reconstruction, masked for the student",
}


def diagnose(module: Any, state: TrainState, who: str, batch: Batch, clock: Clock, config: TrainConfig) -> str:
    """What is not finite in this step, in words, from this process's rows, whose loss is computed again.

    module: the `LossOfStudent` as set up for training; who: the network that it trains. All processes must call this
    together.
    """
    found = []
    models = {name: learner.model for name, learner in state.learners.items()} | {"teacher": state.teacher}
    for owner, model in models.items():
        weights = [] if model is None else list(model.named_parameters())
        bad = [name for name, p in weights if not whole(p.detach().isfinite().all())]
        if bad:
            found.append(f"weights of the {owner}: {_first_of(bad)}")
    for i in range(config.accumulate):
        part = part_of_batch(batch, i, clock, config)
        with torch.no_grad(), _rows_of_head(state.learners[who].model) as rows:
            values = module(part, clock).as_floats()
        if terms := [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]:
            found.append("not finite: " + ", ".join(terms))
        first = part_of(len(batch.x0), config.accumulate, i).start
        regimes: dict[str, list[str]] = {}
        for regime, place, value in rows:
            if not math.isfinite(value):
                b, l = divmod(place, part.x0.shape[1])
                regimes.setdefault(regime, []).append(f"row {first + b} position {l} token {int(part.x0[b, l])}")
        found += [f"{regime}: {_first_of(tokens)}" for regime, tokens in regimes.items()]
    return ". ".join(found) or "the loss is finite and its gradient is not"


@contextlib.contextmanager
def _rows_of_head(student: Denoiser) -> Iterator[list[tuple[str, int, float]]]:
    """While it lasts, notes the regime, flat position and loss of every row of the student's head."""
    notes: list[tuple[str, int, float]] = []
    places: list[int] = []
    hidden, head_loss = student.hidden, student.head_loss

    def noting_hidden(
        z_t: Tensor, t: Tensor, noise: Tensor | None = None, rows: Tensor | None = None, group: int | None = None
    ) -> Tensor:
        features = hidden(z_t, t, noise, rows, group)
        places[:] = range(len(features)) if rows is None else rows.tolist()
        return features

    def noting_head_loss(h: Tensor, *targets: Target) -> HeadLoss:
        loss = head_loss(h, *targets)
        for target, values in zip(targets, loss.rows, strict=True):
            regime = REGIMES.get(type(target), "another term")
            of_target = places[target.first : target.first + len(values)]
            notes.extend((regime, place, value) for place, value in zip(of_target, values.tolist(), strict=True))
        return loss

    student.hidden, student.head_loss = noting_hidden, noting_head_loss  # type: ignore[method-assign]
    try:
        yield notes
    finally:
        del student.hidden, student.head_loss


def _first_of(words: list[str]) -> str:
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")
