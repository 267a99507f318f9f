"""Why a loss or its gradient is not finite: which weights, which term, which regime, which tokens."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mcd.data.loader import Batch
from mcd.model.denoiser import Denoiser
from mcd.model.head import HeadLoss
from mcd.model.targets import Target, TeacherTarget, TokenTarget
from mcd.objective.base import Clock, Objective
from mcd.train.config import TrainConfig
from mcd.train.ranks import part_of, whole
from mcd.train.step import share_of

SHOWN = 8
REGIMES = {
    TeacherTarget: "distillation, masked for student and teacher",
    TokenTarget: "reconstruction, masked for the student",
}


class _Listening:
    """While it lasts, notes of every row of the student's head which target it had, where, and its loss."""

    def __init__(self, student: Denoiser):
        self.student = student
        self.notes: list[tuple[str, int, float]] = []
        self.rows: Tensor | None = None

    def __enter__(self) -> "_Listening":
        hidden, head_loss = self.student.hidden, self.student.head_loss

        def hidden_noting(*args: Any, **kwargs: Any) -> Tensor:
            features = hidden(*args, **kwargs)
            given = kwargs.get("rows", args[3] if len(args) > 3 else None)
            self.rows = torch.arange(len(features)) if given is None else given.cpu()
            return features

        def head_loss_noting(h: Tensor, *targets: Target) -> HeadLoss:
            loss = head_loss(h, *targets)
            assert self.rows is not None
            for target, values in zip(targets, loss.rows, strict=True):
                regime = REGIMES.get(type(target), "another term")
                places = self.rows[target.first : target.first + len(values)].tolist()
                self.notes += zip([regime] * len(places), places, values.tolist(), strict=True)
            return loss

        self.student.hidden, self.student.head_loss = hidden_noting, head_loss_noting  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self.student.hidden, self.student.head_loss


def diagnose(
    module: nn.Module, objective: Objective, batch: Batch, clock: Clock, config: TrainConfig, device: torch.device
) -> str:
    """What is not finite in this step, in words, from this process's rows, which are computed again.

    module: a `LossOfStudent`, as set up for training; all processes must call this together.
    """
    student, teacher = (getattr(module, name) for name in ("student", "teacher"))
    found = [
        f"weights of the {who}: {text}" for who, model in _models(student, teacher) if (text := _bad_weights(model))
    ]
    for i in range(config.accumulate):
        x0, draws = share_of(batch, i, clock, config, device)
        with torch.no_grad(), _Listening(student) as heard:
            loss = module(_loss_of(objective, x0, clock, draws))
        terms = {name: value for name, value in loss.as_floats().items() if not math.isfinite(value)}
        bad = [(regime, place, value) for regime, place, value in heard.notes if not math.isfinite(value)]
        if terms:
            found.append("not finite: " + ", ".join(f"{name} {value}" for name, value in terms.items()))
        for regime in dict.fromkeys(regime for regime, _, _ in bad):
            places = [divmod(place, x0.shape[1]) for r, place, _ in bad if r == regime]
            first = part_of(config.batch_size, config.accumulate, i).start
            tokens = ", ".join(f"row {first + b} position {l} token {int(x0[b, l])}" for b, l in places[:SHOWN])
            more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
            found.append(f"{regime}: {tokens}{more}")
    return ". ".join(found) or "the loss is finite and its gradient is not"


def _loss_of(objective: Objective, x0: Tensor, clock: Clock, draws: Any) -> Callable[..., Any]:
    return lambda student, teacher: objective.loss(student, teacher, x0, clock, draws)


def _models(student: Denoiser, teacher: Denoiser | None) -> list[tuple[str, Denoiser]]:
    return [("student", student)] + ([("teacher", teacher)] if teacher is not None else [])


def _bad_weights(model: Denoiser) -> str:
    bad = [name for name, p in model.named_parameters() if not whole(p.detach().isfinite().all())]
    return ", ".join(bad[:SHOWN]) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
