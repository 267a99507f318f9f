"""Network calls of fixed shapes, so that what shares a call never changes a row's bits; and the draws that follow."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.categorical import sample_inverse_cdf
from mcd.sampler.base import Sampler

HEAD_ROWS = 32
"""Rows of a vocabulary projection: always so many, padded, so that its bits do not depend on how many are wanted."""


def hidden_of_call(denoiser: Denoiser, z: Tensor, t: Tensor, where: Tensor, rows_per_call: int) -> Tensor:
    """Features (m, D) at the flat positions `where` (m,) of z (n, L) at times t (n,), n <= rows_per_call: one call."""
    short = rows_per_call - len(z)
    if short:
        z, t = (torch.cat((x, x[:1].expand(short, *x.shape[1:]))) for x in (z, t))
    return denoiser.hidden(z, t, rows=where)


def parts(hidden: Tensor) -> Iterator[Tensor]:
    """Features (m, D), m > 0, in parts for the head, (32, D): the last is padded with noughts."""
    for part in hidden.split(HEAD_ROWS):
        yield part if len(part) == HEAD_ROWS else torch.nn.functional.pad(part, (0, 0, 0, HEAD_ROWS - len(part)))


def draw(sampler: Sampler, denoiser: Denoiser, hidden: Tensor, v: Tensor) -> Tensor:
    """Ids (m,) at features (m, D), by inverse CDF at v (m,) in float64, with the sampler's temperature and top_p."""
    drawn = []
    for part, v_part in zip(parts(hidden), v.split(HEAD_ROWS), strict=True):
        logits = denoiser.logits(part)[: len(v_part)]
        drawn.append(sample_inverse_cdf(logits, v_part, sampler.temperature, sampler.top_p))
    return torch.cat(drawn)


def drawn_in_call(sampler: Sampler, denoiser: Denoiser, z: Tensor, t: Tensor, where: Tensor, v: Tensor) -> Tensor:
    """Ids (m,) for the flat positions `where` (m,) of z (n, L), drawn at v (m,) from the predictions at times t (n,).

    One network call, of the sampler's fixed number of rows; n is at most that.
    """
    return draw(sampler, denoiser, hidden_of_call(denoiser, z, t, where, sampler.rows_for(z.shape[1])), v)


def reveal(
    sampler: Sampler, denoiser: Denoiser, z: Tensor, revealed: Tensor, v: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    """z (N, L) with the tokens `revealed` (N, L) drawn at v (N, L) from the predictions at t; z itself is not changed.

    Rows that reveal nothing do not enter the network. The second value is the calls made for each row, 0 or 1, (N,).
    """
    z, calls = z.clone(), revealed.any(dim=1)
    active = calls.nonzero(as_tuple=True)[0]
    for chunk in active.split(sampler.rows_for(z.shape[1])) if len(active) else ():
        where = revealed[chunk].flatten().nonzero(as_tuple=True)[0]
        times = torch.full((len(chunk),), t, device=z.device)
        drawn = drawn_in_call(sampler, denoiser, z[chunk], times, where, v[chunk].flatten()[where])
        z[chunk] = z[chunk].flatten().index_copy(0, where, drawn).view(len(chunk), -1)
    return z, calls.cpu().long()
