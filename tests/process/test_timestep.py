"""Times: one in each stratum, uniform as a whole, far less variable than free draws; grids with exact ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcd.process.timestep import descending_grid, stratified_t


@settings(deadline=None)
@given(n=st.integers(1, 300), low=st.sampled_from([0.0, 1e-3, 1 / 512, 1 / 32]), seed=st.integers(0, 1000))
def test_one_time_in_each_stratum(n: int, low: float, seed: int):
    t = stratified_t(n, low, 1.0, torch.Generator().manual_seed(seed))
    assert t.shape == (n,)
    assert t.dtype == torch.float32
    position = (t.double() - low) / (1.0 - low) * n - torch.arange(n)
    assert (position > -1e-4).all()
    assert (position < 1.0 + 1e-4).all()
    assert ((t > low - 1e-7) & (t <= 1.0)).all()


def test_uniform_as_a_whole():
    low, high = 0.125, 0.75
    generator = torch.Generator().manual_seed(0)
    t = torch.cat([stratified_t(7, low, high, generator) for _ in range(1000)])
    assert stats.kstest(t.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    # and any one place of the batch is uniform on its own stratum
    place = t.view(1000, 7)[:, 3].numpy()
    width = (high - low) / 7
    assert stats.kstest(place, stats.uniform(low + 3 * width, width).cdf).pvalue > 1e-3


def test_batch_mean_varies_far_less_than_that_of_free_draws():
    generator = torch.Generator().manual_seed(1)
    means = torch.stack([stratified_t(64, 0.0, 1.0, generator).mean() for _ in range(300)])
    free = 1.0 / (12 * 64)
    assert means.var() < 3 * free / 64**2


def test_same_seed_same_times():
    a, b = (stratified_t(16, 0.0, 1.0, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)


@settings(deadline=None)
@given(steps=st.integers(1, 1024), start=st.floats(0.5, 1.0), end=st.floats(0.0, 0.4))
def test_grid_descends_evenly_between_exact_ends(steps: int, start: float, end: float):
    grid = descending_grid(steps, start, end)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == torch.float64
    assert grid[0].item() == start
    assert grid[-1].item() == end
    width = torch.full((steps,), (start - end) / steps, dtype=torch.float64)
    torch.testing.assert_close(-grid.diff(), width, rtol=0, atol=1e-14)


@pytest.mark.parametrize("steps", [0, -3])
def test_grid_needs_a_step(steps: int):
    with pytest.raises(ValueError, match="at least 1"):
        descending_grid(steps)
