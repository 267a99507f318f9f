"""What a checkpoint keeps of a run: weights, EMA, the round's teacher, optimisers and counters."""

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mcd.model.denoiser import Denoiser
from mcd.model.ema import EMA, move_towards
from mcd.training.ranks import whole


@dataclass
class Counters:
    """The state of a run. `too_high` and `bad` count steps in a row: loss above the limit, or not finite; `skipped`
    counts all steps whose loss or gradient was not finite."""

    step: int = 0
    elapsed_s: float = 0.0
    too_high: int = 0
    bad: int = 0
    skipped: int = 0


@dataclass
class TrainState:
    """The parts of a run, in place: on this process, and sharded if they are.

    Frozen parameters (a base under adapters) are neither averaged nor saved, and the teacher shares them.
    """

    student: Denoiser
    teacher: Denoiser | None
    ema: EMA
    optimizers: list[torch.optim.Optimizer]
    counters: Counters = field(default_factory=Counters)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those of a sharded run are shards."""
        parts = {f"student.{name}": p for name, p in trainable(self.student).items()}
        parts |= {f"ema.{name}": p for name, p in self.ema.shadow.items()}
        parts |= {f"teacher.{name}": p for name, p in self._of_teacher().items()}
        for i, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                parts |= {f"optimizer.{i}.{index}.{name}": value for name, value in state.items()}
        return {name: value.detach() for name, value in parts.items()}

    def meta(self) -> dict[str, Any]:
        """The counters, that of the EMA among them, for JSON."""
        return {**asdict(self.counters), "ema_updates": self.ema.updates}

    def prepare(self, shapes: dict[str, torch.Size]) -> None:
        """Make room for the optimisers' states of a checkpoint, by its names and shapes."""
        for i, optimizer in enumerate(self.optimizers):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for key, shape in shapes.items():
                if key.startswith(prefix := f"optimizer.{i}."):
                    index, name = key.removeprefix(prefix).split(".")
                    p = parameters[int(index)]
                    room = torch.zeros_like(p) if shape == p.shape else torch.zeros(shape, dtype=torch.float32)
                    state.setdefault(int(index), {})[name] = room
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def snapshot(self) -> None:
        """teacher := student (paper, Algorithm 1); nothing without a teacher."""
        student = trainable(self.student)
        for name, p in self._of_teacher().items():
            p.copy_(student[name].detach())

    def end_step(self, finite: bool, teacher_ema: float) -> None:
        """Count the step. After one whose gradient was finite, the EMA follows the student, and so does the teacher if
        `teacher_ema`, the decay of its own average, is not 0."""
        at = self.counters
        at.step += 1
        at.bad = 0 if finite else at.bad + 1
        at.skipped += not finite
        if finite:
            self.ema.update(self.student)
            if teacher_ema and self.teacher is not None:
                move_towards(self._of_teacher().values(), trainable(self.student).values(), 1.0 - teacher_ema)

    def _of_teacher(self) -> dict[str, Tensor]:
        """The teacher's parameters whose twins in the student are trained, in the same order."""
        own = trainable(self.student)
        return {} if self.teacher is None else {name: p for name, p in self.teacher.named_parameters() if name in own}


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def teacher_of(student: Denoiser, shared: bool) -> Denoiser:
    """A frozen copy in evaluation mode; `shared`: parameters that are frozen already are the student's own."""
    memo = {id(p): p for p in student.parameters() if shared and not p.requires_grad}
    return copy.deepcopy(student, memo).eval().requires_grad_(False)  # type: ignore[arg-type]


class Skeleton:
    """A model without its weights (on the meta device), taken before they are sharded, to be filled with whole ones."""

    def __init__(self, model: Denoiser):
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
        self.model = copy.deepcopy(model, empty)  # type: ignore[arg-type]

    def filled(self, model: Denoiser, weights: dict[str, Tensor], keep: bool = True) -> Denoiser | None:
        """A copy of `model` in evaluation mode on the CPU, with the parameters in `weights` instead of its own.

        All processes must call it; only those that `keep` hold the whole weights, the others get None.
        """
        made = {}
        for (name, p), empty in zip(model.named_parameters(), self.model.parameters(), strict=True):
            value = whole(weights.get(name, p).detach())
            if keep:
                made[id(empty)] = nn.Parameter(value.to("cpu", copy=True), requires_grad=False)
        return copy.deepcopy(self.model, made).eval() if keep else None  # type: ignore[arg-type]
