"""Network calls of fixed shapes, so that what shares a call never changes a row's bits; and the draws that follow."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.categorical import sample_inverse_cdf, temper
from mcd.sampler.base import Sampler

HEAD_ROWS = 128
"""Rows of a vocabulary projection: always so many, padded, so that its bits do not depend on how many are wanted."""


def hidden_of_call(denoiser: Denoiser, z: Tensor, t: Tensor, where: Tensor, rows_per_call: int) -> Tensor:
    """Features (m, D) at the flat positions `where` (m,) of z (n, L) at times t (n,), n <= rows_per_call: one call."""
    short = rows_per_call - len(z)
    z, t = (torch.cat((x, x[:1].expand(short, *x.shape[1:]))) for x in (z, t))
    return denoiser.hidden(z, t, rows=where)


def log_x_theta_parts(denoiser: Denoiser, hidden: Tensor) -> Iterator[Tensor]:
    """Log-probs of features (m, D), all of masked tokens, m > 0, as (128, V) parts: the last is padded with noughts."""
    for part in hidden.split(HEAD_ROWS):
        yield denoiser.log_x_theta(torch.nn.functional.pad(part, (0, 0, 0, HEAD_ROWS - len(part))))


def draw(sampler: Sampler, denoiser: Denoiser, hidden: Tensor, v: Tensor) -> Tensor:
    """Ids (m,) at features (m, D), by inverse CDF at v (m,) in float64, with the sampler's temperature and top_p."""
    drawn = []
    for log_p, v_part in zip(log_x_theta_parts(denoiser, hidden), v.split(HEAD_ROWS), strict=True):
        log_p = temper(log_p[: len(v_part)], sampler.temperature, sampler.top_p)
        drawn.append(sample_inverse_cdf(log_p, v_part))
    return torch.cat(drawn)


def reveal(
    sampler: Sampler, denoiser: Denoiser, z: Tensor, revealed: Tensor, v: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    """z (N, L) with the tokens `revealed` (N, L) drawn at v (N, L) from the predictions at t; z itself is not changed.

    Rows that reveal nothing do not enter the network. The second value is the calls made for each row, 0 or 1, (N,).
    """
    z, calls = z.clone(), revealed.any(dim=1)
    active = calls.nonzero(as_tuple=True)[0]
    for chunk in active.split(sampler.rows_per_call) if len(active) else ():
        where = revealed[chunk].flatten().nonzero(as_tuple=True)[0]
        times = torch.full((len(chunk),), t, device=z.device)
        hidden = hidden_of_call(denoiser, z[chunk], times, where, sampler.rows_per_call)
        drawn = draw(sampler, denoiser, hidden, v[chunk].flatten()[where])
        z[chunk] = z[chunk].flatten().index_copy(0, where, drawn).view(len(chunk), -1)
    return z, calls.cpu().long()
