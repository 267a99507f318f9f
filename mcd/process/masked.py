"""The absorbing (masking) process and its exact posterior.

Shapes: x0, z_t, z_s (B, L) int64; u (B, L) float; alpha_t, alpha_s broadcast against (B, L).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mcd.process.schedule import Schedule


def mask(x0: Tensor, u: Tensor, alpha_t: Tensor, mask_id: int) -> Tensor:
    """Mask(x0, u, alpha_t): the mask token where u > alpha_t, the clean token elsewhere (paper, Eq. 13).

    With u ~ U(0, 1] (never 0, which no alpha_t masks) the marginal is Eq. 5, P(visible) = alpha_t; one u at several
    times gives one locked trajectory.
    """
    return torch.where(u > alpha_t, mask_id, x0)


@dataclass(frozen=True)
class CoupledPair:
    """Two states of one locked trajectory at s < t (paper, Section 3.2 and Figure 2).

    masked_s is contained in masked_t: what the student (at t) sees, the teacher (at s) sees too.
    """

    z_t: Tensor
    z_s: Tensor
    masked_t: Tensor
    masked_s: Tensor

    @property
    def revealed(self) -> Tensor:
        """(B, L) bool: visible to the teacher only, alpha_t < u <= alpha_s (the reconstruction regime)."""
        return self.masked_t & ~self.masked_s


def coupled_pair(
    x0: Tensor,
    u: Tensor,
    t: Tensor,
    s: Tensor,
    schedule: Schedule,
    mask_id: int,
    u_s: Tensor | None = None,
) -> CoupledPair:
    """(z_t, z_s) from one shared u (paper, Algorithm 1, "coupled trajectory construction").

    t, s: (B,), s <= t. `u_s` replaces the shared threshold at s (the ablation "independent u"); the pair is then no
    longer nested.
    """
    u_s = u if u_s is None else u_s
    masked_t = u > schedule.alpha(t)[:, None]
    masked_s = u_s > schedule.alpha(s)[:, None]
    return CoupledPair(
        z_t=torch.where(masked_t, mask_id, x0),
        z_s=torch.where(masked_s, mask_id, x0),
        masked_t=masked_t,
        masked_s=masked_s,
    )


def reveal_probability(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """P(visible at s | masked at t) = (alpha_s - alpha_t) / (1 - alpha_t) for s < t (paper, Eq. 5, and absorption)."""
    return (alpha_s - alpha_t) / (1.0 - alpha_t)


def posterior_zs(z_t: Tensor, x_theta: Tensor, alpha_t: Tensor, alpha_s: Tensor, mask_id: int) -> Tensor:
    """q(z_s | z_t, x0 = x_theta), the reverse transition (paper, Eq. 6), as probabilities.

    z_t: (...,) ids; x_theta: (..., K) probabilities of the clean token, zero at `mask_id`; alpha_*: broadcastable to
    (...,). Returns (..., K): a masked token stays masked with probability 1 - reveal_probability; a visible one stays.
    """
    reveal = reveal_probability(alpha_t, alpha_s)[..., None]
    q = x_theta * reveal
    q[..., mask_id] = (1.0 - reveal).expand_as(q[..., :1])[..., 0]
    visible = torch.nn.functional.one_hot(z_t, x_theta.shape[-1]).to(q.dtype)
    return torch.where((z_t == mask_id)[..., None], q, visible)
