"""How likely a model finds one row, or a part of one given the rest, whatever other rows are asked about."""

import math

import torch
from torch import Tensor

from mcd.errors import UsageError
from mcd.eval.likelihood import BATCH, nelbo_rows
from mcd.model.denoiser import Denoiser
from mcd.sampler.rows import framed, windows


def check_has_likelihood(denoiser: Denoiser) -> None:
    """Raise UsageError for a model without a likelihood."""
    if denoiser.config.process == "locked":
        raise UsageError("the model maps noise to text, and has no likelihood that a bound could be of")


def bound_of_row(
    denoiser: Denoiser,
    ids: Tensor,
    wanted: Tensor,
    draws: int = BATCH,
    seed: int = 0,
    frame: tuple[int, int] | None = None,
) -> tuple[float, float]:
    """An upper bound of -log p(wanted tokens | the others) in nats, the mean of `draws` draws, and its standard error.

    ids (L,); wanted (L,) bool, one True at least; frame: as of `mcd.sampler.states`. The continuous-time bound of
    `nelbo_rows`; of an autoregressive model it is -log p of the wanted tokens, each given all before it, without an
    error. A row longer than the model's is read in the windows in which it would be drawn (`mcd.sampler.rows.windows`):
    the bounds of what each window writes, given all else in it, are summed. All randomness comes from `seed`, so rows
    with the same wanted tokens share times and thresholds: their differences are more exact than their bounds. Raises
    UsageError for a model that has no likelihood.
    """
    check_has_likelihood(denoiser)
    around = 0 if frame is None else 1
    ids, left = ids.to(denoiser.device), wanted.clone()
    draws = 1 if denoiser.config.process == "autoregressive" else draws
    total, variance, generator = 0.0, 0.0, torch.Generator().manual_seed(seed)
    for place in windows(wanted, denoiser.config.backbone.length - 2 * around):
        new = torch.zeros_like(wanted)
        new[place] = left[place]
        left &= ~new
        x0 = framed(ids[None, place], frame)
        diffused = torch.nn.functional.pad(new[place], (around, around)).to(denoiser.device)[None]
        drawn = torch.cat(
            [
                nelbo_rows(denoiser, x0.expand(part, -1), generator, diffused=diffused.expand(part, -1)).cpu()
                for part in (min(BATCH, draws - first) for first in range(0, draws, BATCH))
            ]
        )
        nats = drawn.double() * int(new.sum())
        total += nats.mean().item()
        variance += nats.var().item() / draws if draws > 1 else 0.0
    exact = denoiser.config.process == "autoregressive"
    return total, math.sqrt(variance) if draws > 1 or exact else math.nan
