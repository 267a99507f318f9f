"""DCD: Discrete Consistency Distillation of uniform-state models (Duo (arXiv 2506.10892), Algorithm 1)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.model.targets import TeacherTarget
from mcd.objective.base import Clock, Loss
from mcd.objective.rounds import CoolingTeacher
from mcd.options import Positive
from mcd.process.draws import Draws
from mcd.process.transfer import flat_rows
from mcd.process.uniform import coupled_pair_uniform


@dataclass(frozen=True)
class DuoDCD(CoolingTeacher):
    """KL(student(. | z_t) || teacher(. | z_s)) at all positions alike, divided by B L; z_t, z_s share one latent noise.

    t ~ U(delta, 1] stratified, s = t - delta, and in round r (from 0) delta = delta0 * delta_growth^r. The shared noise
    is one uniform and one rival a token (`process.uniform.coupled_pair_uniform`), the exact law of the public code's
    Gaussian latent. Times are the model's own; the public code steps in gamma, linear on [-4, -1], and clips t + delta
    at 1. Its teacher has no temperature; tau = tau0 - tau_step * r, never below tau_min, serves an ablation: does a
    cooled teacher explain the gain of masks?
    """

    name: ClassVar[str] = "duo-dcd"
    distils: ClassVar[bool] = True
    process: ClassVar[Process] = "uniform"

    kl: Literal["reverse", "forward"] = "reverse"
    """Direction: reverse is KL(student || teacher), Duo's."""
    tau0: Positive = 1.0
    """Teacher's temperature in the first round; 1 is Duo."""

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        """The KL of the class, at stratified times; see `Objective.loss`."""
        assert teacher is not None
        K, delta = student.config.vocab_size, self.delta(clock.round)
        t = draws.t(delta, 1.0)
        s = (t - delta).clamp(min=0.0)
        u, rival = draws.u(), draws.rival(x0, K)
        pair = coupled_pair_uniform(x0, u, rival, t, s, student.config.schedule, K)
        rows = None if draws.diffused is None else flat_rows(draws.diffused)
        with torch.no_grad():
            hidden = teacher.hidden(pair.z_s, s, rows=rows)
        target = TeacherTarget(teacher, hidden, self.tau(clock.round), self.kl, weight=1.0 / draws.divisor)
        total = student.head_loss(student.hidden(pair.z_t, t, rows=rows), target).total
        counts = {
            "tokens_kept": (~pair.corrupted_t).sum(),
            "tokens_corrupted": pair.corrupted_s.sum(),
            "tokens_restored": pair.restored.sum(),
        }
        return Loss(total, {"distillation": total.detach()}, counts)
