"""What decides how a run trains, apart from the objective and the model."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from mcd.errors import UsageError
from mcd.machine import device
from mcd.model.lora import LoRA
from mcd.objective.base import Objective
from mcd.options import Count, Decay, Natural, NotNegative, Options, Positive, Seed
from mcd.training.tracking import TrackerName


@dataclass(frozen=True)
class Budget(Options):
    """How long a run lasts: exactly one of `steps` (optimiser steps) and `minutes` (of training time), in `rounds`."""

    steps: Count | None = None
    minutes: Positive | None = None
    rounds: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise UsageError(f"--steps {self.steps} --minutes {self.minutes}: give exactly one of them")
        if self.rounds > 1 and (self.steps is None or self.steps % self.rounds):
            raise UsageError(f"a run of {self.rounds} rounds needs --steps that are a multiple of {self.rounds}")

    @property
    def steps_per_round(self) -> int | None:
        """Optimiser steps per round; None when the run is measured in minutes (and has one round)."""
        return None if self.steps is None else self.steps // self.rounds

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that is done, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        return min(1.0, seconds / (60 * self.minutes))


@dataclass(frozen=True)
class TrainConfig(Options):
    """Options of the training loop."""

    batch_size: Count | Literal["auto"] = 32
    """Rows per step, of all processes together. auto, on CUDA devices: as many as fit, in powers of two for each
    device, by the estimate of `mcd plan` and a trial step. The learning rate stays as it is."""
    accumulate: Count = 1
    """Number of parts into which the rows of a process are divided; they are computed one after the other. This
    saves memory, and the gradient is the same up to rounding (dropout is drawn separately for each part). Exceptions
    are sdtt's --reduction masked and cd4lm's --clamp, which divide by a count of masked tokens in each part."""
    length: Count | None = None
    """Tokens per row; those of the prepared data by default."""
    lr: Positive = 3e-4
    """Peak learning rate."""
    warmup_steps: Natural = 0
    """Steps of linear warm-up, once per run."""
    lr_decay: Decay = 0.0
    """Last share of the run, in which the learning rate falls linearly to zero."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon trains small models in fewer steps, but needs hardware with fast bfloat16 (GPUs, recent server CPUs)."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """The two decays of AdamW."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW and Muon."""
    ema_decay: Decay = 0.999
    """Decay of the average of the weights, which is evaluated and published; warmed up as (1 + n) / (10 + n)."""
    clip_norm: Positive = 1.0
    """Largest norm of the gradient."""
    teacher_ema: Decay = 0.0
    """In a distillation, 0 is a hard snapshot of the student at the start of each round (the paper's way; cd4lm keeps
    its first teacher); otherwise the teacher follows the student at every step, as an average of this decay."""
    max_loss: Positive | None = None
    """Give up when the loss is above this for ten steps in a row (of a method with auxiliary networks, ten of the
    student's); what was saved stays."""
    min_entropy: NotNegative = 0.0
    """Give up when the rows that are drawn at a validation have less entropy than this on average, in nats (the
    unigram entropy within a row, as `mcd eval` measures it): the model collapses. What was saved stays. 0: never."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """bf16-mixed is faster on GPUs and on CPUs with bfloat16 units, and very slow on other CPUs. auto: bf16-mixed on a
    GPU that has bfloat16, 32-true elsewhere."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several processes under torchrun share the work: ddp, each has all weights; fsdp, each has a share of them
    (FSDP2)."""
    checkpoint_activations: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass: less memory, about a quarter
    more time, the same bits."""
    compile: bool = False
    """Compile the backbone with torch.compile (needs a C++ compiler on CPUs)."""
    seed: Seed = 0
    """Seed of rows, times, thresholds and dropout."""
    log_every: Count = 10
    """Steps between two lines of stats.jsonl."""
    valid_every: Natural = 0
    """Steps between two validations (NELBO into stats.jsonl, text into samples/); 0 for none."""
    checkpoint_every: Count = 200
    """Steps between two checkpoints."""
    track: tuple[TrackerName, ...] = ()
    """Trackers that get the rows of stats.jsonl too, each by an extra of its name: tensorboard (events in the run
    folder), wandb, trackio."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size != "auto" and self.batch_size % self.accumulate:
            raise UsageError(
                f"--batch-size {self.batch_size} --accumulate {self.accumulate}: the second must divide the first"
            )
        if self.min_entropy and not self.valid_every:
            raise UsageError(f"--min-entropy {self.min_entropy}: is compared at validations; give --valid-every")
        if self.strategy == "fsdp" and self.optimizer == "muon":
            raise UsageError("--optimizer muon: needs whole matrices, and --strategy fsdp shards them; take adamw")

    def resolved(self) -> "TrainConfig":
        """With the precision of this process's device in the place of auto."""
        if self.precision != "auto":
            return self
        half = device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return replace(self, precision="bf16-mixed" if half else "32-true")


def check_method(objective: Objective, config: TrainConfig) -> None:
    """Raise UsageError for a teacher that is to follow the student, in a method that keeps its first one; and for
    networks in turns that are to be sharded."""
    if config.teacher_ema and objective.distils and not objective.snapshots:
        raise UsageError(f"--teacher-ema {config.teacher_ema}: {objective.name} keeps its first teacher; leave it out")
    if config.strategy == "fsdp" and len(set(objective.turns)) > 1:
        raise UsageError(
            f"--strategy fsdp: {objective.name} trains several networks in turns, and FSDP2 shards a set of weights "
            "that is trained as a whole; take --strategy ddp"
        )


def configuration(objective: Objective, train: TrainConfig, budget: Budget, lora: LoRA) -> dict[str, Any]:
    """What every training command records of a run: its method, the options of the loop, and LoRA if it is on."""
    found = {"objective": {"name": objective.name, **asdict(objective)}, "train": asdict(train) | asdict(budget)}
    return found | ({"lora": asdict(lora)} if lora.lora_rank else {})
