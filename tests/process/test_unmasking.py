"""Orders of unmasking: every threshold is uniform on (low, 1]; how they depend on each other differs."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcd.process.unmasking import BLOCKS, GOLDEN, ORDERS, sample_u_of_row

LENGTH = 12


def draws(name: str, low: float, n: int = 3000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([ORDERS[name](LENGTH, low, generator) for _ in range(n)])


@pytest.mark.parametrize(
    "low", [pytest.param(0.0, marks=pytest.mark.slow), pytest.param(1e-3, marks=pytest.mark.slow), 0.4]
)
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


def steps_of(name: str, length: int, steps: int, seed: int) -> torch.Tensor:
    """At which of equal steps each token is revealed, 0 the first, int64 (L,)."""
    u = ORDERS[name](length, 0.0, torch.Generator().manual_seed(seed))
    return (u * steps).ceil().long() - 1


def closest(step: torch.Tensor) -> int:
    """The least distance between two tokens revealed at the same step."""
    where = [(step == n).nonzero()[:, 0] for n in step.unique()]
    return min(int(w.diff().min()) for w in where if len(w) > 1)


@settings(deadline=None)
@given(length=st.integers(1, 200), steps=st.integers(1, 64), seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", ["stratified", "low-discrepancy"])
def test_ranked_orders_reveal_evenly(name: str, length: int, steps: int, seed: int):
    low = 1e-3
    u = ORDERS[name](length, low, torch.Generator().manual_seed(seed))
    unit = (u - low) / (1 - low)
    step = ((unit * steps).ceil() - 1).clamp(0, steps - 1).long()
    counts = torch.bincount(step, minlength=steps)
    assert counts.sum() == length
    assert ((counts - length / steps).abs() < 2).all()
    stratum = ((unit * length).ceil() - 1).long()
    assert torch.equal(stratum.clamp(0, length - 1).sort().values, torch.arange(length))


@pytest.mark.parametrize("steps", [1, 4, 16, 64])
@pytest.mark.parametrize("name", [name for name in ORDERS if name != "iid"])
def test_all_but_iid_reveal_equally_when_the_steps_divide_the_length(name: str, steps: int):
    for seed in range(5):
        counts = torch.bincount(steps_of(name, 64, steps, seed), minlength=steps)
        assert (counts == 64 // steps).all()


@given(steps=st.integers(1, 64), per_step=st.integers(2, 16), seed=st.integers(0, 1000))
def test_low_discrepancy_tokens_of_a_step_are_far_apart(steps: int, per_step: int, seed: int):
    assert closest(steps_of("low-discrepancy", steps * per_step, steps, seed)) > 0.4 * steps


@pytest.mark.heavy
def test_low_discrepancy_ranks_are_those_of_the_golden_sequence():
    """Against a sort of the points one by one; the rotation is the only freedom, and each is as likely."""
    points = [i * GOLDEN - int(i * GOLDEN) for i in range(LENGTH)]
    rank = torch.tensor([sorted(points).index(point) for point in points])
    shifts = ((draws("low-discrepancy", 0.0) * LENGTH).ceil().long() - 1 - rank) % LENGTH
    assert (shifts == shifts[:, :1]).all()
    assert stats.chisquare(torch.bincount(shifts[:, 0], minlength=LENGTH).numpy()).pvalue > 1e-3


def test_random_orders_put_neighbours_into_one_step():
    for name in ("iid", "stratified"):
        assert {closest(steps_of(name, 256, 16, seed)) for seed in range(20)} <= {1, 2}


@given(length=st.integers(1, 200), seed=st.integers(0, 1000))
def test_blockwise_blocks_are_contiguous_and_follow_each_other(length: int, seed: int):
    """At BLOCKS steps each step is one run of tokens, its right neighbour (round the end) the next."""
    blocks = min(BLOCKS, length)
    step = steps_of("blockwise", length, blocks, seed).tolist()
    sizes = {step.count(n) for n in range(blocks)}
    assert sizes <= {length // blocks, length // blocks + 1}
    changes = [(a, b) for a, b in pairwise(step) if a != b]
    assert len(changes) == blocks - 1
    assert all(b == (a + 1) % blocks for a, b in changes)


@pytest.mark.heavy
def test_blockwise_order_in_a_block_is_a_random_permutation():
    u = torch.stack([ORDERS["blockwise"](32, 0.0, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    assert stats.chisquare(torch.bincount(u[:, :4].argmin(-1), minlength=4).numpy()).pvalue > 1e-3


def test_stratified_order_is_a_random_permutation():
    """Each position is the first to be revealed equally often."""
    first = torch.bincount(draws("stratified", 0.0).argmin(-1), minlength=LENGTH)
    assert stats.chisquare(first.numpy()).pvalue > 1e-3


def test_same_seed_same_thresholds():
    for order in ORDERS.values():
        a, b = (order(32, 0.0, torch.Generator().manual_seed(9)) for _ in range(2))
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_runs_over_the_wanted_tokens_alone(name: str, seeded):
    """As the order of a row of so many tokens; "iid" as in the whole row. The rest is 0: visible at every time."""
    wanted = torch.zeros(LENGTH, dtype=torch.bool)
    wanted[[1, 2, 7]] = True
    u = sample_u_of_row(name, wanted, 0.2, seeded(3))
    whole = ORDERS[name](LENGTH if name == "iid" else 3, 0.2, seeded(3))
    assert torch.equal(u[wanted], whole[wanted] if name == "iid" else whole) and (u[~wanted] == 0.0).all()
    every = torch.ones_like(wanted)
    assert torch.equal(sample_u_of_row(name, every, 0.2, seeded(3)), ORDERS[name](LENGTH, 0.2, seeded(3)))
    assert (sample_u_of_row(name, ~every, 0.2, seeded(3)) == 0.0).all()
