"""Validation NELBO: the continuous-time bound on held-out rows, with its standard error; exact where it can be."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcd.data.loader import Batch
from mcd.model.denoiser import Denoiser
from mcd.model.targets import RowsTarget, TokenTarget
from mcd.process.masked import mask
from mcd.process.timestep import sample_u, stratified_t
from mcd.process.uniform import corrupt, nelbo_in_parts, sample_rival

T_MIN = 1e-3


@torch.inference_mode()
def nelbo_rows(
    denoiser: Denoiser,
    x0: Tensor,
    generator: torch.Generator,
    t_min: float = T_MIN,
    diffused: Tensor | None = None,
) -> Tensor:
    """One unbiased draw of the bound for each row, in nats a token: x0 (B, L) to (B,).

    diffused: (B, L) bool, an answer whose bound given all the rest of its row is wanted; None for the whole row.

    The mean over t in (t_min, 1]: for masked models (MDLM, Eq. 10) that is the bound. For uniform models
    (`process.uniform.nelbo_tokens`) more lies at small t, so they take t_min = 1e-5 at most, which leaves out less than
    2e-4 nats a token; and what is still known at t = 1, KL(q(z_1 | x0) || 1/K), is left out too: with the log-linear
    schedule 2e-5 nats at K = 32 and 3e-3 at K = 50257. By so much they may read below the entropy.
    """
    draw, rows = KINDS[denoiser.config.process]
    drawn = draw(denoiser, x0, generator, t_min)
    return rows(denoiser, x0, torch.ones_like(x0, dtype=torch.bool) if diffused is None else diffused, *drawn)


def _masked_draw(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float) -> tuple[Tensor, ...]:
    """t (B,) and u (B, L). Times are stratified over the rows, in random order."""
    B, L = x0.shape
    t = stratified_t(B, t_min, 1.0, generator)
    t = t[torch.randperm(B, generator=generator)].to(x0.device)
    return t, sample_u(B, L, generator).to(x0.device)


def _masked_rows(denoiser: Denoiser, x0: Tensor, diffused: Tensor, t: Tensor, u: Tensor) -> Tensor:
    B, L = x0.shape
    schedule = denoiser.config.schedule
    z_t = mask(x0, u * diffused, schedule.alpha(t)[:, None], denoiser.mask_id)
    rows = (z_t == denoiser.mask_id).flatten().nonzero(as_tuple=True)[0]
    _, (loss,) = denoiser.head_loss(denoiser.hidden(z_t, t, rows=rows), TokenTarget(x0.flatten()[rows]))
    per_row = torch.zeros(B, device=x0.device).index_add_(0, rows // L, loss)
    return per_row * schedule.nelbo_weight(t) / diffused.sum(1).clamp(min=1)


def _uniform_draw(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float) -> tuple[Tensor, ...]:
    """t (B,), u (B, L) and the rivals (B, L)."""
    t, u = _masked_draw(denoiser, x0, generator, min(t_min, 1e-5))
    return t, u, sample_rival(x0, denoiser.config.vocab_size, generator)


def _uniform_rows(denoiser: Denoiser, x0: Tensor, diffused: Tensor, t: Tensor, u: Tensor, rival: Tensor) -> Tensor:
    B, L = x0.shape
    K, schedule = denoiser.config.vocab_size, denoiser.config.schedule
    alpha_t, alpha_dot_t = schedule.alpha(t.double())[:, None], schedule.alpha_dot(t.double())[:, None]
    z_t = corrupt(x0, u * diffused, rival, alpha_t, K)
    terms_of = nelbo_in_parts(z_t, x0, alpha_t, alpha_dot_t)
    _, (bound,) = denoiser.head_loss(denoiser.hidden(z_t, t), RowsTarget(terms_of, B * L))
    return _mean(bound.view(B, L), diffused)


def _autoregressive_draw(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float) -> tuple[()]:
    """Nothing is drawn, and no time is left out."""
    return ()


def _autoregressive_rows(denoiser: Denoiser, x0: Tensor, diffused: Tensor) -> Tensor:
    """The exact NLL."""
    B, L = x0.shape
    start = torch.full_like(x0[:, :1], denoiser.mask_id)
    hidden = denoiser.hidden(torch.cat((start, x0[:, :-1]), dim=1), torch.zeros(B, device=x0.device))
    _, (loss,) = denoiser.head_loss(hidden, TokenTarget(x0.flatten()))
    return _mean(loss.view(B, L), diffused)


def _mean(losses: Tensor, diffused: Tensor) -> Tensor:
    """The mean over what is diffused of each row, (B, L) to (B,)."""
    return losses.masked_fill(~diffused, 0.0).sum(1) / diffused.sum(1).clamp(min=1)


KINDS: dict[str, tuple[Any, Any]] = {
    "masked": (_masked_draw, _masked_rows),
    "uniform": (_uniform_draw, _uniform_rows),
    "autoregressive": (_autoregressive_draw, _autoregressive_rows),
}
"""Of each kind of model, what is drawn for a batch, and the bound of its rows then."""


def nelbo_means(
    denoiser: Denoiser, batches: Sequence[Batch | Tensor], draws: int = 1, seed: int = 0, own: range | None = None
) -> Tensor:
    """The mean of `draws` draws of the bound for each row of `batches`, nats a token, (rows,).

    The rows' spread is what standard errors and intervals come from: it holds both the draws' noise, which more draws
    make smaller, and that rows differ, which only more rows do. Draws of a row are as if independent. A batch that is
    a tensor (B, L) is to be judged whole, else what is diffused of it. Where a batch says what is `counted`, a row's
    nats are of all that is diffused of it, per token that counts: of an answer, its end and the padding behind, per
    token of the answer and its end. That bounds -log p(answer and end) from above, since the padding follows from them.
    own: the batches to do, all by default; the others' numbers are drawn and passed over, so that rows do not change.
    """
    generator, rows = torch.Generator().manual_seed(seed), [torch.zeros(0)]
    draw, _ = KINDS[denoiser.config.process]
    for i, batch in enumerate(batches):
        x0, diffused, counted = (batch, None, None) if isinstance(batch, Tensor) else batch
        x0, diffused = x0.to(denoiser.device), None if diffused is None else diffused.to(denoiser.device)
        if own is None or i in own:
            drawn = [nelbo_rows(denoiser, x0, generator, diffused=diffused) for _ in range(draws)]
            mean = torch.stack(drawn).mean(0).cpu()
            if diffused is not None and counted is not None:
                mean *= diffused.sum(1).cpu() / counted.cpu()
            rows.append(mean)
        else:
            for _ in range(draws):
                draw(denoiser, x0, generator, T_MIN)
    return torch.cat(rows)


def nelbo(denoiser: Denoiser, batches: Sequence[Batch | Tensor], seed: int = 0, draws: int = 1) -> dict[str, float]:
    """Mean and standard error of the bound over all rows of `batches`, nats a token, and its perplexity."""
    rows = nelbo_means(denoiser, batches, draws, seed)
    mean = rows.mean().item()
    error = rows.std().item() / math.sqrt(len(rows)) if len(rows) > 1 else math.nan
    return {"valid_nelbo": mean, "valid_nelbo_se": error, "valid_ppl": math.exp(min(mean, 700.0))}
