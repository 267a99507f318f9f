"""AR: next-token cross-entropy of a causal network, the baseline that MDLM and Duo report next to diffusion.

Source: MDLM (arXiv 2406.07524), Section 5.1, the "AR" rows: the same transformer, causal, and exact likelihood.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.model.targets import TokenTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.process.draws import Draws
from mcd.process.transfer import flat_rows


@dataclass(frozen=True)
class AR(Objective):
    """Mean of -log p(x_i | x_1 ... x_(i-1)) over all tokens, the first given the start of text; nothing is drawn."""

    name: ClassVar[str] = "ar"
    distils: ClassVar[bool] = False
    process: ClassVar[Process] = "autoregressive"

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        B = len(x0)
        start = torch.full_like(x0[:, :1], student.mask_id)
        t = torch.zeros(B, device=x0.device)
        rows = None if draws.diffused is None else flat_rows(draws.diffused)
        hidden = student.hidden(torch.cat((start, x0[:, :-1]), dim=1), t, rows=rows)
        ids = x0.flatten() if rows is None else x0.flatten()[rows]
        cross_entropy = student.head_loss(hidden, TokenTarget(ids, 1.0 / draws.divisor)).total
        counts = {"tokens": torch.tensor(len(ids))}
        return Loss(cross_entropy, {"cross_entropy": cross_entropy.detach()}, counts)
