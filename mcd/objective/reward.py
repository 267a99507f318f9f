"""How near drawn rows are to a row of text: the maximum mean discrepancy (MMD) of their tokens' features.

Gretton et al., "A kernel two-sample test" (2012): MMD^2 = E k(x, x') - 2 E k(x, y) + E k(y, y'), here with the kernel
k(f, g) = exp(-a |f - g|^2) between hidden states, one of each token, over the tokens of one row. Shape letters: b rows,
L positions, D width; `where` (b, L) says which positions count.
"""

import torch
from torch import Tensor


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


def attraction(drawn: Tensor, real: Tensor, where: Tensor, a: Tensor) -> Tensor:
    """sum_{p, q} k(drawn_p, real_q) / m^2 of each row, (b,), with m the number of tokens that count."""
    return _sum_of_kernel(drawn, real, where, a) / where.sum(-1).clamp(min=1).square()


def repulsion(one: Tensor, other: Tensor, where: Tensor, a: Tensor, apart: bool = True) -> Tensor:
    """sum_{p, q} k(one_p, other_q) / (number of pairs) of each row, (b,), between two rows drawn for the same text.

    apart: without the m pairs p = q.

    Without them, rows that are always the same are not punished: for tokens that are independent and alike, one fixed
    row has the reward of the true law on average over that row, and the best fixed row has a higher one. With them it
    loses (1 - E k) / m (tests/objective/test_reward.py).
    """
    m = where.sum(-1)
    return _sum_of_kernel(one, other, where, a, apart) / (m * (m - int(apart))).clamp(min=1)


def leave_one_out(reward: Tensor) -> Tensor:
    """The advantage of each group, (b, G): its reward minus the mean reward of the others. Its sum over groups is 0."""
    G = reward.shape[1]
    return (reward - reward.mean(1, keepdim=True)) * (G / (G - 1))


def _sum_of_kernel(x: Tensor, y: Tensor, where: Tensor, a: Tensor, apart: bool = False) -> Tensor:
    """sum over pairs of positions that count of exp(-a |x_p - y_q|^2), (b,); without p = q if they must be `apart`."""
    kernel = squared_distances(x, y).mul_(-a[:, None, None]).exp_()
    if apart:
        kernel.diagonal(dim1=1, dim2=2).zero_()
    weight = where.to(kernel.dtype)
    return (weight[:, None] @ kernel @ weight[..., None]).flatten()


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_p - y_q|^2, (b, L, L): of features (b, L, D) whose mean is near 0, since squares cancel (`centred`)."""
    squares = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None, :]
    return torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2.0).clamp_(min=0.0)
