"""The many-step sampler as a deterministic map from locked noise to text, and draws at some rows of a batch."""

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.categorical import Guide, sample_inverse_cdf
from mcd.process.timestep import descending_grid
from mcd.process.transfer import flat_rows, send


def drawn(model: Denoiser, hidden: Tensor, v: Tensor, top_p: float = 1.0, guide: Guide | None = None) -> Tensor:
    """Ids at features (n, D), by inverse CDF at v (n,) or (n, K) in float64; a few rows of logits at a time.

    top_p, guide: as of `temper`.
    """
    size = model.shapes.chunk_rows
    parts = zip(hidden.split(size), send(v, hidden.device).split(size), strict=True)
    return torch.cat([sample_inverse_cdf(model.logits(h), v_part, 1.0, top_p, guide) for h, v_part in parts])


def likeliest(model: Denoiser, hidden: Tensor) -> Tensor:
    """The likeliest ids (n,) at features (n, D); a few rows of logits at a time."""
    return torch.cat([model.logits(h).argmax(-1) for h in hidden.split(model.shapes.chunk_rows)])


@torch.no_grad()
def locked_trajectory(
    teacher: Denoiser, z: Tensor, u: Tensor, v: Tensor, steps: int, top_p: float = 1.0, guide: Guide | None = None
) -> tuple[Tensor, Tensor]:
    """What `steps` steps of a teacher make of rows z (B, L) with u, v (B, L): ids (B, L), and features (B L, D).

    For a plain teacher these are the tokens of `--sampler ancestral` with the same u, v, top_p and guide: token i is
    revealed in the step with alpha_t < u_i <= alpha_s and drawn at v_i. A teacher that is shown locked noise itself
    takes the likeliest tokens, as `--sampler locked --greedy`. The features of a token are those from which it was
    drawn, 0 where it is given. z, u, v: on the CPU; what is made of them is on the teacher's device.
    """
    times = descending_grid(steps)
    alpha = teacher.config.schedule.alpha(times)
    step = torch.searchsorted(alpha[1:-1], u.double())
    locked, still, device = teacher.locked, z == teacher.mask_id, teacher.device
    z = send(z, device)
    draft = z if locked is None else locked.first_drafts(v)
    features: Tensor | None = None
    for k, t in enumerate(times[:-1].tolist()):
        due = still & (step == k)
        if not due.any():
            continue
        rows = flat_rows(due if locked is None else still & due.any(dim=1, keepdim=True))
        noise = None if locked is None else teacher.noise(still, draft, u, v)
        hidden = teacher.hidden(z, torch.full((len(z),), t), noise, rows=rows)
        ids = drawn(teacher, hidden, v.flatten()[rows], top_p, guide) if locked is None else likeliest(teacher, hidden)
        at, still = send(rows, device), still & ~due
        draft = draft.flatten().index_copy(0, at, ids).view_as(z)
        z = torch.where(send(due, device), draft, z)
        features = hidden.new_zeros(z.numel(), hidden.shape[-1]) if features is None else features
        features[at] = hidden  # of drafts too, which later calls replace
    return z, torch.zeros(z.numel(), 1, device=device) if features is None else features
