"""What a checkpoint keeps of a run: weights, EMA, the round's teacher, auxiliary networks, optimisers and counters."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mcd.model.denoiser import Denoiser
from mcd.model.ema import EMA, move_towards
from mcd.training.ranks import whole


@dataclass
class Counters:
    """The state of a run. `too_high` and `bad` count steps in a row: loss above the limit, or not finite; `skipped`
    counts all steps whose loss or gradient was not finite. `bad_of` is the network of the last of them: only a finite
    step of its own ends the row."""

    step: int = 0
    elapsed_s: float = 0.0
    too_high: int = 0
    bad: int = 0
    skipped: int = 0
    bad_of: str = "student"


class Learner(NamedTuple):
    """A network that is trained, and what trains it."""

    model: Denoiser
    optimizers: list[torch.optim.Optimizer]


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
    auxiliary: dict[str, Learner] = field(default_factory=dict)
    """The auxiliary networks of the method, by name."""

    @property
    def learners(self) -> dict[str, Learner]:
        """All networks that are trained, by the names that the turns of a method have (`Objective.turns`)."""
        return {"student": Learner(self.student, self.optimizers), **self.auxiliary}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those of a sharded run are shards."""
        parts = {f"student.{name}": p for name, p in trainable(self.student).items()}
        parts |= {f"ema.{name}": p for name, p in self.ema.shadow.items()}
        parts |= {f"teacher.{name}": p for name, p in self._of_teacher().items()}
        for who, (model, _) in self.auxiliary.items():
            parts |= {f"{who}.{name}": p for name, p in trainable(model).items()}
        for prefix, optimizer in self._optimizers():
            for index, state in optimizer.state_dict()["state"].items():
                parts |= {f"{prefix}{index}.{name}": value for name, value in state.items()}
        return {name: value.detach() for name, value in parts.items()}

    def meta(self) -> dict[str, Any]:
        """The counters, that of the EMA among them, for JSON."""
        return {**asdict(self.counters), "ema_updates": self.ema.updates}

    def prepare(self, shapes: dict[str, torch.Size]) -> None:
        """Make room for the optimisers' states of a checkpoint, by its names and shapes."""
        for prefix, optimizer in self._optimizers():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for key, shape in shapes.items():
                if key.startswith(prefix):
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

    def end_step(self, who: str, finite: bool, teacher_ema: float) -> None:
        """Count the step, in which `who` was trained. After one of the student whose gradient was finite, the EMA
        follows it, and so does the teacher if `teacher_ema`, the decay of its own average, is not 0."""
        at = self.counters
        at.step += 1
        if not finite:
            at.bad, at.skipped, at.bad_of = at.bad + 1, at.skipped + 1, who
        elif who == at.bad_of:
            at.bad = 0
        if finite and who == "student":
            self.ema.update(self.student)
            if teacher_ema and self.teacher is not None:
                move_towards(self._of_teacher().values(), trainable(self.student).values(), 1.0 - teacher_ema)

    def _optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        """The optimisers of all networks, each with what the names of its tensors begin with."""
        for who, (_, optimizers) in self.learners.items():
            for i, optimizer in enumerate(optimizers):
                yield ("" if who == "student" else f"{who}.") + f"optimizer.{i}.", optimizer

    def _of_teacher(self) -> dict[str, Tensor]:
        """The teacher's parameters whose twins in the student are trained, in the same order."""
        own = trainable(self.student)
        return {} if self.teacher is None else {name: p for name, p in self.teacher.named_parameters() if name in own}


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextlib.contextmanager
def turn_of(who: str, models: Mapping[str, Denoiser]) -> Iterator[None]:
    """While it lasts, of these models this one alone is trained: the others are frozen and in evaluation mode."""
    frozen: list[Tensor] = []
    for name, model in models.items():
        model.train(name == who)
        frozen += trainable(model).values() if name != who else ()
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


def copy_of(student: Denoiser, shared: bool) -> Denoiser:
    """A copy; `shared`: parameters that are frozen are the student's own."""
    memo = {id(p): p for p in student.parameters() if shared and not p.requires_grad}
    return copy.deepcopy(student, memo)  # type: ignore[arg-type]


def teacher_of(student: Denoiser, shared: bool) -> Denoiser:
    """A frozen copy in evaluation mode; `shared`: as of `copy_of`."""
    return copy_of(student, shared).eval().requires_grad_(False)


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
