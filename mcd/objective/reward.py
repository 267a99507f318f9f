"""How near drawn rows are to a row of text: the maximum mean discrepancy (MMD) of their tokens' features.

Gretton et al., "A kernel two-sample test" (2012): MMD^2 = E k(x, x') - 2 E k(x, y) + E k(y, y'), here with the kernel
k(f, g) = exp(-a |f - g|^2) between hidden states, one of each token, over the tokens of one row. Shape letters: b rows,
L positions, D width; `where` (b, L) says which positions count.
"""

from typing import Literal

import torch
from torch import Tensor

Pairs = Literal["apart", "all", "same"]
"""Which positions p, q of two rows are compared: p != q, all, or p = q."""


def bandwidth(features: Tensor, where: Tensor, medians: float) -> Tensor:
    """a = 1 / (2 (medians * median_{p != q} |f_p - f_q|)^2) of each row, (b,): features (b, L, D).

    The median distance between the tokens of the row itself is the usual choice, and needs no tuning by hand. A row
    with fewer than two tokens gets a number without meaning.
    """
    apart = where[:, :, None] & where[:, None, :]
    apart = apart & ~torch.eye(where.shape[1], dtype=torch.bool, device=where.device)
    distances = squared_distances(features, features).sqrt().masked_fill(~apart, torch.nan)
    median = distances.flatten(1).nanmedian(-1).values.nan_to_num(1.0)
    return 1.0 / (2.0 * (medians * median).clamp(min=1e-6).square())


def attraction(drawn: Tensor, real: Tensor, where: Tensor, a: Tensor, pairs: Pairs = "apart") -> Tensor:
    """The mean of k(drawn_p, real_q) over pairs of positions of each row, (b,): over all m^2, or those of "same"."""
    return _mean_of_kernel(drawn, real, where, a, "same" if pairs == "same" else "all")


def repulsion(one: Tensor, other: Tensor, where: Tensor, a: Tensor, pairs: Pairs = "apart") -> Tensor:
    """The mean of k(one_p, other_q) over `pairs` of each row, (b,), between two rows drawn for the same text.

    What E(2 att - rep) prefers depends on the pairs (tests/objective/test_reward.py). Where features are the tokens
    themselves, it is linear in the prediction of each position with "apart", so that certain predictions are the best;
    with "all" it depends on the mean prediction of the positions only; with "same" the true marginals alone are best.
    """
    return _mean_of_kernel(one, other, where, a, pairs)


def leave_one_out(reward: Tensor) -> Tensor:
    """The advantage of each group, (b, G): its reward minus the mean reward of the others. Its sum over groups is 0."""
    G = reward.shape[1]
    return (reward - reward.mean(1, keepdim=True)) * (G / (G - 1))


def _mean_of_kernel(x: Tensor, y: Tensor, where: Tensor, a: Tensor, pairs: Pairs) -> Tensor:
    """The mean of exp(-a |x_p - y_q|^2) over pairs of positions that count, (b,); 0 where there is none."""
    m, weight = where.sum(-1), where.to(x.dtype)
    if pairs == "same":
        return ((x - y).square().sum(-1).mul(-a[:, None]).exp() * weight).sum(-1) / m.clamp(min=1)
    kernel = squared_distances(x, y).mul_(-a[:, None, None]).exp_()
    if pairs == "apart":
        kernel.diagonal(dim1=1, dim2=2).zero_()
    total = (weight[:, None] @ kernel @ weight[..., None]).flatten()
    return total / (m * (m - int(pairs == "apart"))).clamp(min=1)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_p - y_q|^2, (b, L, L): of features (b, L, D) whose mean is near 0: their squares cancel."""
    squares = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None, :]
    return torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2.0).clamp_(min=0.0)
