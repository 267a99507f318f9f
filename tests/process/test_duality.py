"""Masked Diffusion Duality, executed: the quadrature, Lemma 3.1, Theorem 3.3 and the four places that need care."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats
from torch import Tensor

from mcd.process.duality import (
    calibrated_snr_root,
    cdf_noise_margin,
    inverse_cdf_noise_margin,
    latent_of_noise,
    noise_margin,
    project,
    sf_noise_margin,
    snr_root_of_uniform_alpha,
    u_of_noise,
    uniform_alpha_of_snr_root,
    visibility_floor,
    vp_of_gamma,
    vp_of_snr_root,
)
from mcd.process.masked import mask
from mcd.process.schedule import Cosine, Linear, LogLinear, Schedule

KS = [2, 3, 10, 33, 1000, 50_258, 150_000]
SCHEDULES = [LogLinear(), Linear(), Cosine()]


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def within_binomial(count: int, n: int, p: float) -> bool:
    return abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-9


def latent_state(x0: Tensor, eps: Tensor, snr_root: Tensor, mask_id: int) -> Tensor:
    return project(latent_of_noise(x0, eps, *vp_of_snr_root(snr_root)), x0, mask_id)


# --- The latent path -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0.0, 1e150))
def test_variance_is_preserved_and_the_ratio_is_met(r: float):
    alpha_tilde_t, sigma_tilde_t = vp_of_snr_root(torch.tensor(r, dtype=torch.float64))
    assert (alpha_tilde_t**2 + sigma_tilde_t**2).item() == pytest.approx(1.0, abs=1e-14)
    assert alpha_tilde_t.item() == pytest.approx(
        r * sigma_tilde_t.item(), rel=1e-13, abs=1e-150
    )  # the square of r overflows


def test_ends_are_pure_noise_and_pure_signal():
    alpha_tilde_t, sigma_tilde_t = vp_of_snr_root(torch.tensor([0.0, torch.inf]))
    assert alpha_tilde_t.tolist() == [0, 1]
    assert sigma_tilde_t.tolist() == [1, 0]


def test_more_signal_is_less_noise():
    alpha_tilde_t, sigma_tilde_t = vp_of_snr_root(torch.linspace(0, 20, 500, dtype=torch.float64))
    assert (alpha_tilde_t.diff() > 0).all()
    assert (sigma_tilde_t.diff() < 0).all()


def test_gamma_is_minus_the_log_of_the_ratio():
    gamma = torch.linspace(-8, 8, 33, dtype=torch.float64)
    for got, expected in zip(vp_of_gamma(gamma), vp_of_snr_root(torch.exp(-gamma / 2)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


def test_negative_signal_is_refused():
    with pytest.raises(ValueError, match="negative"):
        vp_of_snr_root(torch.tensor([0.1, -0.1]))


def test_moments_of_the_marginal_draw():
    """Eq. 7: w_t ~ N(alpha_tilde onehot(x0), sigma_tilde^2 I), one level a row."""
    x0 = torch.tensor([[0, 3, 4], [1, 1, 2]])
    n, K = 40_000, 5
    r = torch.tensor([[0.5], [3.0]], dtype=torch.float64)
    alpha_tilde_t, sigma_tilde_t = vp_of_snr_root(r)
    eps = torch.randn(n, 2, 3, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w_t = latent_of_noise(x0.expand(n, 2, 3), eps, alpha_tilde_t, sigma_tilde_t)
    mean = alpha_tilde_t[..., None] * torch.nn.functional.one_hot(x0, K)
    bound = 5 * sigma_tilde_t[..., None] / n**0.5
    assert ((w_t.mean(0) - mean).abs() < bound).all()
    assert ((w_t.std(0) - sigma_tilde_t[..., None]).abs() < bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_path_of_one_noise_has_no_further_randomness(dtype: torch.dtype):
    """Eq. 9: from w at one level and x0, w at any other level follows."""
    x0 = torch.randint(0, 7, (2, 4), generator=torch.Generator().manual_seed(1))
    eps = torch.randn(2, 4, 7, dtype=dtype, generator=torch.Generator().manual_seed(2))
    kept = eps.clone()
    a_t, s_t = vp_of_snr_root(torch.tensor(0.7, dtype=torch.float64))
    a_s, s_s = vp_of_snr_root(torch.tensor(2.5, dtype=torch.float64))
    w_t, w_s = latent_of_noise(x0, eps, a_t, s_t), latent_of_noise(x0, eps, a_s, s_s)
    onehot = torch.nn.functional.one_hot(x0, 7).to(dtype)
    moved = a_s.to(dtype) * onehot + (s_s / s_t).to(dtype) * (w_t - a_t.to(dtype) * onehot)
    torch.testing.assert_close(w_s, moved)
    assert w_s.dtype == dtype
    assert torch.equal(eps, kept)


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="does not fit"):
        latent_of_noise(
            torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4, 5), torch.tensor(1.0), torch.tensor(1.0)
        )


# --- F_Y -------------------------------------------------------------------------------------------------------------


def log_integral_by_adaptive_quadrature(y: float, K: int, upper: bool) -> float:
    """The same integral by scipy's adaptive Gauss-Kronrod rule around the peak of the integrand."""

    def h(z: float) -> float:
        log_power = (K - 1) * special.log_ndtr(z + y)
        return -z * z / 2 + (math.log(-math.expm1(log_power)) if upper else log_power)

    bracket = (-max(y, 0.0) - 1.0, -min(y, 0.0) + 6.0)
    peak = optimize.minimize_scalar(lambda z: -h(z), bounds=bracket, method="bounded").x
    points = [peak + d for d in (-8, -4, -2, -1, -0.5, -0.25, -0.1, 0, 0.1, 0.25, 0.5, 1, 2, 4, 8)]
    height = h(peak)
    total = sum(
        integrate.quad(lambda z: math.exp(h(z) - height), a, b, epsabs=1e-15, epsrel=1e-13)[0]
        for a, b in zip([peak - 11, *points], [*points, peak + 11], strict=True)
    )
    return math.log(total) + height - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("upper", [False, True], ids=["F", "1-F"])
@pytest.mark.parametrize("K", KS)
def test_quadrature_meets_its_stated_error(K: int, upper: bool):
    y = f64(-33, -20, -8, -3, -0.5, 0.25, 1.5, 2.8, 4.5, 7, 12, 21)
    value = (sf_noise_margin if upper else cdf_noise_margin)(y, K)
    exact = f64(*[log_integral_by_adaptive_quadrature(v, K, upper) for v in y.tolist()])
    relative = torch.expm1(value.log() - exact).abs()[exact > math.log(1e-300)]
    body = torch.expm1(value.log() - exact).abs()[exact > math.log(1e-15)]
    assert (relative < 1e-12).all()
    assert (body < 2e-14 + 5e-14).all()  # 5e-14: what the reference itself is good for


@pytest.mark.parametrize("K", KS)
def test_no_signal_wins_one_time_in_K(K: int):
    assert cdf_noise_margin(f64(0.0), K).item() == pytest.approx(1 / K, rel=2e-14)


def test_two_coordinates_have_a_closed_form():
    y = torch.linspace(-50, 50, 401, dtype=torch.float64)
    exact = special.log_ndtr((y / math.sqrt(2)).numpy())
    torch.testing.assert_close(cdf_noise_margin(y, 2), torch.from_numpy(exact).exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sf_noise_margin(y, 2), torch.from_numpy(exact).flip(0).exp(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("K", KS)
def test_is_a_distribution_function(K: int):
    y = torch.linspace(-30, 30, 601, dtype=torch.float64)
    F, S = cdf_noise_margin(y, K), sf_noise_margin(y, K)
    assert (F.diff() > -2e-14).all()  # flat at 1 up to rounding
    assert (F[F < 0.999].diff() > 0).all()
    assert (S[S < 0.999].diff() < 0).all()
    assert ((F >= 0) & (F <= 1)).all()
    torch.testing.assert_close(F + S, torch.ones_like(F), rtol=0, atol=2e-14)
    ends = f64(-math.inf, math.inf)
    assert cdf_noise_margin(ends, K).tolist() == [0, 1]
    assert sf_noise_margin(ends, K).tolist() == [1, 0]
    assert cdf_noise_margin(f64(math.nan), K).isnan()


def test_more_rivals_are_harder_to_beat():
    F = torch.stack([cdf_noise_margin(torch.linspace(-5, 8, 27, dtype=torch.float64), K) for K in KS])
    assert (F.diff(dim=0) < 0).all()


@pytest.mark.heavy
@pytest.mark.parametrize(("K", "n"), [(2, 200_000), (33, 100_000), (1000, 10_000)])
def test_is_the_law_of_the_margin(K: int, n: int):
    """Y drawn from its definition follows F_Y (Kolmogorov-Smirnov)."""
    x0 = torch.randint(0, K, (n,), generator=seeded(0))
    Y = noise_margin(torch.randn(n, K, generator=seeded(1)), x0)
    assert stats.kstest(Y.numpy(), lambda y: cdf_noise_margin(torch.as_tensor(y), K).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("K", KS)
def test_inverse_round_trip(K: int):
    p = torch.cat((f64(1e-300, 1e-100, 1e-20, 1e-6, 1 / K), torch.linspace(0.01, 0.99, 99, dtype=torch.float64)))
    y = inverse_cdf_noise_margin(p, K)
    torch.testing.assert_close(cdf_noise_margin(y, K), p, rtol=1e-12, atol=0)
    tail = f64(2.0**-53, 1e-12, 1e-4)
    y = inverse_cdf_noise_margin(1.0 - tail, K)
    torch.testing.assert_close(sf_noise_margin(y, K), 1.0 - (1.0 - tail), rtol=1e-12, atol=0)
    y = torch.linspace(-4, 8, 49, dtype=torch.float64)  # and from y, as far as F_Y can tell neighbours apart
    y = y[sf_noise_margin(y, K) > 1e-4]
    torch.testing.assert_close(inverse_cdf_noise_margin(cdf_noise_margin(y, K), K), y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_inverse_refuses_what_has_no_margin(p: float):
    with pytest.raises(ValueError, match="between 0 and 1"):
        inverse_cdf_noise_margin(f64(0.5, p), 10)


@pytest.mark.parametrize("call", [cdf_noise_margin, sf_noise_margin, inverse_cdf_noise_margin])
def test_a_token_needs_a_rival(call: Callable):
    with pytest.raises(ValueError, match="at least 2"):
        call(f64(0.5), 1)


def test_shapes_and_dtypes():
    for shape in ((), (0,), (2, 3), (700, 2)):
        y = torch.zeros(shape, dtype=torch.float32)
        value = cdf_noise_margin(y, 5)
        assert value.shape == shape
        assert value.dtype == torch.float64
        assert inverse_cdf_noise_margin(y + 0.3, 5).shape == shape
        assert calibrated_snr_root(y + 0.3, 5).shape == shape


# --- Lemma 3.1 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize(("K", "n"), [(3, 100_000), (33, 50_000), (1000, 8_000), (50_258, 200)])
def test_projected_marginal_is_the_schedule(schedule: Schedule, K: int, n: int):
    """Lemma 3.1 by Monte Carlo, with fresh noise at each t (Eq. 7)."""
    x0 = torch.randint(0, K - 1, (n, 1), generator=seeded(2))
    for i, t in enumerate((0.05, 0.4)):
        alpha_t = schedule.alpha(f64(t))
        eps = torch.randn(n, 1, K, generator=seeded(3 + i))
        z_t = latent_state(x0, eps, calibrated_snr_root(alpha_t, K), K - 1)
        visible = z_t != K - 1
        assert torch.equal(z_t[visible], x0[visible])
        assert within_binomial(int(visible.sum()), n, alpha_t.item())


@pytest.mark.parametrize("K", KS)
def test_calibration_inverts_F(K: int):
    alpha_t = torch.linspace(1 / K, 0.9999, 50, dtype=torch.float64)
    r = calibrated_snr_root(alpha_t, K)
    assert (r >= 0).all()
    assert (r.diff() > 0).all()
    torch.testing.assert_close(cdf_noise_margin(r, K), alpha_t, rtol=1e-12, atol=0)
    assert calibrated_snr_root(f64(1.0), K).item() == math.inf


@pytest.mark.parametrize("alpha_t", [-1e-9, 1.001, math.nan])
def test_calibration_refuses_what_is_no_probability(alpha_t: float):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        calibrated_snr_root(f64(alpha_t), 10)


def test_projection_wants_a_strict_winner():
    w_t = f64(1.0, 1.0, 0.5, 0.0)
    assert project(w_t, torch.tensor(0), 3).item() == 3
    w_t[0] = 1.5
    assert project(w_t, torch.tensor(0), 3).item() == 0


def test_the_mask_coordinate_competes_too():
    assert project(f64(1.0, 0.0, 0.0, 1.5), torch.tensor(0), 3).item() == 3
    assert project(f64(1.5, 1.0, 0.0, 0.0), torch.tensor(1), 0).item() == 0  # whatever its id


# --- Theorem 3.3 -----------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("K", [2, 33, 1000])
def test_latent_path_and_scalar_give_the_same_states(schedule: Schedule, K: int):
    """Theorem 3.3 draw by draw: Eq. 9 then Eq. 8 is Eq. 13 with u = F_Y(Y), for every t on the grid at once."""
    x0 = torch.randint(0, K - 1, (16, 32), generator=seeded(4))
    eps = normal(16, 32, K, seed=5)
    u = u_of_noise(eps, x0)
    before = torch.zeros_like(x0, dtype=torch.bool)
    for t in torch.linspace(1.0, 0.0, 26, dtype=torch.float64):
        alpha_t = schedule.alpha(t)
        z_t = latent_state(x0, eps, calibrated_snr_root(alpha_t, K), K - 1)
        effective = alpha_t.clamp(min=visibility_floor(K))  # caveat (i)
        undecided = (u - effective).abs() < 1e-11
        assert undecided.sum() == 0
        assert torch.equal(z_t, mask(x0, u, effective, K - 1))
        visible = z_t != K - 1
        assert (visible | ~before).all()  # what is visible at t stays visible at s < t
        before = visible


def test_pair_of_the_latent_path_has_the_posterior_law():
    """P(masked at s | masked at t) = (1 - alpha_s) / (1 - alpha_t) for Eq. 9 too."""
    n, K = 40_000, 50
    x0 = torch.randint(0, K - 1, (n, 1), generator=seeded(6))
    eps = torch.randn(n, 1, K, generator=seeded(7))
    for schedule in SCHEDULES:
        alpha_t, alpha_s = (schedule.alpha(f64(t)) for t in (0.7, 0.3))
        masked_t, masked_s = (
            latent_state(x0, eps, calibrated_snr_root(a, K), K - 1) == K - 1 for a in (alpha_t, alpha_s)
        )
        assert within_binomial(
            int((masked_s & masked_t).sum()), int(masked_t.sum()), ((1 - alpha_s) / (1 - alpha_t)).item()
        )


@pytest.mark.heavy
@pytest.mark.parametrize("K", [2, 33, 500])
def test_u_is_uniform_and_independent_of_the_token(K: int):
    n = 20_000
    x0 = torch.randint(0, K, (n,), generator=seeded(8))
    u = u_of_noise(torch.randn(n, K, generator=seeded(9)), x0)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    low = x0 < K // 2
    assert stats.ks_2samp(u[low].numpy(), u[~low].numpy()).pvalue > 1e-3
    assert abs(stats.spearmanr(u.numpy(), x0.numpy()).statistic) < 4.5 / math.sqrt(n)
    assert abs(stats.pearsonr(u[:-1].numpy(), u[1:].numpy()).statistic) < 4.5 / math.sqrt(n)


# --- Duo's operator --------------------------------------------------------------------------------------------------


def test_duo_operator_reference_values():
    """alpha(gamma) at K = 50257, from quadrature on three grids, good to 2e-6; sqrt(SNR) = exp(-gamma / 2)."""
    table = {
        -5: 1.000000, -4: 0.998694, -3.55: 0.945474, -3.5: 0.928347, -3: 0.596253, -2.5: 0.237965,
        -2: 0.072030, -1.85: 0.049318, -1.75: 0.038282, -1.5: 0.020425, -1: 0.006186,
    }  # fmt: skip
    r = torch.exp(-f64(*table) / 2)
    torch.testing.assert_close(uniform_alpha_of_snr_root(r, 50_257), f64(*table.values()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("K", KS)
def test_duo_operator_inverts_and_has_no_floor(K: int):
    alpha = torch.linspace(0.0, 0.999, 38, dtype=torch.float64)
    r = snr_root_of_uniform_alpha(alpha, K)
    assert (r >= 0).all()
    assert r[0].item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(uniform_alpha_of_snr_root(r, K), alpha, rtol=1e-11, atol=1e-14)


def test_duo_operator_is_the_law_of_the_argmax():
    """argmax w_t is x0 with probability alpha + (1 - alpha) / K, and any other token with (1 - alpha) / K."""
    n, K = 60_000, 6
    x0 = torch.zeros(n, 1, dtype=torch.int64)
    r = snr_root_of_uniform_alpha(f64(0.4), K)
    w_t = latent_of_noise(x0, torch.randn(n, 1, K, generator=seeded(10)), *vp_of_snr_root(r))
    counts = torch.bincount(w_t.argmax(-1).flatten(), minlength=K)
    expected = n * (0.4 * torch.eye(K)[0] + 0.6 / K)
    assert stats.chisquare(counts.numpy(), expected.numpy(), sum_check=False).pvalue > 1e-3


# --- The four places that need care ----------------------------------------------------------------------------------


@pytest.mark.heavy
def test_care_1_the_projection_has_a_floor_and_the_scalar_has_none():
    K, n = 33, 60_000
    x0 = torch.randint(0, K - 1, (n, 1), generator=seeded(11))
    eps = torch.randn(n, 1, K, generator=seeded(12))
    assert visibility_floor(K) == 1 / K
    below = f64(0.0, 0.01, 0.9999 / K)
    assert calibrated_snr_root(below, K).tolist() == [0, 0, 0]
    visible = latent_state(x0, eps, calibrated_snr_root(f64(0.01), K), K - 1) != K - 1
    assert within_binomial(int(visible.sum()), n, 1 / K)
    assert not within_binomial(int(visible.sum()), n, 0.01)
    u = u_of_noise(eps, x0)
    assert (mask(x0, u, f64(0.0), K - 1) == K - 1).all()
    assert (inverse_cdf_noise_margin(f64(0.01), K) < 0).all()  # only a signal against the token would do it


def test_care_1_when_the_floor_binds_for_the_log_linear_schedule():
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha_t = LogLinear(eps=1e-3).alpha(t)
    binds = t[alpha_t < visibility_floor(33)]
    assert 0.97 < binds.min() < 0.972
    for K in (1000, 1001, 50_258):
        assert not (alpha_t < visibility_floor(K)).any()
    assert (Linear().alpha(t) < visibility_floor(50_258)).any()  # alpha_1 = 0: binds at the very end for every K


def test_care_2_fresh_noise_lets_a_token_leave_the_mask_again():
    n, K = 4000, 16
    x0 = torch.randint(0, K - 1, (n, 1), generator=seeded(13))
    roots = calibrated_snr_root(torch.linspace(0.95, 0.1, 18, dtype=torch.float64), K)
    eps = normal(n, 1, K, seed=14)
    alpha_s, sigma_s = vp_of_snr_root(roots[0])
    w = latent_of_noise(x0, eps, alpha_s, sigma_s)
    fixed = sde = project(w, x0, K - 1) != K - 1
    returns_fixed = returns_sde = 0
    generator = seeded(15)
    for r in roots[1:]:
        alpha_t, sigma_t = vp_of_snr_root(r)
        now = latent_state(x0, eps, r, K - 1) != K - 1  # Eq. 9: the same eps
        returns_fixed += int((now & ~fixed).sum())
        fixed = now
        shrink = alpha_t / alpha_s  # Eq. 1: the same marginals from independent increments
        fresh = torch.randn(w.shape, dtype=torch.float64, generator=generator)
        w = shrink * w + (sigma_t**2 - (shrink * sigma_s) ** 2).sqrt() * fresh
        now = project(w, x0, K - 1) != K - 1
        returns_sde += int((now & ~sde).sum())
        sde, alpha_s, sigma_s = now, alpha_t, sigma_t
    assert returns_fixed == 0
    assert returns_sde > n // 10
    for visible in (fixed, sde):  # the marginal at the end is the same
        assert within_binomial(int(visible.sum()), n, 0.1)


def test_care_3_the_optimal_denoiser_leaves_the_path():
    """DDIM with E[x0 | w_t], under a prior of two tokens, against DDIM with x0 itself."""
    n, K = 2000, 3
    x0 = torch.randint(0, 2, (n, 1), generator=seeded(16))
    onehot = torch.nn.functional.one_hot(x0, K).double()
    eps = normal(n, 1, K, seed=17)
    levels = [vp_of_snr_root(r) for r in torch.logspace(-1.5, 1.3, 200, dtype=torch.float64)]

    def posterior_mean(w: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        logits = alpha / sigma**2 * w
        logits[..., 2] = -math.inf  # the mask is no token
        return logits.softmax(-1)

    def ddim(denoise: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        path = [latent_of_noise(x0, eps, *levels[0])]
        for (a_t, s_t), (a_s, s_s) in pairwise(levels):
            x = denoise(path[-1].clone(), a_t, s_t)
            path.append(a_s * x + s_s / s_t * (path[-1] - a_t * x))
        return path

    exact = [latent_of_noise(x0, eps, *level) for level in levels]
    given, optimal = ddim(lambda w, a, s: onehot), ddim(posterior_mean)
    for w, w_exact in zip(given, exact, strict=True):
        torch.testing.assert_close(w, w_exact, rtol=0, atol=1e-12)
    assert (optimal[1] - exact[1]).abs().amax(-1).min() > 1e-6  # from the first step on, for every draw
    ends_elsewhere = optimal[-1].argmax(-1) != x0
    assert 0.3 < ends_elsewhere.double().mean() < 0.55  # nearly pure noise knows next to nothing of x0


def test_care_4_the_projection_is_no_function_of_the_latent():
    w_t = f64(0.1, 0.9, 0.3, 0.2)
    states = {k: partial(project, w_t, mask_id=3)(torch.tensor(k)).item() for k in (0, 1, 2)}
    assert states == {0: 3, 1: 1, 2: 3}
