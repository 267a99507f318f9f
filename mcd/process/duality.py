"""Masked Diffusion Duality: masking as a projection of a Gaussian process (paper, Section 3.1, 3.2 and Figure 1).

The latent w_t lives in R^K with one coordinate per token of the extended vocabulary, the mask's own among them. It is a
reference: nothing trains on it, except Duo's curriculum, which reads soft tokens from it.

The chain is Eq. 8 (`project`), Lemma 3.1 (`calibrated_snr_root`) and Theorem 3.3 (`u_of_noise`): with r_t the root of
the latent signal-to-noise ratio, a token is visible iff Y < r_t, where Y = max_{j != k} eps_j - eps_k does not depend
on t. So u = F_Y(Y) ~ U[0, 1] determines the whole trajectory, and Eq. 13 needs no latent.

The theory needs care in four places:

(i)   Lemma 3.1 has a floor. Without signal the true coordinate still wins one time in K, so a non-negative signal
      cannot give a visibility below 1/K. Eq. 13 has no floor. For alpha_t = 1 - (1 - 1e-3) t the floor is never
      reached when K >= 1000; at K = 33 it binds for t > 0.97.
(ii)  The mask absorbs along one fixed eps (Eq. 9) only. Under the forward SDE (Eq. 1), which adds fresh noise, each
      marginal is the same but the projected state can leave the mask again.
(iii) Eq. 9 is the probability-flow path (Eq. 3) only when x0 is given. The optimal denoiser sees only w_t and
      returns E[x0 | w_t], so DDIM with it leaves Eq. 9 and may end in another token.
(iv)  Eq. 8 reads the true index k. It is a function of (w_t, x0) and not of w_t, so it is no sampler.

K counts all coordinates, the mask's included. Shapes: x0 (...) int64; eps, w_t (..., K); alpha_tilde_t and
sigma_tilde_t broadcast against x0; y, p, alpha_t any shape.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_Y_LIMIT = 60.0  # beyond it F_Y or 1 - F_Y underflows for every K
_DROP = 42.0  # 42 nats below its peak, an integrand is less than 1e-18 of it
_ZOOM_NODES, _NODES, _CHUNK = 64, 192, 512


def vp_of_snr_root(snr_root: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha_tilde_t, sigma_tilde_t) with alpha_tilde_t / sigma_tilde_t = snr_root and squares that sum to one.

    The variance-preserving schedule of the latent (paper, Eq. 7), elementwise: r = 0 gives (0, 1), r = inf gives
    (1, 0). Raises ValueError for a negative root: no signal has a negative weight.
    """
    if (snr_root < 0).any():
        raise ValueError("the root of the signal-to-noise ratio must not be negative")
    return torch.rsqrt(1.0 + snr_root.reciprocal().square()), torch.rsqrt(1.0 + snr_root.square())


def vp_of_gamma(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha_tilde_t, sigma_tilde_t) with squares sigmoid(-gamma) and sigmoid(gamma), elementwise.

    gamma is minus the logarithm of the signal-to-noise ratio, Duo's (arXiv 2506.10892) coordinate of the noise level:
    snr_root = exp(-gamma / 2).
    """
    return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


def latent_of_noise(x0: Tensor, eps: Tensor, alpha_tilde_t: Tensor, sigma_tilde_t: Tensor) -> Tensor:
    """w_t = alpha_tilde_t onehot(x0) + sigma_tilde_t eps, (..., K) in the dtype of eps.

    With fresh eps ~ N(0, I) at each t this is a draw from the marginal (paper, Eq. 2 and Eq. 7); with one eps kept for
    all t it is the deterministic path of Eq. 9, which (x0, eps) settle (Proposition 3.2). Raises ValueError when eps
    has no row of K for every token.
    """
    if eps.shape[:-1] != x0.shape:
        raise ValueError(f"eps of shape {tuple(eps.shape)} does not fit tokens of shape {tuple(x0.shape)}")
    signal = alpha_tilde_t.to(eps.dtype).expand(x0.shape)[..., None]
    noise = sigma_tilde_t.to(eps.dtype).expand(x0.shape)[..., None] * eps
    return noise.scatter_add(-1, x0[..., None], signal)


def project(w_t: Tensor, x0: Tensor, mask_id: int) -> Tensor:
    """P(w_t): x0 where its coordinate is strictly the largest of all K, the mask elsewhere (paper, Eq. 8).

    w_t (..., K), mask's coordinate included; x0 (...). Needs the true x0: see (iv) above.
    """
    signal, rival = _signal_and_rival(w_t, x0)
    return torch.where(signal > rival, x0, mask_id)


def noise_margin(eps: Tensor, x0: Tensor) -> Tensor:
    """Y = max_{j != k} eps_j - eps_k with k = x0 (paper, Lemma 3.1). eps (..., K), x0 (...) -> (...).

    Eq. 10 divided by sigma_tilde_t: along the path of eps a token is visible iff Y < alpha_tilde_t / sigma_tilde_t.
    """
    signal, rival = _signal_and_rival(eps, x0)
    return rival - signal


def u_of_noise(eps: Tensor, x0: Tensor) -> Tensor:
    """u = F_Y(Y), the scalar that locks the trajectory of (x0, eps); uniform on [0, 1] (paper, Theorem 3.3).

    eps (..., K), x0 (...) -> (...) float64. F_Y on both sides of Y < r_t (Eq. 11) gives u < alpha_t (Eq. 12). Up to the
    error of F_Y and rounding of w_t, the latent path shows the token iff u < max(alpha_t, 1/K).
    """
    return cdf_noise_margin(noise_margin(eps, x0), eps.shape[-1])


def cdf_noise_margin(y: Tensor, K: int) -> Tensor:
    """F_Y(y) = P(Y < y) = integral of phi(z) Phi(z + y)^(K-1) dz (paper, Lemma 3.1), elementwise, float64.

    Given eps_k = z, Y < y iff each of the K - 1 rivals stays below z + y. In particular F_Y(0) = 1/K.
    For K in 2..150,000 the relative error is below 2e-14 where F_Y > 1e-15 (so the absolute error is below 2e-14
    everywhere) and below 1e-12 where F_Y > 1e-300. Use `sf_noise_margin` where F_Y is near 1. Raises ValueError for
    K < 2.
    """
    return _log_integral(_log_cdf_integrand, y, K).exp().clamp(max=1.0)


def sf_noise_margin(y: Tensor, K: int) -> Tensor:
    """1 - F_Y(y), elementwise, float64, with the same relative error as `cdf_noise_margin` however small it is."""
    return _log_integral(_log_sf_integrand, y, K).exp().clamp(max=1.0)


def inverse_cdf_noise_margin(p: Tensor, K: int) -> Tensor:
    """The y with F_Y(y) = p, elementwise, float64; negative for p < 1/K.

    Newton on log F_Y for p <= 1/2 and on log(1 - F_Y) above. Both are concave, so from the union bound
    1 - F_Y(y) <= (K - 1) Phi(-y / sqrt 2), or its counterpart F_Y(y) <= Phi(y / sqrt 2), Newton approaches the root
    from one side and cannot overshoot. Raises ValueError for p outside (0, 1) and for K < 2.
    """
    p = p.double()
    if not ((p > 0) & (p < 1)).all():
        raise ValueError("a probability must lie strictly between 0 and 1")
    y, low = torch.empty_like(p), p <= 0.5
    root2 = math.sqrt(2.0)
    y[low] = _newton(_log_cdf_integrand, root2 * torch.special.ndtri(p[low]), p[low], K)
    tail = 1.0 - p[~low]
    y[~low] = _newton(_log_sf_integrand, -root2 * torch.special.ndtri(tail / (K - 1)), tail, K)
    return y


def visibility_floor(K: int) -> float:
    """1/K: the least P(visible) of the projection (paper, Eq. 8) with a non-negative signal; see (i) above."""
    return 1.0 / K


def calibrated_snr_root(alpha_t: Tensor, K: int) -> Tensor:
    """r_t = alpha_tilde_t / sigma_tilde_t such that P(visible) = F_Y(r_t) = alpha_t (paper, Lemma 3.1), float64.

    Below the floor alpha_t < 1/K no non-negative r_t exists: the answer is 0, at which P(visible) is 1/K and not
    alpha_t. At alpha_t = 1 it is infinite. Raises ValueError for alpha_t outside [0, 1].
    """
    alpha_t = alpha_t.double()
    if not ((alpha_t >= 0) & (alpha_t <= 1)).all():
        raise ValueError("alpha_t must lie in [0, 1]")
    floor = visibility_floor(K)
    inner = (alpha_t > floor) & (alpha_t < 1)
    r = torch.where(alpha_t < 1, 0.0, torch.inf).to(alpha_t)
    r[inner] = inverse_cdf_noise_margin(alpha_t[inner], K).clamp(min=0.0)
    return r


def uniform_alpha_of_snr_root(snr_root: Tensor, K: int) -> Tensor:
    """T(r) = (K F_Y(r) - 1) / (K - 1): alpha_t of the uniform-state process argmax w_t (Duo, arXiv 2506.10892)."""
    return (K * cdf_noise_margin(snr_root, K) - 1.0) / (K - 1)


def snr_root_of_uniform_alpha(alpha_t: Tensor, K: int) -> Tensor:
    """The inverse of `uniform_alpha_of_snr_root`, for alpha_t in [0, 1]: it has no floor, since T(0) = 0."""
    return calibrated_snr_root((1.0 + (K - 1) * alpha_t.double()) / K, K)


def _signal_and_rival(v: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """v_k and max_{j != k} v_j, (...)."""
    k = x0[..., None]
    return v.gather(-1, k)[..., 0], v.scatter(-1, k, -torch.inf).amax(-1)


# The integrands, as logarithms, over z = eps_k with x = z + y the level that the n = K - 1 rivals are held against.
# Each is concave in z: the density, the distribution function and the survival function of a maximum of Gaussians are
# log-concave.
_LogIntegrand = Callable[[Tensor, Tensor, int], Tensor]


def _log_phi(z: Tensor) -> Tensor:
    return -0.5 * z.square() - _LOG_SQRT_2PI


def _log_cdf_integrand(z: Tensor, x: Tensor, n: int) -> Tensor:
    return _log_phi(z) + n * torch.special.log_ndtr(x)


def _log_sf_integrand(z: Tensor, x: Tensor, n: int) -> Tensor:
    return _log_phi(z) + torch.log(-torch.expm1(n * torch.special.log_ndtr(x)))


def _log_pdf_integrand(z: Tensor, x: Tensor, n: int) -> Tensor:
    return _log_phi(z) + math.log(n) + _log_phi(x) + (n - 1) * torch.special.log_ndtr(x)


def _log_integral(log_f: _LogIntegrand, y: Tensor, K: int) -> Tensor:
    """log of the integral of exp(log_f) over z, for every y, float64.

    Two passes zoom in on where the integrand matters (concavity makes the bracket certain), then the trapezoidal rule,
    which converges exponentially fast for an analytic integrand that vanishes at both ends.
    """
    if K < 2:
        raise ValueError(f"K must be at least 2 (a token and a rival), not {K}")
    chunks = []
    for part in y.double().flatten().clamp(-_Y_LIMIT, _Y_LIMIT)[:, None].split(_CHUNK):
        low, high = -10.0 - part.clamp(min=0.0), 16.0 - part.clamp(max=0.0)
        for nodes in (_ZOOM_NODES, _ZOOM_NODES):
            z, step = _grid(low, high, nodes)
            h = log_f(z, z + part, K - 1)
            outside = h < h.amax(-1, keepdim=True) - _DROP
            low = z.masked_fill(outside, torch.inf).amin(-1, keepdim=True) - step
            high = z.masked_fill(outside, -torch.inf).amax(-1, keepdim=True) + step
        z, step = _grid(low, high, _NODES)
        chunks.append(torch.logsumexp(log_f(z, z + part, K - 1), -1) + step[:, 0].log())
    return torch.cat(chunks).reshape(y.shape)


def _grid(low: Tensor, high: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """`nodes` equally spaced points from low to high, (m, nodes), and their spacing (m, 1)."""
    step = (high - low) / (nodes - 1)
    return low + step * torch.arange(nodes, dtype=low.dtype, device=low.device), step


def _newton(log_f: _LogIntegrand, y: Tensor, p: Tensor, K: int) -> Tensor:
    """Solve integral = p from the start y, where the integral is F_Y (increasing) or 1 - F_Y (decreasing)."""
    sign = 1.0 if log_f is _log_cdf_integrand else -1.0
    for _ in range(60):
        value = _log_integral(log_f, y, K)
        step = sign * (p.log() - value) * (value - _log_integral(_log_pdf_integrand, y, K)).exp()
        y = y + step
        if (step.abs() <= 1e-14 * (1.0 + y.abs())).all():
            break
    return y
