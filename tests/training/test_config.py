"""Options of training: each fault names the option."""

import pytest

from mcd.training.config import Budget, TrainConfig


@pytest.mark.parametrize(
    "options, match",
    [
        ({}, "--steps None --minutes None: give exactly one of them"),
        ({"steps": 1, "minutes": 1.0}, "--steps 1 --minutes 1.0: give exactly one of them"),
        ({"steps": 0}, "--steps 0"),
        ({"steps": -5}, "--steps -5"),
        ({"minutes": 0.0}, "--minutes 0.0"),
        ({"steps": 5, "rounds": 0}, "--rounds 0"),
        ({"steps": 10, "rounds": 3}, "--steps that are a multiple of 3"),
        ({"minutes": 1.0, "rounds": 3}, "3 rounds needs --steps"),
    ],
)
def test_impossible_budgets(options, match):
    with pytest.raises(ValueError, match=match):
        Budget(**options)


def test_progress_goes_from_0_to_1():
    by_steps, by_minutes = Budget(steps=10, rounds=5), Budget(minutes=2.0)
    assert by_steps.steps_per_round == 2 and by_minutes.steps_per_round is None
    assert [by_steps.progress(step, 1e9) for step in (0, 5, 10, 15)] == [0.0, 0.5, 1.0, 1.0]
    assert [by_minutes.progress(10**9, seconds) for seconds in (0.0, 60.0, 120.0, 500.0)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    "options, match",
    [
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"accumulate": 0}, "--accumulate 0: must be at least 1"),
        ({"batch_size": 6, "accumulate": 4}, "--batch-size 6 --accumulate 4: the second must divide the first"),
        ({"lr": -1.0}, "--lr -1.0"),
        ({"clip_norm": 0.0}, "--clip-norm 0.0"),
        ({"log_every": 0}, "--log-every 0"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0"),
        ({"warmup_steps": -1}, "--warmup-steps -1: must be at least 0"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1"),
        ({"valid_every": -1}, "--valid-every -1"),
        ({"seed": -1}, "--seed -1"),
        ({"lr_decay": 1.0}, r"--lr-decay 1.0: must be in \[0, 1\)"),
        ({"ema_decay": 1.0}, "--ema-decay 1.0"),
        ({"optimizer": "muon", "strategy": "fsdp"}, "--optimizer muon: needs whole matrices"),
    ],
)
def test_impossible_options(options, match):
    with pytest.raises(ValueError, match=match):
        TrainConfig(**options)
