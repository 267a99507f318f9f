"""The uniform-state process of Duo: a corrupted token is another token of the vocabulary, and there is no mask.

Source: Duo (arXiv 2506.10892), and UDLM (arXiv 2412.10193) for posterior and bound.
q(z_t | x0) = alpha_t onehot(x0) + (1 - alpha_t) / K. The network is plugged in for x0 in the posterior, which fixes
what x_theta means: the reverse process is exact token by token if x_theta is p(x0_i | z_t without its token i), the
prediction that leaves the token's own state out. The state re-enters as its likelihood,
K alpha_t <z_t, x> + 1 - alpha_t.

Shapes: x0, z_t, z_s, rival (B, L) int64; u (B, L) float; alpha_t, alpha_s broadcast against (B, L). K tokens.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mcd.process.duality import snr_root_of_uniform_alpha, uniform_alpha_of_snr_root
from mcd.process.schedule import Schedule

_TABLE_NODES = 4096
_TABLE_TOP = 1.0 - 1e-6


def keep_probability(alpha_t: Tensor, K: int) -> Tensor:
    """P(z_t = x0) = alpha_t + (1 - alpha_t) / K: noise hits the true token one time in K."""
    return alpha_t + (1.0 - alpha_t) / K


def sample_rival(x0: Tensor, K: int, generator: torch.Generator | None = None) -> Tensor:
    """For each token another one, uniform over the K - 1 others: what it turns into when it is corrupted.

    Drawn on the CPU. Raises ValueError for K < 2.
    """
    if K < 2:
        raise ValueError(f"K must be at least 2 (a token and a rival), not {K}")
    return (x0 + torch.randint(1, K, x0.shape, generator=generator).to(x0.device)) % K


def corrupt(x0: Tensor, u: Tensor, rival: Tensor, alpha_t: Tensor, K: int) -> Tensor:
    """The clean token where u <= P(z_t = x0), its rival elsewhere.

    With u ~ U(0, 1] and `sample_rival` the marginal is alpha_t onehot(x0) + (1 - alpha_t) / K; one (u, rival) at
    several times is one path of `coupled_pair_uniform`.
    """
    return torch.where(u > keep_probability(alpha_t, K), rival, x0)


@dataclass(frozen=True)
class UniformPair:
    """Two states of one path at s < t; a token corrupted at s is corrupted at t, and by the same rival."""

    z_t: Tensor
    z_s: Tensor
    corrupted_t: Tensor
    corrupted_s: Tensor

    @property
    def restored(self) -> Tensor:
        """(B, L) bool: clean for the teacher only."""
        return self.corrupted_t & ~self.corrupted_s


def coupled_pair_uniform(
    x0: Tensor, u: Tensor, rival: Tensor, t: Tensor, s: Tensor, schedule: Schedule, K: int
) -> UniformPair:
    """(z_t, z_s) on one path, from one uniform and one rival per token instead of K Gaussians. t, s: (B,), s <= t.

    Duo (arXiv 2506.10892), Algorithm 1 couples the two states by one eps: z = argmax w, w = a onehot(x0) + s eps.
    Along a fixed eps the argmax is x0 iff Y < r_t = a / s, with Y = max_{j != x0} eps_j - eps_x0, and otherwise the
    rival argmax_{j != x0} eps_j, whatever t: all rivals are scaled alike. The rivals are exchangeable, so their argmax
    is uniform over K - 1 tokens and independent of their maximum, hence of Y. With u = F_Y(Y), uniform, and
    F_Y(r_t) = P(z_t = x0) = alpha_t + (1 - alpha_t) / K, the states at all t together have exactly the law of
    (u, rival). There is no floor as for masks: alpha_t >= 0 means r_t >= 0.

    The equivalence is one of discrete states. It does not hold for the soft tokens softmax(w / tau) of the curriculum,
    which depend on every coordinate of eps. Nor is the pair a draw of the forward Markov chain, in which a token
    corrupted twice changes twice.
    """
    corrupted_t = u > keep_probability(schedule.alpha(t)[:, None], K)
    corrupted_s = u > keep_probability(schedule.alpha(s)[:, None], K)
    return UniformPair(
        z_t=torch.where(corrupted_t, rival, x0),
        z_s=torch.where(corrupted_s, rival, x0),
        corrupted_t=corrupted_t,
        corrupted_s=corrupted_s,
    )


def posterior_zs(z_t: Tensor, x_theta: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """q(z_s | z_t, x0 = x_theta), the reverse transition, as probabilities (UDLM and Duo).

    z_t: (...,) ids; x_theta: (..., K) probabilities; alpha_t <= alpha_s, alpha_s > 0, both broadcastable to (...,).
    Returns (..., K) in the dtype of x_theta. At alpha_s = 1 it is the law of the clean token given z_t, which is
    x_theta times the likelihood of z_t; at alpha_t = 0, where z_t has no information, it is x_theta at noise level s.
    """
    K = x_theta.shape[-1]
    own = K * alpha_t * x_theta.gather(-1, z_t[..., None])[..., 0]
    keep = alpha_t / alpha_s  # P(no jump between s and t)
    stay = own + keep - alpha_t
    q = x_theta * (alpha_s - alpha_t)[..., None] + ((1.0 - keep) * (1.0 - alpha_s) / K)[..., None]
    q = q.scatter_add(-1, z_t[..., None], stay.expand(z_t.shape)[..., None].to(q.dtype))
    return q / (own + 1.0 - alpha_t)[..., None]


def psi_posterior_zs(z_t: Tensor, x_theta: Tensor, alpha_t: Tensor, alpha_s: Tensor, kappa: float) -> Tensor:
    """kappa q(z_s | z_t, x_theta) + (1 - kappa) q(z_s | x0-prediction), (..., K): a predictor-corrector step.

    Source: Psi-samplers (Duo II, arXiv 2602.21185), as in the public code: the x0-prediction is the posterior at
    alpha_s = 1, noised afresh to level s, so that both parts have the marginal of z_s. kappa = 1 is `posterior_zs`.
    """
    q = posterior_zs(z_t, x_theta, alpha_t, alpha_s)
    if kappa == 1.0:
        return q
    clean = posterior_zs(z_t, x_theta, alpha_t, torch.ones_like(alpha_s))
    noised = alpha_s[..., None] * clean + (1.0 - alpha_s[..., None]) / x_theta.shape[-1]
    return kappa * q + (1.0 - kappa) * noised


def nelbo_tokens(log_x_theta: Tensor, z_t: Tensor, x0: Tensor, alpha_t: Tensor, alpha_dot_t: Tensor) -> Tensor:
    """The integrand of the continuous-time bound, token by token: Duo's Rao-Blackwellised NELBO, (B, L) float64.

    With r_j = q(z_t = j | x0) / q(z_t | x0) and the same r_theta of x_theta, it is the KL rate of the reverse jumps,

        -alpha_dot_t / (K alpha_t) sum_{j != z_t} (r_theta_j - r_j + r_j log(r_j / r_theta_j)),

    never negative and zero at x_theta = onehot(x0); r takes two values, so the sum needs only sum_j log r_theta_j and
    the entries of z_t and x0. log_x_theta: (B, L, K), normalised. alpha_t, alpha_dot_t: broadcastable to (B, L), best
    in float64, for 1 - alpha_t loses digits near t = 0.

    Precision: log r_theta_j = log1p(rho x_j) - log1p(rho x_z) with rho = K alpha_t / (1 - alpha_t) is taken in the
    dtype of log_x_theta and summed over K in float64; the rest is one number per token and float64, since terms of
    order K cancel in it. alpha_t below 1e-9 is taken as 1e-9 (at 0 the value is 0 / 0, with limit 0);
    it must be below 1.
    """
    K = log_x_theta.shape[-1]
    alpha_t = alpha_t.double().clamp(min=1e-9)
    rho = K * alpha_t / (1.0 - alpha_t)
    own, true = (log_x_theta.gather(-1, ids[..., None])[..., 0].double().exp() for ids in (z_t, x0))
    log_own, log_true = torch.log1p(rho * own), torch.log1p(rho * true)
    log_all = torch.log1p(rho[..., None].to(log_x_theta.dtype) * log_x_theta.exp()).sum(-1, dtype=torch.float64)
    sum_log_r = log_all - K * log_own
    sum_r = K / ((1.0 - alpha_t) * (1.0 + rho * own)) - 1.0
    log_kappa = -torch.log1p(rho)  # log q(z_t = another) / q(z_t = x0)
    kappa = log_kappa.exp()
    if_clean = sum_r - (K - 1) * kappa + kappa * ((K - 1) * log_kappa - sum_log_r)
    log_r_true = log_true - log_own
    if_corrupted = sum_r - (K - 2) - 1.0 / kappa - (log_kappa + log_r_true) / kappa - (sum_log_r - log_r_true)
    return -alpha_dot_t / (K * alpha_t) * torch.where(z_t == x0, if_clean, if_corrupted)


def tabled_snr_root(alpha_t: Tensor, K: int) -> Tensor:
    """`snr_root_of_uniform_alpha` by linear interpolation in a table made once for each K, float64.

    The alpha of the answer is within 1e-6 of alpha_t; above 1 - 1e-6 the answer is the root there.
    """
    alphas, roots = _snr_root_table(K)
    alpha_t = alpha_t.double()
    inner = alpha_t.cpu().clamp(0.0, _TABLE_TOP)
    right = torch.searchsorted(alphas, inner).clamp(1, len(alphas) - 1)
    share = (inner - alphas[right - 1]) / (alphas[right] - alphas[right - 1])
    return torch.lerp(roots[right - 1], roots[right], share).to(alpha_t.device)


@functools.lru_cache(maxsize=8)
def _snr_root_table(K: int) -> tuple[Tensor, Tensor]:
    """alpha and r at `_TABLE_NODES` equally spaced r, from r = 0, where alpha = 0, up to alpha = 1 - 1e-6."""
    top = snr_root_of_uniform_alpha(torch.tensor([_TABLE_TOP], dtype=torch.float64), K).item()
    roots = torch.linspace(0.0, top, _TABLE_NODES, dtype=torch.float64)
    return uniform_alpha_of_snr_root(roots, K), roots


def nelbo_in_parts(z_t: Tensor, x0: Tensor, alpha_t: Tensor, alpha_dot_t: Tensor) -> Callable[[Tensor, slice], Tensor]:
    """`nelbo_tokens` a few positions at a time, so that log-probs of all need not exist at once.

    Arguments as of `nelbo_tokens`. Returns a function of log-probs (c, K) and of the slice of the flat positions that
    they belong to, which gives their terms (c,).
    """
    places = [a.expand(z_t.shape).flatten() for a in (z_t, x0, alpha_t, alpha_dot_t)]
    return lambda log_x_theta, rows: nelbo_tokens(log_x_theta[None], *(a[None, rows] for a in places))[0]
