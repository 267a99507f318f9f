"""The bound against enumeration: every mask pattern, every order, every sequence of a small world."""

import itertools
import math

import numpy as np
import pytest
import torch

from mcd.objective.nelbo import NELBO
from mcd.process.schedule import Cosine, Linear, LogLinear

V, L = 3, 3
X0 = torch.tensor([2, 0, 1])
T_MIN = 1e-3


@pytest.fixture
def draw(loss_of):
    """The loss of rows, without gradient; other options are the clock's."""
    return torch.no_grad()(
        lambda objective, model, x0, seed=0, **clock: loss_of(objective, (model, None), x0, seed, **clock)
    )


def cross_entropies(model, x0):
    """{visible positions: {masked position i: -log p(x0_i | z)}} for all 2^L patterns; the network is time-free."""
    table = {}
    for pattern in itertools.product((False, True), repeat=L):
        z = torch.where(torch.tensor(pattern), torch.tensor(V), x0)[None]
        log_p = model.log_x_theta(model.hidden(z, torch.ones(1))).double()
        visible = frozenset(i for i in range(L) if not pattern[i])
        table[visible] = {i: -log_p[i, x0[i]].item() for i in range(L) if pattern[i]}
    return table


def bound_by_quadrature(model, x0, schedule, t_min=T_MIN):
    """Mean over t in (t_min, 1] of weight(t), times the sum over patterns of P(pattern | t) cross-entropies / L."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t = torch.from_numpy(t_min + (1 - t_min) * (nodes + 1) / 2)
    alpha, weight = schedule.alpha(t), schedule.nelbo_weight(t)
    total = torch.zeros_like(t)
    for visible, costs in cross_entropies(model, x0).items():
        total += alpha ** len(visible) * (1 - alpha) ** len(costs) * sum(costs.values())
    return float((torch.from_numpy(weights) * weight * total).sum() / 2 / L)


@pytest.fixture
def model(tiny_denoiser):
    return tiny_denoiser(V=V, length=L, scale=0.5).requires_grad_(False)


@pytest.mark.heavy
@pytest.mark.parametrize("schedule", [LogLinear(), Linear(), Cosine()], ids=repr)
def test_unbiased_for_the_bound_by_enumeration(tiny_denoiser, schedule, draw):
    model = tiny_denoiser(V=V, length=L, scale=0.5, schedule=schedule).requires_grad_(False)
    exact = bound_by_quadrature(model, X0, schedule)
    draws = torch.stack([draw(NELBO(), model, X0.expand(512, L), seed).total for seed in range(60)])
    error = draws.std().item() / math.sqrt(len(draws))
    assert error < 0.015 * exact
    assert abs(draws.mean().item() - exact) < 4.5 * error


def test_the_bound_is_the_mean_over_orders(model):
    """With alpha_t = 1 - t it is the any-order autoregressive bound: all L! orders, one token at a time."""
    table = cross_entropies(model, X0)
    per_order = [
        sum(table[frozenset(order[:k])][order[k]] for k in range(L)) for order in itertools.permutations(range(L))
    ]
    bound = bound_by_quadrature(model, X0, Linear(), t_min=0.0)
    assert bound == pytest.approx(sum(per_order) / len(per_order) / L, rel=1e-9)
    # Jensen: it bounds -log of the probability with which a random order writes x0
    likelihood = sum(math.exp(-cost) for cost in per_order) / len(per_order)
    assert bound * L >= -math.log(likelihood)
    assert bound * L - -math.log(likelihood) > 1e-4  # strictly, for this network


@pytest.mark.heavy
def test_random_order_writing_is_a_distribution(model):
    """The likelihood that the bound bounds sums to one over all sequences."""
    total = 0.0
    for x0 in itertools.product(range(V), repeat=L):
        table = cross_entropies(model, torch.tensor(x0))
        orders = list(itertools.permutations(range(L)))
        total += sum(math.exp(-sum(table[frozenset(o[:k])][o[k]] for k in range(L))) for o in orders) / len(orders)
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("schedule", [LogLinear(), Linear()], ids=repr)
def test_the_truth_about_independent_tokens_costs_their_entropy(tiny_denoiser, seeded, schedule, draw):
    """A network that knows p and ignores z: the mean over t of H(p) P(masked at t) / t is (1 - eps) H(p)."""
    model = tiny_denoiser(V=5, length=8, schedule=schedule).requires_grad_(False)
    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    model.backbone.head.linear.weight.zero_()
    model.backbone.head.linear.bias[:5] = p.log()
    entropy = -(p * p.log()).sum().item()
    x0 = torch.multinomial(p, 160 * 128 * 8, replacement=True, generator=seeded(0)).view(160, 128, 8)
    draws = torch.stack([draw(NELBO(), model, rows, seed).total for seed, rows in enumerate(x0)])
    eps = getattr(schedule, "eps", 0.0)
    error = draws.std().item() / math.sqrt(len(draws))
    assert error < 0.01 * entropy
    assert abs(draws.mean().item() - entropy * (1 - eps)) < 4.5 * error


def test_loss_is_the_weighted_sum_over_masked_tokens(tiny_denoiser, seeded, draw, calls_of):
    model = tiny_denoiser()
    x0 = torch.randint(0, 23, (6, 16), generator=seeded(0))
    seen = calls_of(model)
    loss = draw(NELBO(max_weight=4.0), model, x0)
    ((z, t, _),) = seen
    log_p = model.log_x_theta(model.hidden(z, t)).view(6, 16, 23)
    total, plain = 0.0, []
    for b, i in itertools.product(range(6), range(16)):
        if z[b, i] == 23:
            plain.append(-log_p[b, i, x0[b, i]].item())
            total += min(4.0, 1 / t[b].item()) * plain[-1]
    assert loss.total.item() == pytest.approx(total / 96, rel=1e-5)
    assert loss.terms["cross_entropy"].item() == pytest.approx(np.mean(plain), rel=1e-5)
    assert (int(loss.counts["tokens_masked"]), int(loss.counts["tokens"])) == (len(plain), 96)


def test_warm_start_raises_the_ceiling_of_t_and_then_ends(tiny_denoiser, draw, calls_of):
    model, objective = tiny_denoiser(), NELBO(warm_start=0.5, warm_t=0.2)
    seen = calls_of(model)
    for progress, ceiling in ((0.0, 0.2), (0.25, 0.6), (0.4999, 1.0), (0.5, 1.0), (0.9, 1.0)):
        draw(objective, model, torch.zeros(256, 16, dtype=torch.int64), progress=progress)
        _, t, _ = seen[-1]
        assert t.max() <= ceiling + 1e-3 and t.max() > ceiling - 0.02 and T_MIN <= t.min() < 0.02


def test_warm_start_caps_the_weight_and_then_is_the_bound(tiny_denoiser, draw):
    model = tiny_denoiser()
    x0 = torch.zeros(64, 16, dtype=torch.int64)
    warm = NELBO(warm_start=0.5)
    plain = draw(warm, model, x0, progress=0.2)
    masked, tokens = int(plain.counts["tokens_masked"]), int(plain.counts["tokens"])
    assert plain.total.item() == pytest.approx(plain.terms["cross_entropy"].item() * masked / tokens, rel=1e-5)
    assert torch.equal(draw(warm, model, x0, progress=0.5).total, draw(NELBO(), model, x0).total)
    assert draw(NELBO(), model, x0).total > draw(NELBO(max_weight=1.0), model, x0).total
