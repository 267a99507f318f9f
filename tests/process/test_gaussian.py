"""The latent process: variance preserved, the asked-for signal-to-noise ratio, the moments of Eq. 7."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.process.gaussian import latent_of_noise, vp_of_gamma, vp_of_snr_root


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
