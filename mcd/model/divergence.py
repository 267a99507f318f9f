"""How far a prediction is from a teacher's, row by row."""

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = ("reverse", "forward", "mse", "tv")


def tempered(logits: Tensor, tau: float) -> Tensor:
    """log softmax(logits / tau), in float32 at least: (n, V) to (n, V)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.log_softmax(logits if tau == 1.0 else logits / tau, dim=-1)


def divergence_rows(log_p: Tensor, log_q: Tensor, direction: str) -> Tensor:
    """A divergence of the student's p from the teacher's q, row by row. log_p, log_q: (n, V). Returns (n,).

    direction "reverse": KL(p || q), nats, mode seeking (paper, Eq. 14; SDTT's and Duo's `kl-bwd`).
    direction "forward": KL(q || p), nats, mean seeking (`kl-fwd`).
    direction "mse": mean over the V tokens of (log p - log q)^2. SDTT's `mse` is the mean over V + 1 columns, which is
    this times V / (V + 1) and d^2 / (V + 1) for the mask's column: there d is the difference of two numbers near -1e6,
    those of the raw logits, in float32 rounded to 1/16.
    direction "tv": total variation, half the sum of |p - q|, in [0, 1]. (SDTT's `tvd` is the sum of |log p - log q|,
    over V + 1 columns too.)
    Raises ValueError for anything else. All log-probs must be finite: a certain teacher's other ones are -1e6, as in
    the public code, not -inf (0 times infinity has no value).
    """
    if direction == "reverse":
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if direction == "forward":
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    if direction == "mse":
        return (log_p - log_q).square().mean(-1)
    if direction == "tv":
        return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
    raise ValueError(f"unknown divergence {direction!r}; known: {', '.join(DIRECTIONS)}")
