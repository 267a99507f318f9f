"""Network calls of fixed shapes, so that what shares a call never changes a row's bits; and the draws that follow."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.categorical import sample_inverse_cdf
from mcd.sampler.base import Sampler

FEW = 32
"""Rows of a vocabulary projection, and of what the last block makes for wanted rows alone: always so many, padded, so
that a row's bits do not depend on how many are wanted."""
MANY = 128
"""The same where nearly all rows are wanted: quicker a row, dearer for a single one."""


def hidden_of_call(
    denoiser: Denoiser, z: Tensor, t: Tensor, where: Tensor, rows_per_call: int, group: int = FEW
) -> Tensor:
    """Features (m, D) at the flat positions `where` (m,) of z (n, L) at times t (n,), n <= rows_per_call: one call."""
    short = rows_per_call - len(z)
    if short:
        z, t = (torch.cat((x, x[:1].expand(short, *x.shape[1:]))) for x in (z, t))
    return denoiser.hidden(z, t, rows=where, group=group)


def parts(hidden: Tensor, group: int = FEW) -> Iterator[Tensor]:
    """Features (m, D), m > 0, in parts (group, D) for the head: the last is padded with noughts."""
    for part in hidden.split(group):
        yield torch.nn.functional.pad(part, (0, 0, 0, group - len(part))) if len(part) < group else part


def draw(sampler: Sampler, denoiser: Denoiser, hidden: Tensor, v: Tensor) -> Tensor:
    """Ids (m,) at features (m, D), by inverse CDF at v (m,) in float64, with the sampler's temperature and top_p."""
    drawn = []
    for part, v_part in zip(parts(hidden), v.split(FEW), strict=True):
        logits = denoiser.logits(part)[: len(v_part)]
        drawn.append(sample_inverse_cdf(logits, v_part, sampler.temperature, sampler.top_p))
    return torch.cat(drawn)


def reveal(
    sampler: Sampler, denoiser: Denoiser, z: Tensor, revealed: Tensor, v: Tensor, t: float
) -> tuple[Tensor, Tensor]:
    """z (N, L) with the tokens `revealed` (N, L) drawn at v (N, L) from the predictions at t; z itself is not changed.

    Rows that reveal nothing do not enter the network. The second value is the calls made for each row, 0 or 1, (N,).
    """
    calls, rows_per_call = revealed.any(dim=1), sampler.rows_for(denoiser, z.shape[1])
    active = calls.nonzero(as_tuple=True)[0]
    if not len(active):
        return z.clone(), calls.cpu().long()
    hidden = []
    for chunk in active.split(rows_per_call):
        where = revealed[chunk].flatten().nonzero(as_tuple=True)[0]
        times = torch.full((len(chunk),), t, device=z.device)
        hidden.append(hidden_of_call(denoiser, z[chunk], times, where, rows_per_call))
    return z.masked_scatter(revealed, draw(sampler, denoiser, torch.cat(hidden), v[revealed])), calls.cpu().long()
