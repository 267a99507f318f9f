"""NELBO: the continuous-time negative evidence lower bound of masked diffusion, which trains teachers.

Source: MDLM (arXiv 2406.07524), Eq. 10: E_t [ -alpha_dot_t / (1 - alpha_t) sum_i m_t^i (-log x_theta^i(x0^i)) ].
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.model.targets import TokenTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.options import Decay, Positive, Share
from mcd.process.draws import Draws
from mcd.process.masked import mask
from mcd.process.transfer import flat_rows


@dataclass(frozen=True)
class NELBO(Objective):
    """Weighted masked cross-entropy at stratified times.

    `terms` holds the plain cross-entropy of a masked token, which varies less than the weighted loss.
    The warm start helps small networks off the unigram plateau: during the first `warm_start` of training the weight
    is at most `warm_weight` and t stays below a ceiling that rises from `warm_t` to 1. Afterwards, and by default
    (warm_start = 0), the loss is the bound itself.
    """

    name: ClassVar[str] = "nelbo"
    distils: ClassVar[bool] = False

    t_min: Decay = 1e-3
    """Smallest time; the part of the bound below it is left out."""
    max_weight: Positive = math.inf
    """Largest weight of a time. The bound itself has no limit, but with the weight 1/t a few tokens of a small batch
    dominate the loss."""
    warm_start: Share = 0.0
    """Share of the run that is the warm start."""
    warm_t: Annotated[float, Gt(0), Le(1)] = 0.3
    """Upper limit of t at the beginning of the warm start."""
    warm_weight: Positive = 1.0
    """Largest weight in the warm start; 1 is the plain masked cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_min >= self.warm_t:
            raise ValueError(f"--t-min {self.t_min} --warm-t {self.warm_t}: the first must be below the second")

    def at_progress(self, progress: float) -> tuple[bool, float]:
        """Whether it is the warm start, and the ceiling of t."""
        warm = progress < self.warm_start
        return warm, self.warm_t + (1.0 - self.warm_t) * progress / self.warm_start if warm else 1.0

    def idle_options(self, rounds: int) -> dict[str, str]:
        warm = ("--warm-t", "--warm-weight")
        return dict.fromkeys(warm, "--warm-start 0 has no warm start") if self.warm_start == 0.0 else {}

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        L = x0.shape[1]
        warm, t_max = self.at_progress(clock.progress)
        t = draws.t(self.t_min, t_max)
        u = draws.u()
        schedule = student.config.schedule
        z_t = mask(x0, u, schedule.alpha(t)[:, None], student.mask_id)
        rows = flat_rows(z_t == student.mask_id)
        weight = schedule.nelbo_weight(t)
        weight = weight.clamp(max=min(self.max_weight, self.warm_weight) if warm else self.max_weight)
        target = TokenTarget(x0.flatten()[rows], weight[rows // L] / draws.divisor)
        total, (cross_entropy,) = student.head_loss(student.hidden(z_t, t, rows=rows), target)
        counts = {"tokens_masked": torch.tensor(rows.numel()), "tokens": torch.tensor(x0.numel())}
        return Loss(total, {"cross_entropy": cross_entropy.sum() / max(1, rows.numel())}, counts)
