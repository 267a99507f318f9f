"""The latent Gaussian process whose projection is the masking process (a reference twin: nothing trains on it).

w_t lives in R^K with one coordinate per token of the extended vocabulary, the mask's own coordinate among them.
Shapes: x0 (B, L) int64; eps, w_t (B, L, K); alpha_tilde_t, sigma_tilde_t, snr_root broadcast against (B, L).
"""

import torch
from torch import Tensor


def vp_of_snr_root(snr_root: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha_tilde_t, sigma_tilde_t) with alpha_tilde_t / sigma_tilde_t = snr_root and squares that sum to one.

    The variance-preserving schedule of the latent (paper, Eq. 7), elementwise: r = 0 gives (0, 1), r = inf gives
    (1, 0).
    Raises ValueError for a negative root: no signal has a negative weight.
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
    """w_t = alpha_tilde_t onehot(x0) + sigma_tilde_t eps, (B, L, K) in the dtype of eps.

    With fresh eps ~ N(0, I) at each t this is a draw from the marginal (paper, Eq. 2 and Eq. 7); with one eps kept for
    all t it is the deterministic path of Eq. 9, which (x0, eps) settle (Proposition 3.2). Raises ValueError when eps
    has no row of K for every token.
    """
    if eps.shape[:-1] != x0.shape:
        raise ValueError(f"eps of shape {tuple(eps.shape)} does not fit tokens of shape {tuple(x0.shape)}")
    signal = alpha_tilde_t.to(eps.dtype).expand(x0.shape)[..., None]
    noise = sigma_tilde_t.to(eps.dtype).expand(x0.shape)[..., None] * eps
    return noise.scatter_add(-1, x0[..., None], signal)
