"""Losses at the vocabulary head: rows of hidden states in, one loss a row out.

`cross_entropy_rows` and `divergence_rows` are the plain forms; they are what a fused form must agree with.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from mcd.model.denoiser import Denoiser


@dataclass(frozen=True)
class TeacherTarget:
    """A teacher's prediction, given as its hidden rows so that its logits are made only where the loss is computed.

    hidden: (n, D) of `teacher.hidden(...)`; tau: temperature on the teacher's raw logits (paper, Section 3.3).
    """

    teacher: "Denoiser"
    hidden: Tensor
    tau: float = 1.0


def cross_entropy_rows(log_p: Tensor, target: Tensor) -> Tensor:
    """-log p(target) of each row. log_p: (n, V); target: (n,) ids. Returns (n,), nats."""
    return F.nll_loss(log_p, target, reduction="none")


def divergence_rows(log_p: Tensor, log_q: Tensor, direction: str) -> Tensor:
    """A divergence of the student's p from the teacher's q, row by row. log_p, log_q: (n, V). Returns (n,).

    direction "reverse": KL(p || q), nats, mode seeking (paper, Eq. 14; SDTT's and Duo's `kl-bwd`).
    direction "forward": KL(q || p), nats, mean seeking (`kl-fwd`).
    direction "mse": mean over the V tokens of (log p - log q)^2 (SDTT's `mse`).
    direction "tv": total variation, half the sum of |p - q|, in [0, 1]. (SDTT's `tvd` is the sum of |log p - log q|.)
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
    raise ValueError(f"unknown divergence {direction!r}; known: reverse, forward, mse, tv")


def tempered(logits: Tensor, tau: float) -> Tensor:
    """log softmax(logits / tau), in float32 at least: (n, V) to (n, V)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.log_softmax(logits if tau == 1.0 else logits / tau, dim=-1)
