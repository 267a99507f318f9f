"""Validation NELBO: the continuous-time bound on held-out rows, with its standard error; exact where it can be."""

import math

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.model.head import RowsTarget, TokenTarget
from mcd.process.masked import mask
from mcd.process.timestep import sample_u, stratified_t
from mcd.process.uniform import corrupt, nelbo_in_parts, sample_rival


@torch.inference_mode()
def nelbo_rows(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float = 1e-3) -> Tensor:
    """One unbiased draw of the bound for each row, in nats a token: x0 (B, L) to (B,).

    The mean over t in (t_min, 1]: for masked models (MDLM, Eq. 10) that is the bound. For uniform models
    (`process.uniform.nelbo_tokens`) more lies at small t, so they take t_min = 1e-5 at most, which leaves out less than
    2e-4 nats a token; and what is still known at t = 1, KL(q(z_1 | x0) || 1/K), is left out too: with the log-linear
    schedule 2e-5 nats at K = 32 and 3e-3 at K = 50257. By so much they may read below the entropy.
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
    _, (loss,) = denoiser.head_loss(denoiser.hidden(z_t, t, rows=rows), TokenTarget(x0.flatten()[rows]))
    per_row = torch.zeros(B, device=x0.device).index_add_(0, rows // L, loss)
    return per_row * schedule.nelbo_weight(t) / L


def _uniform_rows(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float) -> Tensor:
    B, L = x0.shape
    K, schedule = denoiser.config.vocab_size, denoiser.config.schedule
    t = stratified_t(B, min(t_min, 1e-5), 1.0, generator)
    t = t[torch.randperm(B, generator=generator)].to(x0.device)
    u, rival = sample_u(B, L, generator).to(x0.device), sample_rival(x0, K, generator)
    alpha_t, alpha_dot_t = schedule.alpha(t.double())[:, None], schedule.alpha_dot(t.double())[:, None]
    z_t = corrupt(x0, u, rival, alpha_t, K)
    terms_of = nelbo_in_parts(z_t, x0, alpha_t, alpha_dot_t)
    _, (bound,) = denoiser.head_loss(denoiser.hidden(z_t, t), RowsTarget(terms_of, B * L))
    return bound.view(B, L).mean(1)


def _autoregressive_rows(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float) -> Tensor:
    """The exact NLL: nothing is drawn, and no time is left out."""
    B, L = x0.shape
    start = torch.full_like(x0[:, :1], denoiser.mask_id)
    hidden = denoiser.hidden(torch.cat((start, x0[:, :-1]), dim=1), torch.zeros(B, device=x0.device))
    _, (loss,) = denoiser.head_loss(hidden, TokenTarget(x0.flatten()))
    return loss.view(B, L).mean(1)


ROWS = {"masked": _masked_rows, "uniform": _uniform_rows, "autoregressive": _autoregressive_rows}
"""The draw of each kind of model."""


def nelbo_means(denoiser: Denoiser, batches: list[Tensor], draws: int = 1, seed: int = 0) -> Tensor:
    """The mean of `draws` draws of the bound for each row of `batches`, nats a token, (rows,).

    The rows' spread is what standard errors and intervals come from: it holds both the draws' noise, which more draws
    make smaller, and that rows differ, which only more rows do. Draws of a row are as if independent.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = (
        torch.stack([nelbo_rows(denoiser, x0.to(denoiser.device), generator) for _ in range(draws)]) for x0 in batches
    )
    return torch.cat([row.mean(0) for row in rows])


def nelbo(denoiser: Denoiser, batches: list[Tensor], seed: int = 0, draws: int = 1) -> dict[str, float]:
    """Mean and standard error of the bound over all rows of `batches`, nats a token, and its perplexity."""
    rows = nelbo_means(denoiser, batches, draws, seed)
    mean = rows.mean().item()
    error = rows.std().item() / math.sqrt(len(rows)) if len(rows) > 1 else math.nan
    return {"valid_nelbo": mean, "valid_nelbo_se": error, "valid_ppl": math.exp(min(mean, 700.0))}
