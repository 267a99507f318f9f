"""Named starting points; every option given on the command line overrides them.

Each is a complete set of options of `mcd train` or `mcd distill`, with the reason for what differs from the papers.
"""

from dataclasses import asdict, dataclass
from typing import Any

import tyro

from mcd.model.dit import DiTConfig
from mcd.options import Options
from mcd.train.config import Budget, TrainConfig


@dataclass(frozen=True)
class ModelSize(DiTConfig):
    """The options that size a new backbone; its rows, length and direction follow from the data and the method."""

    rows: tyro.conf.Suppress[int] = 2
    length: tyro.conf.Suppress[int] = DiTConfig.length
    causal: tyro.conf.Suppress[bool] = False

    def __post_init__(self) -> None:  # `mcd train` checks how they go together, where a new backbone is made
        Options.__post_init__(self)

    def chosen(self) -> dict[str, Any]:
        """The fields that are options, by name."""
        return {name: value for name, value in asdict(self).items() if name not in ("rows", "length", "causal")}


@dataclass(frozen=True)
class TrainRecipe:
    """What `mcd train --recipe` presets; `method` holds overrides of any method's options, by name."""

    size: ModelSize
    method: dict[str, float]
    train: TrainConfig
    budget: Budget


@dataclass(frozen=True)
class DistillRecipe:
    """What `mcd distill --recipe` presets; `method` holds overrides of any method's options, by name."""

    train: TrainConfig
    rounds: int
    steps_per_round: int
    method: dict[str, float]


OURS = ModelSize(hidden=192, layers=6, heads=3, cond_dim=16, dropout=0.0, gate_init=1.0)
"""The size of the bundled teacher."""

TRAIN: dict[str, TrainRecipe] = {
    # The bundled teacher. Muon leaves the unigram plateau long before AdamW (dev/LOG.md); it and bf16-mixed
    # want a CPU with bfloat16 units. Weights of 1/t beyond 10 are noise at 16 rows a step.
    "sotu": TrainRecipe(
        size=OURS,
        method={"max_weight": 10.0, "warm_start": 0.1},
        train=TrainConfig(
            batch_size=16,
            lr=2e-3,
            warmup_steps=100,
            lr_decay=0.4,
            optimizer="muon",
            betas=(0.9, 0.98),
            ema_decay=0.999,
            precision="bf16-mixed",
            compile=True,
            log_every=50,
            valid_every=500,
            checkpoint_every=500,
        ),
        budget=Budget(minutes=100.0),
    ),
    # The same for any CPU: float32 and AdamW.
    "cpu": TrainRecipe(
        size=OURS,
        method={"max_weight": 10.0, "warm_start": 0.1},
        train=TrainConfig(
            batch_size=16, lr=2e-3, warmup_steps=100, lr_decay=0.4, betas=(0.9, 0.98), log_every=50, valid_every=500
        ),
        budget=Budget(minutes=120.0),
    ),
    # MDLM's own (arXiv 2406.07524): DiT-small, OpenWebText, L = 1024, 1M steps of 512 rows.
    "mdlm": TrainRecipe(
        size=ModelSize(hidden=768, layers=12, heads=12, cond_dim=128, dropout=0.1, gate_init=0.0),
        method={},
        train=TrainConfig(
            batch_size=512,
            lr=3e-4,
            warmup_steps=2500,
            ema_decay=0.9999,
            precision="bf16-mixed",
            valid_every=10_000,
            checkpoint_every=5_000,
            log_every=100,
        ),
        budget=Budget(steps=1_000_000),
    ),
}

DISTILL: dict[str, DistillRecipe] = {
    # The paper's (Section 4.1), for L = 1024.
    "paper": DistillRecipe(
        train=TrainConfig(
            batch_size=128,
            lr=6e-5,
            warmup_steps=500,
            ema_decay=0.999,
            precision="bf16-mixed",
            checkpoint_every=1_000,
            log_every=50,
        ),
        rounds=5,
        steps_per_round=10_000,
        method={},
    ),
    # Minutes of CPU at L = 128. delta keeps the paper's delta x L of 2, 4, 8, 16, 32 tokens a round (1/512 of 128
    # tokens would be a quarter of one); 120 steps need a larger rate and a short memory of the average.
    "cpu": DistillRecipe(
        train=TrainConfig(batch_size=16, lr=3e-4, warmup_steps=10, ema_decay=0.95, checkpoint_every=24),
        rounds=5,
        steps_per_round=24,
        method={"delta0": 2 / 128},
    ),
}
