"""Named starting points of `mcd train`, `mcd adapt` and `mcd distill`; every option on the command line overrides them.

Each is a complete set of options, with the reason for what differs from the papers.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

import tyro

from mcd.model.dit import DiTConfig
from mcd.objective import Objective
from mcd.options import Options
from mcd.training.config import Budget, TrainConfig

Method = TypeVar("Method", bound=Objective)


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


OURS = ModelSize(hidden=192, layers=6, heads=3, cond_dim=16, dropout=0.0, gate_init=1.0)
"""The size of the bundled teacher."""


@dataclass(frozen=True)
class Recipe:
    """What `--recipe` presets; `method` holds options by name, for the methods that have them.

    own: by the name of a method, what of `train` is another, and perhaps its `budget`.
    """

    train: TrainConfig
    budget: Budget
    method: dict[str, Any] = field(default_factory=dict)
    size: ModelSize = OURS
    own: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, method: str) -> tuple[TrainConfig, Budget]:
        """How the loop trains by a method, and how long."""
        own = dict(self.own.get(method, {}))
        budget = own.pop("budget", self.budget)
        return replace(self.train, **own), budget

    def budget_of(self, steps: int | None, minutes: float | None) -> Budget:
        """The budget of --steps and --minutes, or the recipe's own where neither is given."""
        return self.budget if steps is None and minutes is None else Budget(steps, minutes)

    def objective(self, kind: type[Method]) -> Method:
        """A method with the options that the recipe presets."""
        known = {field.name for field in fields(kind)}
        return kind(**{name: value for name, value in self.method.items() if name in known})


TRAIN = {
    # The bundled teacher. Muon leaves the unigram plateau long before AdamW (dev/LOG.md); it and bf16-mixed
    # need a CPU with bfloat16 units. Weights of 1/t beyond 10 are noise at 16 rows per step.
    "sotu": Recipe(
        TrainConfig(
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
        Budget(minutes=100.0),
        method={"max_weight": 10.0, "warm_start": 0.1},
    ),
    # The same for any CPU: float32 and AdamW.
    "cpu": Recipe(
        TrainConfig(
            batch_size=16, lr=2e-3, warmup_steps=100, lr_decay=0.4, betas=(0.9, 0.98), log_every=50, valid_every=500
        ),
        Budget(minutes=120.0),
        method={"max_weight": 10.0, "warm_start": 0.1},
    ),
    # MDLM's own (arXiv 2406.07524): DiT-small, OpenWebText, L = 1024, 1M steps of 512 rows.
    "mdlm": Recipe(
        TrainConfig(
            batch_size=512,
            lr=3e-4,
            warmup_steps=2500,
            ema_decay=0.9999,
            precision="bf16-mixed",
            valid_every=10_000,
            checkpoint_every=5_000,
            log_every=100,
        ),
        Budget(steps=1_000_000),
        size=ModelSize(hidden=768, layers=12, heads=12, cond_dim=128, dropout=0.1, gate_init=0.0),
    ),
}

ADAPT = {
    # A network of 0.1 to 1 billion parameters on one GPU. The rate is that of dLLM's recipes; DiffuLLaMA's is 3e-4 for
    # GPT-2 medium and 1.5e-5 for 7 billion.
    "gpu": Recipe(
        TrainConfig(
            batch_size=32,
            lr=1e-4,
            warmup_steps=500,
            lr_decay=0.1,
            precision="bf16-mixed",
            checkpoint_activations=True,
            checkpoint_every=500,
            log_every=50,
            valid_every=1_000,
        ),
        Budget(steps=20_000),
        method={"max_weight": 10.0},
    ),
    # Hours of CPU with SmolLM2-135M: short rows, a larger rate and a shorter memory of the average.
    "cpu": Recipe(
        TrainConfig(
            batch_size=8,
            length=64,
            lr=3e-4,
            warmup_steps=50,
            lr_decay=0.2,
            ema_decay=0.995,
            checkpoint_every=100,
            valid_every=250,
        ),
        Budget(steps=1_000),
        method={"max_weight": 10.0},
    ),
}

DISTILL = {
    # The paper's (Section 4.1), for L = 1024.
    "paper": Recipe(
        TrainConfig(
            batch_size=128,
            lr=6e-5,
            warmup_steps=500,
            ema_decay=0.999,
            precision="bf16-mixed",
            checkpoint_every=1_000,
            log_every=50,
        ),
        Budget(steps=5 * 10_000, rounds=5),
        # ltd, of this project: a trajectory reveals 16 of 1,024 tokens a step. Each row of --batch-size makes 8 states,
        # so that --batch-size 16 is as many as the rows of the other methods.
        method={"trajectory_steps": 64, "student_steps": (2, 4, 8, 16)},
        # The published settings, of 1,024 tokens too. The gradient of mmd is far below any --clip-norm; that of idlm is
        # not clipped by its authors, who give no number of steps.
        own={
            "idlm": {"batch_size": 512, "lr": 1e-6, "precision": "32-true"},
            "mmd": {
                "batch_size": 512,
                "lr": 1e-4,
                "ema_decay": 0.9999,
                "budget": Budget(steps=4_000),
            },
        },
    ),
    # Minutes of CPU at L = 128. delta keeps the paper's delta x L of 2, 4, 8, 16, 32 tokens per round (1/512 of 128
    # tokens would be a quarter of a token); 120 steps need a larger rate and a short memory of the average.
    "cpu": Recipe(
        TrainConfig(batch_size=16, lr=3e-4, warmup_steps=10, ema_decay=0.95, checkpoint_every=24),
        Budget(steps=5 * 24, rounds=5),
        # idlm: weights of 1/t beyond 10 are noise at 16 rows per step; a fake that lags behind misleads (docs/idlm.md).
        method={"delta0": 2 / 128, "trajectory_steps": 16, "max_weight": 10.0, "fake_turns": 8},
        # mmd: a row says little, so many rows at a third of the rate.
        own={
            "idlm": {"lr": 1e-4, "budget": Budget(steps=5 * 45, rounds=5)},
            "mmd": {"batch_size": 64, "lr": 1e-4, "ema_decay": 0.98, "budget": Budget(steps=120)},
        },
    ),
}
