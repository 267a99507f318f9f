"""Validation NELBO: the continuous-time bound on held-out rows, with its standard error."""

import math

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.masked import mask
from mcd.process.timestep import sample_u, stratified_t


@torch.inference_mode()
def nelbo_rows(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float = 1e-3) -> Tensor:
    """One unbiased draw of the bound for each row, in nats a token: x0 (B, L) to (B,).

    Unbiased but for the share t < t_min, which is left out as in training. Source for masked models: MDLM, Eq. 10.
    """
    return ROWS[denoiser.config.process](denoiser, x0, generator, t_min)


def _masked_rows(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float) -> Tensor:
    B, L = x0.shape
    t = stratified_t(B, t_min, 1.0, generator)
    t = t[torch.randperm(B, generator=generator)].to(x0.device)
    u = sample_u(B, L, generator).to(x0.device)
    schedule = denoiser.config.schedule
    z_t = mask(x0, u, schedule.alpha(t)[:, None], denoiser.mask_id)
    rows = (z_t == denoiser.mask_id).flatten().nonzero(as_tuple=True)[0]
    loss = denoiser.head_loss(denoiser.hidden(z_t, t, rows=rows), x0.flatten()[rows])
    per_row = torch.zeros(B, device=x0.device).index_add_(0, rows // L, loss)
    return per_row * schedule.nelbo_weight(t) / L


ROWS = {"masked": _masked_rows}
"""The draw of each kind of model."""


def nelbo(denoiser: Denoiser, batches: list[Tensor], seed: int = 0) -> dict[str, float]:
    """Mean and standard error of the bound over all rows of `batches`, nats a token, and its perplexity."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.cat([nelbo_rows(denoiser, x0.to(denoiser.device), generator) for x0 in batches])
    mean = draws.mean().item()
    error = draws.std().item() / math.sqrt(len(draws)) if len(draws) > 1 else math.nan
    return {"valid_nelbo": mean, "valid_nelbo_se": error, "valid_ppl": math.exp(min(mean, 700.0))}
