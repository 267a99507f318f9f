"""Draws from log-probabilities: exact draws in float64, and the Gumbel race of the public code in a given precision.

Shapes: log_p, log_x_theta (n, V), one row per token to draw; ids (n,) int64.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mcd.process.transfer import demand

_CHUNK_ELEMENTS = 1 << 22  # of one temporary of the race: 32 MiB in float64


class Guide(NamedTuple):
    """What a prediction is moved away from: log-probabilities `prior` (V,), which are finite, and how far, `weight`."""

    prior: Tensor
    weight: float


def sample_inverse_cdf(
    log_p: Tensor, v: Tensor, temperature: float = 1.0, top_p: float = 1.0, guide: Guide | None = None
) -> Tensor:
    """The first index whose cumulative probability exceeds v: a draw from softmax(log_p) when v ~ U[0, 1].

    log_p (n, V): a constant added to a row has no effect, so raw logits are allowed. v in [0, 1]: (n,), or (n, K) for K
    draws of each row from its one cumulative sum; the ids have its shape. With a temperature, a nucleus or a guide the
    draw is from `temper(log_p, temperature, top_p, guide)`. Exponentials and sum are float64, in one copy of log_p. An
    index of
    probability zero is never returned, not even at v = 0 and v = 1. Raises ValueError for v outside [0, 1], for a row
    without mass (all -inf) or with NaN, and for what `temper` refuses.
    """
    _check_levels(v)
    _check(temperature, top_p)
    if top_p < 1.0 or guide is not None:
        log_p, temperature = temper(log_p, temperature, top_p, guide), 1.0
    return _search(log_p, v[:, None], temperature)[:, 0] if v.ndim == 1 else _search(log_p, v, temperature)


def sample_shared_cdf(log_p: Tensor, v: Tensor) -> Tensor:
    """`sample_inverse_cdf` where all draws are from one law: log_p (V,) and v of any shape to ids of that shape."""
    _check_levels(v)
    return _search(log_p, v)


def _search(log_p: Tensor, v: Tensor, temperature: float = 1.0) -> Tensor:
    """The first index whose cumulative probability exceeds v: log_p (n, V) and v (n, m), or (V,) and any shape."""
    cdf = log_p.to(torch.float64, copy=True).sub_(log_p.amax(-1, keepdim=True))
    if temperature != 1.0:
        cdf.div_(temperature)
    cdf = cdf.exp_().cumsum_(-1)
    total = cdf[..., -1:]  # at least 1, the likeliest's own
    message = "log_p has a row without mass or with NaN: the network's output is not finite"
    checked = demand(torch.isfinite(total).all(), NoMass, message)
    level = torch.minimum(v.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    ids = torch.searchsorted(cdf, level, right=True)
    return ids if checked else ids.clamp_(max=cdf.shape[-1] - 1)  # of a row with NaN it is beyond the last


def _check_levels(v: Tensor) -> None:
    demand(((v >= 0) & (v <= 1)).all(), ValueError, "v must lie in [0, 1]")


def temper(log_p: Tensor, temperature: float = 1.0, top_p: float = 1.0, guide: Guide | None = None) -> Tensor:
    """Log-probabilities proportional to p^(1 / temperature), cut to their nucleus; float64 (n, V), normalised.

    The nucleus (Holtzman et al., arXiv 1904.09751) is the smallest set of most probable tokens with mass >= top_p,
    after tempering; it holds at least one token, and the rest gets -inf. Between equal tokens the lower id goes first.
    With a guide, what is left of the nucleus is proportional to (p (p / prior)^weight)^(1 / temperature): a token gains
    by what the prediction says beyond the prior. Raises ValueError unless 0 < temperature < inf and 0 < top_p <= 1.
    """
    _check(temperature, top_p)
    log_p = log_p.double()
    law = tempered = _tempered(log_p, temperature)
    if guide is not None:
        log_p = _tempered(log_p, 1.0)
        law = log_p + guide.weight * (log_p - guide.prior)
    if top_p < 1.0:
        p, order = tempered.exp().sort(dim=-1, descending=True, stable=True)
        p_before = torch.nn.functional.pad(p.cumsum(-1)[..., :-1], (1, 0))
        cut = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, p_before >= top_p)
        law = law.masked_fill(cut, -torch.inf)
    if guide is not None:
        return _tempered(law, temperature)
    return tempered if top_p == 1.0 else torch.log_softmax(law, -1)


def _tempered(log_p: Tensor, temperature: float) -> Tensor:
    """The likeliest is 0 before the division, which then leaves a row its mass at any temperature."""
    return torch.log_softmax((log_p - log_p.amax(-1, keepdim=True)) / temperature, -1)


class NoMass(FloatingPointError, ValueError):
    """Log-probabilities from which no draw is possible."""


def _check(temperature: float, top_p: float) -> None:
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p}")


def sample_gumbel_race(
    log_x_theta: Tensor,
    alpha_t: float | Tensor,
    alpha_s: float | Tensor,
    precision: torch.dtype,
    generator: torch.Generator,
) -> Tensor:
    """One reverse step of masked tokens as the public MDLM code takes it (`_sample_categorical`, `_ddpm_update`).

    All V tokens, of mass x_theta (alpha_s - alpha_t), and the mask, of mass 1 - alpha_s, run one race
    argmax q / (1e-10 - log(rand + 1e-10)) with rand in `precision`. log_x_theta (n, V) over real tokens; alpha_t and
    alpha_s numbers or (n,), alpha_t <= alpha_s. Returns (n,) ids, where V says "stayed masked".

    torch.float32 does not give the intended distribution: rand is a multiple of 2^-24 and at most 1 - 2^-24, so the
    Gumbel variable -log(-log rand) is at most 16.63 and a token far less likely than the mask can never win. Smaller
    steps give the mask more mass, so more steps cut off more of the tail: this acts like a temperature below 1
    (Zheng et al., arXiv 2409.02908). torch.float64 goes up to 36.7 and has no such effect for any use here.
    Rows are run in chunks of bounded memory; that does not change the draws. Raises ValueError for other dtypes.
    """
    if precision not in (torch.float32, torch.float64):
        raise ValueError(f"precision must be torch.float32 or torch.float64, not {precision}")
    n, V = log_x_theta.shape
    device = log_x_theta.device
    alpha_t, alpha_s = (torch.as_tensor(a, dtype=torch.float64, device=device).expand(n) for a in (alpha_t, alpha_s))
    token_mass, mask_mass = (alpha_s - alpha_t).to(precision), (1.0 - alpha_s).to(precision)
    ids = torch.empty(n, dtype=torch.int64, device=device)
    rows = max(1, _CHUNK_ELEMENTS // (V + 1))
    for i in range(0, n, rows):
        part = slice(i, i + rows)
        q = torch.cat((log_x_theta[part].to(precision).exp() * token_mass[part, None], mask_mass[part, None]), -1)
        rand = torch.rand(q.shape, dtype=precision, device=generator.device, generator=generator).to(device)
        ids[part] = (q / (1e-10 - (rand + 1e-10).log())).argmax(-1)
    return ids
