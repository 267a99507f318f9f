"""Orders of unmasking: every threshold is uniform on (low, 1]; how they depend on each other differs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcd.process.unmasking import ORDERS, sample_u_iid, sample_u_stratified

LENGTH = 12


def draws(name: str, low: float, n: int = 3000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([ORDERS[name](LENGTH, low, generator) for _ in range(n)])


@pytest.mark.parametrize("low", [0.0, 1e-3, 0.4])
@pytest.mark.parametrize("name", ORDERS)
def test_each_threshold_is_uniform_above_low(name: str, low: float):
    u = draws(name, low)
    assert u.dtype == torch.float64
    assert u.shape == (3000, LENGTH)
    assert ((u > low) & (u <= 1)).all()
    for position in (0, LENGTH // 2, LENGTH - 1):
        assert stats.kstest(u[:, position].numpy(), stats.uniform(low, 1 - low).cdf).pvalue > 1e-3


def test_iid_tokens_are_independent_and_stratified_ones_avoid_each_other():
    iid, stratified = draws("iid", 0.0), draws("stratified", 0.0)
    pairs = lambda u: torch.corrcoef(u.T)[~torch.eye(LENGTH, dtype=torch.bool)].mean().item()  # noqa: E731
    assert abs(pairs(iid)) < 0.01
    # the ranks are a permutation, whose pairwise correlation is -1 / (L - 1); the jitter dilutes it by 1 - 1 / L^2
    assert pairs(stratified) == pytest.approx(-(1 - 1 / LENGTH**2) / (LENGTH - 1), abs=0.01)


@settings(deadline=None)
@given(length=st.integers(1, 200), steps=st.integers(1, 64), seed=st.integers(0, 1000))
def test_stratified_reveals_evenly(length: int, steps: int, seed: int):
    low = 1e-3
    u = sample_u_stratified(length, low, torch.Generator().manual_seed(seed))
    unit = (u - low) / (1 - low)
    step = ((unit * steps).ceil() - 1).clamp(0, steps - 1).long()
    counts = torch.bincount(step, minlength=steps)
    assert counts.sum() == length
    assert ((counts - length / steps).abs() < 2).all()
    stratum = ((unit * length).ceil() - 1).long()
    assert torch.equal(stratum.clamp(0, length - 1).sort().values, torch.arange(length))


@pytest.mark.parametrize("steps", [1, 4, 16, 64])
def test_stratified_reveals_equally_when_the_steps_divide_the_length(steps: int):
    u = sample_u_stratified(64, 0.0, torch.Generator().manual_seed(3))
    counts = torch.bincount(((u * steps).ceil() - 1).long(), minlength=steps)
    assert (counts == 64 // steps).all()


def test_stratified_order_is_a_random_permutation():
    """Each position is the first to be revealed equally often."""
    first = torch.bincount(draws("stratified", 0.0).argmin(-1), minlength=LENGTH)
    assert stats.chisquare(first.numpy()).pvalue > 1e-3


def test_same_seed_same_thresholds():
    for order in (sample_u_iid, sample_u_stratified):
        a, b = (order(32, 0.0, torch.Generator().manual_seed(9)) for _ in range(2))
        assert torch.equal(a, b)
