"""Rows, models and calls that the tests of methods share."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.objective import Clock, Loss
from mcd.process.draws import Draws


@pytest.fixture
def x0(seeded) -> Tensor:
    """Six rows of 16 tokens out of 23."""
    return torch.randint(0, 23, (6, 16), generator=seeded(3))


@pytest.fixture
def pair_of_models(tiny_denoiser) -> tuple[Denoiser, Denoiser]:
    """Student and teacher of different weights."""
    return tiny_denoiser(), tiny_denoiser(seed=1)


@pytest.fixture
def loss_of() -> Callable[..., Loss]:
    """The loss of rows by student and teacher, with the draws of a seed; other options are the clock's.

    By default it is a turn of the student. Auxiliary networks that are not given are copies of it, as a run begins.
    """

    def loss(objective, models, x0, seed=0, auxiliary=None, **clock):
        others = {name: copy.deepcopy(models[0]) for name in {*objective.turns} - {"student"}}
        at = Clock(**{"step": objective.turns.index("student"), **clock})
        draws = Draws(torch.Generator().manual_seed(seed), *x0.shape)
        return objective.loss(*models, x0, at, draws, **others | (auxiliary or {}))

    return loss


@pytest.fixture
def calls_of(monkeypatch) -> Callable[..., list[tuple[Any, Any, Any]]]:
    """Watches models: (z, t, rows) of every later call of their `hidden`, in order."""

    def watch(*models):
        seen = []
        for model in models:

            def hidden(z, t, noise=None, rows=None, group=None, original=model.hidden):
                seen.append((z, t, rows))
                return original(z, t, noise, rows, group)

            monkeypatch.setattr(model, "hidden", hidden)
        return seen

    return watch
