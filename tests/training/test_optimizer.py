"""Optimisers by name, and the learning rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcd.training.config import TrainConfig
from mcd.training.optimizer import lr_factor, make_optimizers


@given(step=st.integers(0, 1000), warmup=st.integers(0, 500), decay=st.floats(0.0, 0.99), total=st.integers(1, 1000))
def test_learning_rate_rises_once_and_falls_once(step, warmup, decay, total):
    factor = lr_factor(step, min(1.0, step / total), warmup, decay)
    assert 0.0 <= factor <= 1.0
    if step + 1 >= warmup and step / total <= 1.0 - decay:
        assert factor == 1.0
    if warmup and step < warmup and step / total <= 1.0 - decay:
        assert factor == pytest.approx((step + 1) / warmup)
    assert factor <= lr_factor(step, 0.0, warmup, decay)


def test_the_first_step_moves_and_the_decay_ends_at_zero():
    assert lr_factor(0, 0.0, 500, 0.4) == 1 / 500
    assert [lr_factor(9, progress, 0, 0.5) for progress in (0.5, 0.75, 1.0)] == [1.0, 0.5, 0.0]
    assert lr_factor(10**6, 1.0, 500, 0.0) == 1.0


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_has_exactly_one_optimiser(tiny_denoiser, name):
    model = tiny_denoiser()
    optimizers = make_optimizers(model, TrainConfig(optimizer=name))
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_muon_has_the_matrices_of_the_blocks(tiny_denoiser):
    model = tiny_denoiser()
    muon, rest = make_optimizers(model, TrainConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    held = {names[id(p)] for p in muon.param_groups[0]["params"]}
    parts = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    assert held == {f"backbone.blocks.{i}.{part}.weight" for i in range(2) for part in parts}
    assert "backbone.embedding" in {names[id(p)] for p in rest.param_groups[0]["params"]}
