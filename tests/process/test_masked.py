"""The masking process: marginals, nesting, exact kernels at a small vocabulary, the law of the coupled pair."""

import itertools
import math

import pytest
import torch

from mcd.process.masked import coupled_pair, mask, posterior_zs, reveal_probability
from mcd.process.schedule import Cosine, Linear, LogLinear, Schedule

ALL = [LogLinear(), Linear(), Cosine()]
MASK_IDS = [0, 2, 3]  # the mask need not be the last id
K = 4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def within_binomial(count: int, n: int, p: float) -> bool:
    return abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-9


def f64(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.93])
def test_marginal_is_the_schedule(schedule: Schedule, t: float):
    u = torch.rand(100, 1000, dtype=torch.float64, generator=seeded(0))
    x0 = torch.randint(0, 9, u.shape, generator=seeded(1))
    alpha_t = schedule.alpha(f64(t))
    z_t = mask(x0, u, alpha_t, 9)
    visible = z_t != 9
    assert torch.equal(z_t[visible], x0[visible])
    assert within_binomial(int(visible.sum()), u.numel(), alpha_t.item())


def test_masks_strictly_above_alpha_only():
    u = f64(0.25).expand(1, 1)
    x0 = torch.tensor([[5]])
    assert mask(x0, u, f64(0.25), 9).item() == 5
    assert mask(x0, u, torch.nextafter(f64(0.25), f64(0.0)), 9).item() == 9


def test_alpha_zero_masks_all_and_alpha_one_none():
    u = 1.0 - torch.rand(8, 64, generator=seeded(0))  # (0, 1]
    x0 = torch.randint(0, 9, u.shape, generator=seeded(1))
    assert (mask(x0, u, torch.zeros(8, 1), 9) == 9).all()
    assert torch.equal(mask(x0, u, torch.ones(8, 1), 9), x0)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_visible_sets_nest_along_a_trajectory(schedule: Schedule):
    u = torch.rand(8, 256, dtype=torch.float64, generator=seeded(2))
    x0 = torch.randint(0, 9, u.shape, generator=seeded(3))
    visible = [mask(x0, u, schedule.alpha(t), 9) != 9 for t in torch.linspace(1, 0, 33, dtype=torch.float64)]
    for at_t, at_s in itertools.pairwise(visible):
        assert (at_s | ~at_t).all()


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_coupled_pair_is_one_trajectory_seen_twice(schedule: Schedule):
    u = torch.rand(6, 128, dtype=torch.float64, generator=seeded(4))
    x0 = torch.randint(0, 9, u.shape, generator=seeded(5))
    t = 0.2 + 0.8 * torch.rand(6, dtype=torch.float64, generator=seeded(6))
    s = t - 0.2
    pair = coupled_pair(x0, u, t, s, schedule, 9)
    alpha_t, alpha_s = schedule.alpha(t)[:, None], schedule.alpha(s)[:, None]
    assert torch.equal(pair.z_t, mask(x0, u, alpha_t, 9))
    assert torch.equal(pair.z_s, mask(x0, u, alpha_s, 9))
    assert torch.equal(pair.masked_t, pair.z_t == 9)
    assert torch.equal(pair.masked_s, pair.z_s == 9)
    assert (pair.masked_t | ~pair.masked_s).all()
    assert torch.equal(pair.revealed, (alpha_t < u) & (u <= alpha_s))
    closed = coupled_pair(x0, u, t, t, schedule, 9)
    assert torch.equal(closed.z_t, closed.z_s)
    assert not closed.revealed.any()


def test_independent_thresholds_do_not_nest():
    u = torch.rand(4, 512, generator=seeded(7))
    x0 = torch.zeros(4, 512, dtype=torch.int64)
    t, s = torch.full((4,), 0.5), torch.full((4,), 0.45)
    pair = coupled_pair(x0, u, t, s, Linear(), 9, u_s=torch.rand(4, 512, generator=seeded(8)))
    assert (pair.masked_s & ~pair.masked_t).any()


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_joint_law_of_the_pair(schedule: Schedule):
    """P(masked at s | masked at t) = (1 - alpha_s) / (1 - alpha_t): the posterior's, whatever the schedule."""
    n = 200_000
    u = torch.rand(1, n, dtype=torch.float64, generator=seeded(9))
    x0 = torch.zeros(1, n, dtype=torch.int64)
    for t, s in ((0.9, 0.5), (0.3, 0.29), (1.0, 0.75)):
        pair = coupled_pair(x0, u, f64(t)[None], f64(s)[None], schedule, 9)
        alpha_t, alpha_s = schedule.alpha(f64(t)).item(), schedule.alpha(f64(s)).item()
        both, at_t = int(pair.masked_s.sum()), int(pair.masked_t.sum())
        assert within_binomial(both, at_t, (1 - alpha_s) / (1 - alpha_t))
        if not isinstance(schedule, Cosine):
            assert (1 - alpha_s) / (1 - alpha_t) == pytest.approx(s / t, rel=1e-12)
        assert reveal_probability(f64(alpha_t), f64(alpha_s)).item() == pytest.approx(
            1 - (1 - alpha_s) / (1 - alpha_t), abs=1e-12
        )


def forward(alpha_from: torch.Tensor, alpha_to: torch.Tensor, mask_id: int) -> torch.Tensor:
    """q(z_to | z_from) as a (K, K) matrix, from the definition: stay visible with probability alpha_to / alpha_from."""
    keep = alpha_to / alpha_from
    kernel = keep * torch.eye(K, dtype=torch.float64)
    kernel[:, mask_id] += 1.0 - keep
    return kernel


def backward(x_theta: torch.Tensor, alpha_t: torch.Tensor, alpha_s: torch.Tensor, mask_id: int) -> torch.Tensor:
    """q(z_s | z_t, x_theta) as a (K, K) matrix, one row for each z_t."""
    return posterior_zs(torch.arange(K), x_theta.expand(K, K), alpha_t, alpha_s, mask_id)


@pytest.mark.parametrize("mask_id", MASK_IDS)
@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_chapman_kolmogorov_forward(schedule: Schedule, mask_id: int):
    a_0, a_s, a_t = (schedule.alpha(f64(t)) for t in (0.0, 0.35, 0.8))
    composed = forward(a_0, a_s, mask_id) @ forward(a_s, a_t, mask_id)
    torch.testing.assert_close(composed, forward(a_0, a_t, mask_id), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask_id", MASK_IDS)
@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_posterior_is_bayes_rule(schedule: Schedule, mask_id: int):
    """q(z_s | z_t, x0) = q(z_t | z_s) q(z_s | x0) / q(z_t | x0), for every state that x0 can reach."""
    a_0, a_s, a_t = (schedule.alpha(f64(t)) for t in (0.0, 0.35, 0.8))
    for x0 in (i for i in range(K) if i != mask_id):
        onehot = torch.eye(K, dtype=torch.float64)[x0]
        joint = forward(a_0, a_s, mask_id)[x0][:, None] * forward(a_s, a_t, mask_id)
        for z_t in (x0, mask_id):
            exact = joint[:, z_t] / joint[:, z_t].sum()
            torch.testing.assert_close(backward(onehot, a_t, a_s, mask_id)[z_t], exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask_id", MASK_IDS)
@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_posterior_composes(schedule: Schedule, mask_id: int):
    """q(z_r | z_t, x) = sum over z_s of q(z_r | z_s, x) q(z_s | z_t, x), for one x and for a fixed mixture of them."""
    x_theta = torch.rand(K, dtype=torch.float64, generator=seeded(10))
    x_theta[mask_id] = 0.0
    onehot = torch.eye(K, dtype=torch.float64)[(mask_id + 1) % K]
    a_r, a_s, a_t = (schedule.alpha(f64(t)) for t in (0.2, 0.5, 0.9))
    for x in (onehot, x_theta / x_theta.sum()):
        two = backward(x, a_t, a_s, mask_id) @ backward(x, a_s, a_r, mask_id)
        torch.testing.assert_close(two, backward(x, a_t, a_r, mask_id), rtol=0, atol=1e-12)
        torch.testing.assert_close(two.sum(-1), torch.ones(K, dtype=torch.float64), rtol=0, atol=1e-12)


def test_posterior_takes_a_level_per_row_and_keeps_its_input():
    x_theta = torch.full((2, 3, K), 1 / 3, dtype=torch.float64)
    x_theta[..., K - 1] = 0.0
    before = x_theta.clone()
    z_t = torch.tensor([[0, 3, 3], [3, 1, 3]])
    alpha_t, alpha_s = torch.tensor([[0.2], [0.5]]).double(), torch.tensor([[0.6], [0.6]]).double()
    q = posterior_zs(z_t, x_theta, alpha_t, alpha_s, K - 1)
    assert torch.equal(x_theta, before)
    assert q[0, 0].tolist() == [1, 0, 0, 0]
    assert q[1, 1].tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(q[:, 2, -1], torch.tensor([0.5, 0.8]).double())
