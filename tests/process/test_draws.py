"""Draws: parts of a batch meet what the whole would, and what is not diffused is always visible."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.process.draws import Draws
from mcd.process.timestep import sample_u, stratified_t
from mcd.process.uniform import sample_rival
from mcd.process.unmasking import ORDERS

B, L, K = 12, 8, 5


def everything(draws, x0):
    """One of each kind of number, drawn in the same order."""
    kinds = [draws.t(0.1, 1.0), *(draws.u(order) for order in ORDERS), draws.uniform(), draws.uniform(L)]
    return [*kinds, draws.rival(x0, K), draws.normal(K), draws.u()]


@pytest.mark.heavy
@given(parts=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 100))
def test_parts_of_a_batch_are_parts_of_its_draws(parts, seed):
    x0 = torch.arange(B * L).view(B, L) % K
    whole = everything(Draws(torch.Generator().manual_seed(seed), B, L), x0)
    n = B // parts
    cut = [
        everything(Draws(torch.Generator().manual_seed(seed), B, L, slice(i, i + n)), x0[i : i + n])
        for i in range(0, B, n)
    ]
    for of_whole, *of_parts in zip(whole, *cut, strict=True):
        assert torch.equal(torch.cat(of_parts), of_whole)


def test_the_whole_is_the_plain_functions(seeded):
    """Alone in its process a run draws what it drew before there were parts."""
    draws, plain = Draws(seeded(4), B, L), seeded(4)
    assert torch.equal(draws.t(0.2, 0.9), stratified_t(B, 0.2, 0.9, plain))
    assert torch.equal(draws.u(), sample_u(B, L, plain))
    assert torch.equal(draws.uniform(L), torch.rand(B, L, dtype=torch.float64, generator=plain))
    x0 = torch.arange(B * L).view(B, L) % K
    assert torch.equal(draws.rival(x0, K), sample_rival(x0, K, plain))
    assert Draws(seeded(0), B, L).divisor == B * L


def test_rows_have_their_own_gaussians(seeded):
    eps = Draws(seeded(1), 64, L).normal(50)
    assert eps.shape == (64, L, 50) and abs(eps.mean()) < 4.5 / (64 * L * 50) ** 0.5
    assert eps.var().item() == pytest.approx(1.0, rel=0.03)
    assert len({float(row[0, 0]) for row in eps}) == 64


def test_what_is_not_diffused_is_visible_and_does_not_count(seeded):
    diffused = torch.arange(L) >= torch.arange(B)[:, None] % L
    free = Draws(seeded(2), B, L).u()
    draws = Draws(seeded(2), B, L, slice(3, 9), diffused)
    u = draws.u()
    assert torch.equal(u[diffused[3:9]], free[3:9][diffused[3:9]]) and (u[~diffused[3:9]] == 0.0).all()
    parts = [Draws(seeded(2), B, L, slice(i, i + 3), diffused).divisor for i in range(0, B, 3)]
    assert sum(parts) == pytest.approx(int(diffused.sum()))
    assert Draws(seeded(2), B, L, diffused=torch.zeros(B, L, dtype=torch.bool)).divisor == 1
    with pytest.raises(ValueError, match=r"diffused has shape \(12, 7\), not \(12, 8\)"):
        Draws(seeded(2), B, L, diffused=diffused[:, 1:])


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "iid"])
def test_an_order_runs_over_what_is_diffused(order, seeded):
    """In each part of (0, 1] as many thresholds as the row has diffused tokens for it, on every part of the batch."""
    diffused = torch.zeros(B, L, dtype=torch.bool)
    diffused[:4, 2:6] = diffused[4:, ::2] = True  # 4 of 8 tokens
    diffused[-1] = False
    u = Draws(seeded(5), B, L, diffused=diffused).u(order)
    parts = (u[:-1][diffused[:-1]].view(B - 1, 4) * 4).ceil().sort(dim=1).values
    assert torch.equal(parts, torch.arange(1.0, 5.0).expand(B - 1, 4)) and (u[~diffused] == 0.0).all()
    cut = [Draws(seeded(5), B, L, slice(i, i + 3), diffused).u(order) for i in range(0, B, 3)]
    assert torch.equal(torch.cat(cut), u)
