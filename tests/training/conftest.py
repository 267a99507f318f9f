"""One small run, with everything that a test may want to change about it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from mcd.data.loader import open_loader
from mcd.model.denoiser import Denoiser
from mcd.objective.mcd import MCD
from mcd.training.config import Budget, TrainConfig
from mcd.training.loop import Trainer
from mcd.training.run_folder import RunFolder


@pytest.fixture(scope="session")
def run_fit(tiny_denoiser, tiny_data) -> Callable[..., Denoiser]:
    """Distils (by default) for 12 steps in 3 rounds of a network with dropout; returns the EMA model."""

    def run(out: Path, objective=None, budget=None, watch=lambda p: None, validate=None, student=None, **options):
        objective = objective or MCD(delta0=0.1)
        budget = budget or Budget(steps=12, rounds=3)
        options = {"batch_size": 4, "lr": 1e-2, "warmup_steps": 3, "log_every": 1, "checkpoint_every": 5} | options
        config = TrainConfig(**options)
        student = (student or tiny_denoiser(V=300, length=16, dropout=0.1)).train()
        loader = open_loader(tiny_data, "train", config.batch_size, seed=config.seed)
        asked = {"objective": asdict(objective), "train": asdict(config) | asdict(budget)}
        run = RunFolder(out, asked, at_progress=objective.at_progress)
        texts = {"tokenizer.json": "{}"}
        return Trainer(student, objective, loader, config, budget, run, texts, validate, watch).fit()

    return run
