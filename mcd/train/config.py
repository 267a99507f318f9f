"""Everything that decides how a run trains, beside the objective and the model."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: exactly one of `steps` (optimiser steps) and `minutes` (of training time), in `rounds`."""

    steps: int | None = None
    minutes: float | None = None
    rounds: int = 1

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give exactly one of --steps and --minutes")
        for option, value in (("--steps", self.steps), ("--minutes", self.minutes), ("--rounds", self.rounds)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{option} {value}: must be positive and finite")
        if self.rounds > 1 and (self.steps is None or self.steps % self.rounds):
            raise ValueError(f"a run of {self.rounds} rounds needs --steps that are a multiple of {self.rounds}")

    @property
    def steps_per_round(self) -> int | None:
        """Optimiser steps a round; None when the run is measured in minutes (and has one round)."""
        return None if self.steps is None else self.steps // self.rounds

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that is done, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        return min(1.0, seconds / (60 * self.minutes))


@dataclass(frozen=True)
class TrainConfig:
    """Options of the training loop."""

    batch_size: int = 32
    """Rows a step, of all processes together."""
    accumulate: int = 1
    """Parts that the rows of a process are cut into, one after the other: memory falls, and the gradient is the same up
    to rounding (dropout is drawn anew for each part). Only what divides by a count of its own rows, the masked tokens
    of sdtt's --reduction masked or cd4lm's --clamp, does so part by part."""
    length: int | None = None
    """Tokens a row; the prepared data's own by default."""
    lr: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps of linear warm-up, once a run."""
    lr_decay: float = 0.0
    """Share of the run, at its end, over which the learning rate falls linearly to zero."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon learns small models faster, but is quick only where bfloat16 is (GPUs, recent server CPUs)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""
    weight_decay: float = 0.0
    """AdamW's and Muon's."""
    ema_decay: float = 0.999
    """Of the weights that are evaluated and published; warmed up as (1 + n) / (10 + n)."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    teacher_ema: float = 0.0
    """Of distillation: 0 is a hard snapshot of the student at the start of each round (the paper's way; cd4lm keeps its
    first teacher); else the teacher follows the student at every step, as an average of this decay."""
    max_loss: float | None = None
    """Give up when the loss is above this ten steps running; what was saved stays."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed is quicker on GPUs and on CPUs with bfloat16 units, very slow on CPUs without."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Of several processes under torchrun: ddp, each has all weights; fsdp, each has a share of them (FSDP2)."""
    checkpoint_activations: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass: less memory, about a quarter
    more time, the same bits."""
    compile: bool = False
    """Compile the backbone with torch.compile (needs a C++ compiler on CPUs)."""
    seed: int = 0
    """Of rows, times, thresholds and dropout."""
    log_every: int = 10
    """Steps between two lines of stats.jsonl."""
    valid_every: int = 0
    """Steps between two validations (NELBO into stats.jsonl, text into samples/); 0 for none."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "lr", "clip_norm", "log_every", "checkpoint_every"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be positive and finite")
        for name in ("warmup_steps", "weight_decay", "valid_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: must not be negative")
        if self.batch_size % self.accumulate:
            raise ValueError(f"--accumulate {self.accumulate}: must divide --batch-size {self.batch_size}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed}: must be in [0, 2^63)")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"--betas {self.betas[0]} {self.betas[1]}: both must be in [0, 1)")
        if self.max_loss is not None and not self.max_loss > 0.0:
            raise ValueError(f"--max-loss {self.max_loss}: must be positive")
        for name in ("lr_decay", "ema_decay", "teacher_ema"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be in [0, 1)")
