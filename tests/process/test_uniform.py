"""The uniform-state process: Bayes, the bound from its definition, the exact reverse process, the scalar coupling."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mcd.process.duality import (
    latent_of_noise,
    snr_root_of_uniform_alpha,
    u_of_noise,
    uniform_alpha_of_snr_root,
    vp_of_snr_root,
)
from mcd.process.schedule import Cosine, Linear, LogLinear, Schedule
from mcd.process.uniform import (
    corrupt,
    coupled_pair_uniform,
    keep_probability,
    nelbo_in_parts,
    nelbo_tokens,
    posterior_zs,
    psi_posterior_zs,
    sample_rival,
    tabled_snr_root,
)

ALL = [LogLinear(), Linear(), Cosine()]
K = 4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def f64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def law(*shape: int, seed: int, sharpness: float = 1.5) -> Tensor:
    """Random distributions over the last dimension, float64."""
    return torch.softmax(sharpness * torch.randn(*shape, dtype=torch.float64, generator=seeded(seed)), -1)


def marginal(alpha: Tensor) -> Tensor:
    """q(z | x0) as a (K, K) matrix, a row for each x0."""
    return alpha * torch.eye(K, dtype=torch.float64) + (1 - alpha) / K


def posterior(x: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """q(z_s | z_t, x) as a (K, K) matrix, a row for each z_t."""
    return posterior_zs(torch.arange(K), x.expand(K, K), alpha_t.expand(K), alpha_s.expand(K))


# --- marginals and posterior -----------------------------------------------------------------------------------------


def test_marginal_is_the_schedule():
    n, alpha = 80_000, f64(0.3)
    x0 = torch.full((1, n), 2)
    u = 1.0 - torch.rand(1, n, dtype=torch.float64, generator=seeded(0))
    z_t = corrupt(x0, u, sample_rival(x0, 6, seeded(1)), alpha, 6)
    counts = torch.bincount(z_t.flatten(), minlength=6)
    expected = n * (0.3 * torch.eye(6)[2] + 0.7 / 6)
    assert stats.chisquare(counts.numpy(), expected.numpy(), sum_check=False).pvalue > 1e-3


def test_ends_of_the_corruption():
    x0 = torch.randint(0, 9, (4, 64), generator=seeded(0))
    u, rival = 1.0 - torch.rand(4, 64, generator=seeded(1)), sample_rival(x0, 9, seeded(2))
    assert (rival != x0).all() and ((rival >= 0) & (rival < 9)).all()
    assert torch.equal(corrupt(x0, u, rival, torch.ones(4, 1), 9), x0)
    assert torch.equal(corrupt(x0, torch.ones(4, 64), rival, torch.zeros(4, 1), 9), rival)
    assert keep_probability(f64(0.0), 9).item() == pytest.approx(1 / 9)
    with pytest.raises(ValueError, match="K must be at least 2"):
        sample_rival(x0, 1)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_posterior_is_bayes_rule(schedule: Schedule):
    """q(z_s | z_t, x0) = q(z_t | z_s) q(z_s | x0) / q(z_t | x0), for all x0 and z_t."""
    alpha_s, alpha_t = schedule.alpha(f64(0.35)), schedule.alpha(f64(0.8))
    for x0 in range(K):
        joint = marginal(alpha_s)[x0][:, None] * marginal(alpha_t / alpha_s)
        exact = (joint / joint.sum(0)).T
        onehot = torch.eye(K, dtype=torch.float64)[x0]
        torch.testing.assert_close(posterior(onehot, alpha_t, alpha_s), exact, rtol=0, atol=1e-14)


def test_posterior_of_a_mixture_is_exact_for_the_prediction_without_the_own_state():
    """x_theta = p(x0), which has not seen z_t: the plug-in is the mixture over p(x0 | z_t) of the posteriors."""
    prior, alpha_t, alpha_s = law(K, seed=0), f64(0.3), f64(0.6)
    given_zt = prior[:, None] * marginal(alpha_t)
    given_zt = given_zt / given_zt.sum(0)
    exact = sum(given_zt[x][:, None] * posterior(torch.eye(K).double()[x], alpha_t, alpha_s) for x in range(K))
    torch.testing.assert_close(posterior(prior, alpha_t, alpha_s), exact, rtol=0, atol=1e-14)
    torch.testing.assert_close(posterior(prior, alpha_t, f64(1.0)), given_zt.T, rtol=0, atol=1e-14)


def test_posterior_composes():
    a_r, a_s, a_t = f64(0.9), f64(0.5), f64(0.1)
    prior = law(K, seed=1)
    two = posterior(prior, a_t, a_s) @ posterior(prior, a_s, a_r)
    torch.testing.assert_close(two, posterior(prior, a_t, a_r), rtol=0, atol=1e-14)


def test_posterior_at_its_ends():
    prior = law(K, seed=2)
    torch.testing.assert_close(posterior(prior, f64(0.0), f64(1.0)), prior.expand(K, K), rtol=0, atol=1e-15)
    torch.testing.assert_close(posterior(prior, f64(0.4), f64(0.4)), torch.eye(K).double(), rtol=0, atol=1e-15)


def test_posterior_takes_a_level_per_row_and_keeps_its_input():
    x_theta = law(2, 3, K, seed=3)
    before = x_theta.clone()
    z_t = torch.tensor([[0, 3, 3], [3, 1, 3]])
    alpha_t, alpha_s = f64(0.2).expand(2, 1), torch.tensor([[0.6], [0.9]]).double()
    q = posterior_zs(z_t, x_theta, alpha_t, alpha_s)
    assert torch.equal(x_theta, before)
    torch.testing.assert_close(q.sum(-1), torch.ones(2, 3).double())
    for b, i in itertools.product(range(2), range(3)):
        torch.testing.assert_close(q[b, i], posterior(x_theta[b, i], f64(0.2), alpha_s[b, 0])[z_t[b, i]])


@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
def test_psi_step_keeps_the_marginal(kappa: float):
    """sum over z_t of q(z_t) psi(z_s | z_t) = q(z_s), for any share of re-noising; at the end it is the posterior."""
    prior, alpha_t, alpha_s = law(K, seed=4), f64(0.25), f64(0.7)

    def step(a_s: Tensor) -> Tensor:
        return psi_posterior_zs(torch.arange(K), prior.expand(K, K), alpha_t.expand(K), a_s.expand(K), kappa)

    torch.testing.assert_close(prior @ marginal(alpha_t) @ step(alpha_s), prior @ marginal(alpha_s))
    torch.testing.assert_close(step(f64(1.0)), posterior(prior, alpha_t, f64(1.0)))
    assert torch.equal(step(alpha_s), posterior(prior, alpha_t, alpha_s)) == (kappa == 1.0)


# --- the reverse process with an exact network -----------------------------------------------------------------------


def generated_law(p: Tensor, steps: int, kappa: float = 1.0) -> Tensor:
    """The law of rows (K^L,) that `steps` steps make when x_theta_i is p(x0_i | z_t without i). p: (K, ..., K)."""
    L, levels = p.ndim, [1.0 - n / steps for n in range(steps + 1)]
    states = torch.tensor(list(itertools.product(range(K), repeat=L)))
    now = torch.full((len(states),), 1 / len(states), dtype=torch.float64)
    for t, s in itertools.pairwise(levels):
        alpha_t, alpha_s = f64(1 - t), f64(1 - s)
        likelihood = marginal(alpha_t)[:, states]  # (x, state, position)
        kernel = torch.ones(len(states), len(states), dtype=torch.float64)
        for i in range(L):
            factors = [likelihood[:, :, j] if j != i else torch.ones(K, len(states)).double() for j in range(L)]
            letters = "abcdef"[:L]
            x = torch.einsum(f"{letters},{','.join(f'{c}z' for c in letters)}->z{letters[i]}", p, *factors)
            x = x / x.sum(-1, keepdim=True)
            q = psi_posterior_zs(states[:, i], x, alpha_t.expand(len(states)), alpha_s.expand(len(states)), kappa)
            kernel *= q[:, states[:, i]]
        now = now @ kernel
    return now


@pytest.mark.heavy
def test_more_steps_come_nearer_to_the_data():
    p = law(K * K * K, seed=5, sharpness=2.0).view(K, K, K)
    distance = {n: (generated_law(p, n) - p.flatten()).abs().sum().item() / 2 for n in (1, 2, 4, 8, 32, 128)}
    assert all(distance[b] < distance[a] for a, b in itertools.pairwise(distance))
    assert distance[1] > 0.1 and distance[128] < 0.01
    corrected = (generated_law(p, 128, kappa=0.9) - p.flatten()).abs().sum().item() / 2
    assert corrected < 0.01


def test_one_step_draws_each_token_from_its_marginal():
    p = law(K * K, seed=6, sharpness=2.0).view(K, K)
    torch.testing.assert_close(generated_law(p, 1).view(K, K), p.sum(1)[:, None] * p.sum(0))


# --- the bound -------------------------------------------------------------------------------------------------------


def slow_nelbo(x_theta: Tensor, z_t: int, x0: int, alpha: float, alpha_dot: float) -> float:
    """The rate of KL between jumps of two chains, one jump at a time, from the rates' definition."""
    n = len(x_theta)
    rate = -alpha_dot / alpha / n  # of the forward jump to each state

    def q(j: int, x: list[float]) -> float:
        return alpha * x[j] + (1 - alpha) / n

    truth = [float(j == x0) for j in range(n)]
    total = 0.0
    for j in range(n):
        if j != z_t:
            back = rate * q(j, truth) / q(z_t, truth)
            back_theta = rate * q(j, x_theta.tolist()) / q(z_t, x_theta.tolist())
            total += back_theta - back + back * math.log(back / back_theta)
    return total


@pytest.mark.parametrize("alpha", [1e-3, 0.04, 0.5, 0.999])
def test_nelbo_is_the_kl_rate_of_the_jumps(alpha: float):
    x_theta = law(5, 7, seed=8)
    for b, (z_t, x0) in itertools.product(range(5), ((2, 2), (6, 1))):
        fast = nelbo_tokens(
            x_theta[b].log()[None, None], torch.tensor([[z_t]]), torch.tensor([[x0]]), f64(alpha), f64(-0.9)
        )
        assert fast.item() == pytest.approx(slow_nelbo(x_theta[b], z_t, x0, alpha, -0.9), rel=1e-7)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_nelbo_is_the_limit_of_the_discrete_bound(schedule: Schedule):
    """KL(q(z_s | z_t, x0) || q(z_s | z_t, x_theta)) / (t - s) as s -> t, for every z_t and x0."""
    t, x_theta = f64(0.4), law(K, seed=9)
    errors = []
    for dt in (1e-3, 1e-4, 1e-5):
        alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(t - dt)
        error = 0.0
        for x0 in range(K):
            q = posterior(torch.eye(K).double()[x0], alpha_t, alpha_s)
            rate = (q * (q / posterior(x_theta, alpha_t, alpha_s)).log()).sum(-1) / dt
            z_t, truth = torch.arange(K)[None], torch.full((1, K), x0)
            fast = nelbo_tokens(x_theta.log().expand(1, K, K), z_t, truth, alpha_t, schedule.alpha_dot(t))
            error = max(error, (fast[0] - rate).abs().max().item())
        errors.append(error)
    assert errors[2] < 1e-4 and errors[0] > 5 * errors[1] > 25 * errors[2]  # first order in dt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 32, 50_257])
def test_nelbo_is_zero_at_the_truth_and_positive_elsewhere(n: int, dtype: torch.dtype):
    t = torch.tensor([[1e-3], [0.1], [0.5], [0.97], [1.0]], dtype=torch.float64)
    alpha, alpha_dot = LogLinear().alpha(t), LogLinear().alpha_dot(t)
    x0 = torch.randint(0, n, (5, 6), generator=seeded(10))
    rival = sample_rival(x0, n, seeded(11))
    z_t = torch.where(torch.arange(6) < 3, x0, rival)
    truth = torch.nn.functional.one_hot(x0, n).to(dtype).log()
    at_truth = nelbo_tokens(truth, z_t, x0, alpha, alpha_dot)
    assert at_truth.dtype == torch.float64
    assert at_truth.abs().max() < (1e-4 if dtype == torch.float32 else 1e-8)
    elsewhere = torch.log_softmax(2 * torch.randn(5, 6, n, generator=seeded(12)).to(dtype), -1)
    assert (nelbo_tokens(elsewhere, z_t, x0, alpha, alpha_dot) > 0).all()


@pytest.mark.parametrize("n", [32, 50_257])
def test_float32_predictions_are_good_to_five_digits(n: int):
    logits = 3 * torch.randn(4, 8, n, generator=seeded(13))
    t = torch.tensor([[1e-3], [0.3], [0.8], [0.99]], dtype=torch.float64)
    alpha, alpha_dot = LogLinear().alpha(t), LogLinear().alpha_dot(t)
    x0 = torch.randint(0, n, (4, 8), generator=seeded(14))
    z_t = torch.where(torch.arange(8) < 4, x0, sample_rival(x0, n, seeded(15)))
    single = nelbo_tokens(torch.log_softmax(logits, -1), z_t, x0, alpha, alpha_dot)
    double = nelbo_tokens(torch.log_softmax(logits.double(), -1), z_t, x0, alpha, alpha_dot)
    torch.testing.assert_close(single, double, rtol=2e-5, atol=1e-6)


def test_gradient_is_finite_and_right_in_float32():
    n = 50_257
    logits = 3 * torch.randn(1, 2, n, generator=seeded(16))
    x0, z_t = torch.tensor([[5, 5]]), torch.tensor([[5, 9]])
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        nelbo_tokens(torch.log_softmax(leaf, -1), z_t, x0, f64(0.7), f64(-1.0)).sum().backward()
        assert leaf.grad is not None and leaf.grad.dtype == dtype
        gradients.append(leaf.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-8)


def test_nelbo_at_no_signal_is_nothing():
    log_x = law(1, 2, K, seed=17).log()
    value = nelbo_tokens(log_x, torch.tensor([[0, 1]]), torch.zeros(1, 2, dtype=torch.int64), f64(0.0), f64(-1.0))
    assert value.abs().max() < 1e-5


def entropy_rate_integral(x_theta: Tensor, prior: Tensor, schedule: Schedule, low: float, high: float) -> float:
    """Integral over t in (low, high) of the expected integrand for one token x0 ~ prior, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = torch.from_numpy(low + (high - low) * (nodes + 1) / 2)
    total = torch.zeros_like(t)
    for x0, z_t in itertools.product(range(K), repeat=2):
        alpha = schedule.alpha(t)
        p = prior[x0] * (alpha * (x0 == z_t) + (1 - alpha) / K)
        ids = (torch.full((len(t), 1), z_t), torch.full((len(t), 1), x0))
        log_x = x_theta.log().expand(len(t), 1, K)
        total += p * nelbo_tokens(log_x, *ids, alpha[:, None], schedule.alpha_dot(t)[:, None])[:, 0]
    return float((torch.from_numpy(weights) * total).sum() * (high - low) / 2)


def information(prior: Tensor, alpha: Tensor) -> float:
    """I(x0; z) in nats for x0 ~ prior."""
    q = marginal(alpha)
    return float((prior[:, None] * q * (q / (prior @ q)).log()).sum())


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_the_bound_is_tight_for_the_exact_network(schedule: Schedule):
    """x_theta = p(x0) for a single token: the integral is I(x0; z_low) - I(x0; z_high), which tends to H(x0)."""
    prior, low, high = law(K, seed=18), 0.01, 0.999
    exact = information(prior, schedule.alpha(f64(low))) - information(prior, schedule.alpha(f64(high)))
    assert entropy_rate_integral(prior, prior, schedule, low, high) == pytest.approx(exact, rel=1e-6)
    assert entropy_rate_integral(law(K, seed=19), prior, schedule, low, high) > exact + 0.01


# --- the coupling ----------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("n", [2, 3, 12, 200])
def test_scalar_path_is_the_latent_path(n: int):
    """Trajectories of argmax w_t along one eps, against (u, rival) computed from that eps: equal at every t."""
    x0 = torch.randint(0, n, (8, 40), generator=seeded(20))
    eps = torch.randn(8, 40, n, dtype=torch.float64, generator=seeded(21))
    u = u_of_noise(eps, x0)
    rival = eps.scatter(-1, x0[..., None], -torch.inf).argmax(-1)
    for t in torch.linspace(0.0, 1.0, 24, dtype=torch.float64)[1:]:
        alpha_t = LogLinear().alpha(t)
        w_t = latent_of_noise(x0, eps, *vp_of_snr_root(snr_root_of_uniform_alpha(alpha_t, n)))
        assert torch.equal(w_t.argmax(-1), corrupt(x0, u, rival, alpha_t, n))


@pytest.mark.heavy
def test_u_and_rival_of_the_latent_are_uniform_and_independent():
    n, draws = 6, 60_000
    x0 = torch.full((draws, 1), 2)
    eps = torch.randn(draws, 1, n, dtype=torch.float64, generator=seeded(22))
    u = u_of_noise(eps, x0).flatten()
    rival = eps.scatter(-1, x0[..., None], -torch.inf).argmax(-1).flatten()
    cells = torch.bincount((u * 10).long().clamp(max=9) * n + rival, minlength=10 * n).view(10, n)
    assert (cells[:, 2] == 0).all()
    others = cells[:, [0, 1, 3, 4, 5]].flatten().numpy()
    assert stats.chisquare(others).pvalue > 1e-3
    drawn = sample_rival(x0, n, seeded(23)).flatten()
    assert stats.chisquare(torch.bincount(drawn, minlength=n)[[0, 1, 3, 4, 5]].numpy()).pvalue > 1e-3


def test_soft_tokens_are_no_function_of_the_scalars():
    """Where the equivalence ends: the same u and rival, other soft tokens."""
    x0 = torch.zeros(1, 1, dtype=torch.int64)
    eps = torch.tensor([[[0.1, 1.5, 0.3, -0.2]]], dtype=torch.float64)
    other = torch.tensor([[[0.1, 1.5, 0.9, -0.2]]], dtype=torch.float64)
    assert torch.equal(u_of_noise(eps, x0), u_of_noise(other, x0))
    level = vp_of_snr_root(f64(0.5))
    soft, soft_other = (torch.softmax(latent_of_noise(x0, e, *level) / 0.5, -1) for e in (eps, other))
    assert torch.equal(soft.argmax(-1), soft_other.argmax(-1))
    assert (soft - soft_other).abs().max() > 0.05


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_coupled_pair_is_one_path_seen_twice(schedule: Schedule):
    x0 = torch.randint(0, 9, (6, 128), generator=seeded(24))
    u, rival = 1.0 - torch.rand(6, 128, generator=seeded(25)), sample_rival(x0, 9, seeded(26))
    t = 0.2 + 0.8 * torch.rand(6, generator=seeded(27))
    pair = coupled_pair_uniform(x0, u, rival, t, t - 0.2, schedule, 9)
    assert torch.equal(pair.z_t, corrupt(x0, u, rival, schedule.alpha(t)[:, None], 9))
    assert torch.equal(pair.z_s, corrupt(x0, u, rival, schedule.alpha(t - 0.2)[:, None], 9))
    assert torch.equal(pair.corrupted_t, pair.z_t != x0) and torch.equal(pair.corrupted_s, pair.z_s != x0)
    assert (pair.corrupted_t | ~pair.corrupted_s).all() and pair.restored.any()
    assert torch.equal(pair.restored, (pair.z_s == x0) & (pair.z_t != x0))
    assert torch.equal(pair.z_t[pair.corrupted_s], pair.z_s[pair.corrupted_s])
    closed = coupled_pair_uniform(x0, u, rival, t, t, schedule, 9)
    assert torch.equal(closed.z_t, closed.z_s) and not closed.restored.any()


# --- Duo's operator by table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 32, 50_257])
def test_table_of_the_operator_inverts_to_1e_6(n: int):
    alpha = torch.cat((torch.linspace(0.0, 0.9999, 301, dtype=torch.float64), f64(1e-5)[None], f64(1 - 1e-6)[None]))
    r = tabled_snr_root(alpha.view(1, -1), n)[0]
    assert (uniform_alpha_of_snr_root(r, n) - alpha).abs().max() < 1e-6
    assert tabled_snr_root(f64(1.0)[None], n).isfinite().all()


def test_the_window_of_the_curriculum_in_alpha():
    """Duo's gamma of [-3.55, -1.85] at K = 50257 is alpha in [.049, .945]."""
    alpha = uniform_alpha_of_snr_root(torch.exp(-torch.tensor([-3.55, -1.85], dtype=torch.float64) / 2), 50_257)
    assert alpha.tolist() == pytest.approx([0.945, 0.049], abs=5e-4)


def test_the_bound_a_few_rows_at_a_time_is_that_of_all(seeded):
    B, L, K = 3, 5, 7
    log_p = torch.randn(B, L, K, generator=seeded(0), dtype=torch.float64).log_softmax(-1)
    z_t, x0 = torch.randint(0, K, (2, B, L), generator=seeded(1))
    alpha_t = torch.tensor([[0.2], [0.5], [0.9]], dtype=torch.float64)
    every = nelbo_tokens(log_p, z_t, x0, alpha_t, -torch.ones(()).double()).flatten()
    terms_of = nelbo_in_parts(z_t, x0, alpha_t, -torch.ones(()).double())
    for rows in (slice(0, 4), slice(4, 11), slice(11, 15)):
        torch.testing.assert_close(terms_of(log_p.flatten(0, 1)[rows], rows), every[rows], rtol=1e-12, atol=1e-12)
