"""How likely a model finds given text: the continuous-time bound with its standard error; exact where it can be."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcd.data.loader import Batch
from mcd.eval.bits_per_byte import bits_per_byte, figures
from mcd.model.adapted.network import Adapted
from mcd.model.denoiser import Denoiser
from mcd.model.targets import RowsTarget, TokenTarget
from mcd.process.masked import mask
from mcd.process.timestep import sample_u, stratified_t
from mcd.process.uniform import corrupt, nelbo_in_parts, sample_rival
from mcd.training.ranks import everywhere, share_of

T_MIN = 1e-3
BATCH = 16  # rows of a network call


@torch.inference_mode()
def nelbo_rows(
    denoiser: Denoiser,
    x0: Tensor,
    generator: torch.Generator,
    t_min: float = T_MIN,
    diffused: Tensor | None = None,
) -> Tensor:
    """One unbiased draw of the bound for each row, in nats per token: x0 (B, L) to (B,).

    diffused: (B, L) bool, an answer whose bound given all the rest of its row is wanted; None for the whole row.

    The mean over t in (t_min, 1]: for masked models (MDLM, Eq. 10) that is the bound. For uniform models
    (`process.uniform.nelbo_in_parts`) more lies at small t, so they take t_min = 1e-5 at most, which leaves out less
    than 2e-4 nats per token. What is still known at t = 1, KL(q(z_1 | x0) || 1/K), is left out too: with the log-linear
    schedule 2e-5 nats at K = 32 and 3e-3 at K = 50257. By that much they may read below the entropy.
    """
    bounds = {"masked": _masked_bound, "uniform": _uniform_bound, "autoregressive": _exact_nll}
    diffused = torch.ones_like(x0, dtype=torch.bool) if diffused is None else diffused
    return bounds[denoiser.config.process](denoiser, x0, diffused, *_draw(denoiser, x0, generator, t_min))


def _draw(denoiser: Denoiser, x0: Tensor, generator: torch.Generator, t_min: float = T_MIN) -> tuple[Tensor, ...]:
    """What the bound of a batch needs: t (B,), u (B, L), and of uniform models the rivals (B, L); nothing for an exact
    likelihood. Times are stratified over the rows, in random order."""
    process, (B, L) = denoiser.config.process, x0.shape
    if process == "autoregressive":
        return ()
    t = stratified_t(B, min(t_min, 1e-5) if process == "uniform" else t_min, 1.0, generator)
    t = t[torch.randperm(B, generator=generator)].to(x0.device)
    u = sample_u(B, L, generator).to(x0.device)
    return (t, u) if process == "masked" else (t, u, sample_rival(x0, denoiser.config.vocab_size, generator))


def _masked_bound(denoiser: Denoiser, x0: Tensor, diffused: Tensor, t: Tensor, u: Tensor) -> Tensor:
    B, L = x0.shape
    schedule = denoiser.config.schedule
    z_t = mask(x0, u * diffused, schedule.alpha(t)[:, None], denoiser.mask_id)
    rows = (z_t == denoiser.mask_id).flatten().nonzero(as_tuple=True)[0]
    _, (loss,) = denoiser.head_loss(denoiser.hidden(z_t, t, rows=rows), TokenTarget(x0.flatten()[rows]))
    per_row = torch.zeros(B, device=x0.device).index_add_(0, rows // L, loss)
    return per_row * schedule.nelbo_weight(t) / diffused.sum(1).clamp(min=1)


def _uniform_bound(denoiser: Denoiser, x0: Tensor, diffused: Tensor, t: Tensor, u: Tensor, rival: Tensor) -> Tensor:
    B, L = x0.shape
    K, schedule = denoiser.config.vocab_size, denoiser.config.schedule
    alpha_t, alpha_dot_t = schedule.alpha(t.double())[:, None], schedule.alpha_dot(t.double())[:, None]
    z_t = corrupt(x0, u * diffused, rival, alpha_t, K)
    terms_of = nelbo_in_parts(z_t, x0, alpha_t, alpha_dot_t)
    _, (bound,) = denoiser.head_loss(denoiser.hidden(z_t, t), RowsTarget(terms_of, B * L))
    return _mean(bound.view(B, L), diffused)


def _exact_nll(denoiser: Denoiser, x0: Tensor, diffused: Tensor) -> Tensor:
    B, L = x0.shape
    start = torch.full_like(x0[:, :1], denoiser.mask_id)
    hidden = denoiser.hidden(torch.cat((start, x0[:, :-1]), dim=1), torch.zeros(B, device=x0.device))
    _, (loss,) = denoiser.head_loss(hidden, TokenTarget(x0.flatten()))
    return _mean(loss.view(B, L), diffused)


@torch.inference_mode()
def causal_nll(denoiser: Denoiser, x0: Tensor) -> Tensor:
    """What the published network under a freshly adapted one says of rows, read from left to right: (B, L) to (B,).

    Nats per token, exact: the start of text predicts the first token, and position l - 1 the one at l. Raises
    ValueError for another network.
    """
    network = denoiser.backbone
    if not isinstance(network, Adapted) or network.config.start is None:
        raise ValueError("only a network that was published as an autoregressive model reads from left to right")
    with network.causally():
        hidden = denoiser.hidden(x0, torch.zeros(len(x0), device=x0.device))
    _, (loss,) = denoiser.head_loss(hidden, TokenTarget(x0.flatten()))
    return loss.view(x0.shape).mean(1)


def _mean(losses: Tensor, diffused: Tensor) -> Tensor:
    """The mean over the diffused tokens of each row, (B, L) to (B,)."""
    return losses.masked_fill(~diffused, 0.0).sum(1) / diffused.sum(1).clamp(min=1)


def nelbo_means(
    denoiser: Denoiser, batches: Sequence[Batch | Tensor], draws: int = 1, seed: int = 0, own: range | None = None
) -> Tensor:
    """The mean of `draws` draws of the bound for each row of `batches`, nats per token, (rows,).

    Standard errors and intervals come from the spread of the rows: it holds the noise of the draws, which more draws
    make smaller, and the differences between rows, which only more rows do. Draws of a row are as if independent. Of a
    batch that is a tensor (B, L) everything is scored, else its diffused positions. Where a batch says what is
    `counted`, a row's nats are of all that is diffused of it, per token that counts: of an answer, its end and the
    padding behind, per token of the answer and its end. That bounds -log p(answer and end) from above, since the
    padding follows from them.
    own: the batches to do, all by default. The numbers of the others are drawn too, so that rows do not change.
    """
    generator, rows = torch.Generator().manual_seed(seed), [torch.zeros(0)]
    for i, batch in enumerate(batches):
        x0, diffused, counted = (batch, None, None) if isinstance(batch, Tensor) else batch
        x0, diffused = x0.to(denoiser.device), None if diffused is None else diffused.to(denoiser.device)
        if own is not None and i not in own:
            for _ in range(draws):
                _draw(denoiser, x0, generator)
            continue
        drawn = [nelbo_rows(denoiser, x0, generator, diffused=diffused) for _ in range(draws)]
        mean = torch.stack(drawn).mean(0).cpu()
        if diffused is not None and counted is not None:
            mean *= diffused.sum(1).cpu() / counted.cpu()
        rows.append(mean)
    return torch.cat(rows)


def nelbo(
    denoiser: Denoiser, batches: Sequence[Batch | Tensor], seed: int = 0, draws: int = 1, bytes: Tensor | None = None
) -> dict[str, float]:
    """Mean and standard error of the bound over all rows of `batches`, nats per token, and its perplexity.

    bytes: (rows,), the bytes of text in each row (`mcd.data.token_bytes.row_bytes`), with which the bound is also given
    in bits per byte (`mcd.eval.bits_per_byte`).
    """
    rows = nelbo_means(denoiser, batches, draws, seed)
    mean = rows.mean().item()
    error = rows.std().item() / math.sqrt(len(rows)) if len(rows) > 1 else math.nan
    found = {"valid_nelbo": mean, "valid_nelbo_se": error, "valid_ppl": math.exp(min(mean, 700.0))}
    if bytes is not None:
        tokens = torch.cat([tokens_of(batch) for batch in batches])
        per_byte = bits_per_byte(rows.double() * tokens, bytes)
        found |= {} if per_byte is None else {"valid_bpb": per_byte}
    return found


def tokens_of(batch: Batch | Tensor) -> Tensor:
    """How many tokens the mean of each row of `nelbo_means` is over, (B,)."""
    x0, diffused, counted = (batch, None, None) if isinstance(batch, Tensor) else batch
    if counted is not None:
        return counted
    return torch.full((len(x0),), x0.shape[1]) if diffused is None else diffused.sum(1)


def likelihood_of(denoiser: Denoiser, text: Batch, draws: int, seed: int, bytes: Tensor | None) -> dict[str, Any]:
    """What a row of metrics.json holds of a model's likelihood of `text`; the processes of a job share its rows.

    The figures of `mcd.eval.bits_per_byte.figures`; `exact` says that they are of the likelihood itself and no bound,
    `counted` which tokens of instruction data are counted. bytes: (rows,), those of text in each row; None where they
    have no meaning.
    """
    exact, batches = denoiser.config.process == "autoregressive", text.split(BATCH)
    draws = 1 if exact else draws
    own = nelbo_means(denoiser, batches, draws, seed, share_of(len(batches)))
    means = torch.cat(everywhere(own))
    return {
        **figures(means, tokens_of(text), bytes, seed),
        "exact": exact,
        "rows": len(text.x0),
        "draws": draws,
        "counted": _counted(text),
    }


def _counted(text: Batch) -> str | None:
    """Which tokens the figures of instruction data are of, in words; None for text, of which all count."""
    if text.diffused is None or text.counted is None:
        return None
    if text.diffused.sum(1).equal(text.counted):
        return "answers with their first end of text, their length given"
    return "answers with their first end of text; nats of the padding behind are in it"
