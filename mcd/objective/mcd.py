"""MCD: Masked Consistency Distillation (paper, Section 3.3, Algorithm 1, Eq. 13 and Eq. 14).

It is consistency distillation (Eq. 4) for masks: the pair on one path comes from a shared u, not from an ODE solver.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.model.targets import RowsTarget, TeacherTarget, TokenTarget
from mcd.objective.base import Clock, Loss
from mcd.objective.rounds import CoolingTeacher
from mcd.options import Decay, NotNegative, Positive
from mcd.process.draws import Draws
from mcd.process.masked import coupled_pair
from mcd.process.transfer import flat_rows, send
from mcd.process.unmasking import ORDERS


@dataclass(frozen=True)
class MCD(CoolingTeacher):
    """The hybrid consistency objective (paper, Eq. 14), divided by B L:

        L = sum_i m_s^i KL(p_theta(. | z_t) || p_teacher(. | z_s; tau)) + (m_t^i - m_s^i) CE(x0^i, p_theta(. | z_t))

    with one u a token shared by both states, t ~ U(delta, 1] stratified, s = t - delta. In round r (from 0)
    delta = delta0 * delta_growth^r and tau = tau0 - tau_step * r, never below tau_min; tau divides the teacher's raw
    logits. Defaults are the paper's, meant for L = 1024 and 50,000 steps.

    kl "reverse" is Eq. 14 as printed, "forward" the mean-seeking one. region "student" puts the KL wherever the student
    is masked; where the teacher sees the token its prediction is certain under SUBS, so "reverse" then diverges (the
    paper's failed row of Table 2: the teacher's zeros are taken as -1e6, as in the public code) and "forward" is CE.
    coupling "independent" breaks the trajectory.
    """

    name: ClassVar[str] = "mcd"
    distils: ClassVar[bool] = True

    delta0: Decay = 1 / 512
    """Time gap t - s of the first round: how far ahead of the student the teacher looks. A gap of delta shows the
    teacher delta times the length of a row in further tokens, on average. Begin with about 2 tokens: 1/512 at length
    1,024 (the paper), 1/64 at length 128. With 0 the teacher sees what the student sees, so that only its temperature
    is learnt (tau-only)."""
    tau0: Positive = 0.96
    """Teacher's temperature in the first round."""
    tau_step: float = 0.03
    """Decrease of the temperature per round."""
    kl: Literal["reverse", "forward"] = "reverse"
    """Direction: reverse is KL(student || teacher), the paper's."""
    ce_weight: NotNegative = 1.0
    """Factor of the reconstruction term."""
    region: Literal["both", "student"] = "both"
    """Where the KL is taken: where both are masked (the paper), or wherever the student is."""
    coupling: Literal["shared", "independent"] = "shared"
    """How the two states of a row are related. shared (the paper): one random number per token decides in both states
    whether it is hidden, so the teacher sees all that the student sees, and a little more. independent: the teacher's
    state is drawn by itself, so it may hide what the student sees; this is an ablation, which shows why the pair must
    lie on one path."""
    order: str = "iid"
    """Joint distribution of the u of a row (see --order of `mcd sample`); iid is the paper's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ValueError(f"--order {self.order}: known are {', '.join(ORDERS)}")

    def nothing_to_learn(self, rounds: int) -> str | None:
        """As without a gap in general; but independent states differ also then."""
        return super().nothing_to_learn(rounds) if self.coupling == "shared" else None

    def idle_options(self, rounds: int) -> dict[str, str]:
        idle = super().idle_options(rounds)
        if self.delta0 == 0.0 and self.coupling == "shared":
            idle |= dict.fromkeys(("--region", "--ce-weight"), "with --delta0 0 no token is revealed")
        return idle

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        """The two terms of the class, at stratified times; see `Objective.loss`."""
        assert teacher is not None
        delta, tau = self.delta(clock.round), self.tau(clock.round)
        t = draws.t(delta, 1.0)
        s = (t - delta).clamp(min=0.0)
        u = draws.u(self.order)
        u_s = draws.u(self.order) if self.coupling == "independent" else None
        pair = coupled_pair(x0, u, t, s, student.config.schedule, student.mask_id, u_s)

        distilled = pair.masked_t & pair.masked_s
        revealed = pair.revealed
        rows_kl, rows_ce = flat_rows(distilled), flat_rows(revealed)
        hidden = student.hidden(pair.z_t, t, rows=torch.cat((rows_kl, rows_ce)))
        with torch.no_grad():
            teacher_hidden = teacher.hidden(pair.z_s, s, rows=rows_kl)
        x0_revealed = send(x0.flatten()[rows_ce], student.device)
        share, first = 1.0 / draws.divisor, len(rows_kl)
        targets = [
            TeacherTarget(teacher, teacher_hidden, tau, self.kl, weight=share),
            TokenTarget(x0_revealed, self.ce_weight * share, first),
        ]
        if self.region == "student":
            targets.append(RowsTarget(lambda p, n: self._kl_to_certain(p, x0_revealed[n]), len(rows_ce), share, first))
        total, (kl, ce, *certain) = student.head_loss(hidden, *targets)

        terms = {
            "distillation": share * (kl.sum() + sum(c.sum() for c in certain)),
            "reconstruction": self.ce_weight * share * ce.sum(),
        }
        counts = {  # regimes; with region "student" the KL is on the revealed tokens too
            "tokens_distilled": distilled.sum(),
            "tokens_revealed": revealed.sum(),
            "tokens_visible": (~pair.masked_t).sum(),
        }
        return Loss(total, terms, counts)

    def _kl_to_certain(self, log_p: Tensor, x0: Tensor) -> Tensor:
        """KL between the student's (n, V) and a teacher that is certain of x0 (n,), its other log-probs -1e6: (n,)."""
        log_p_x0 = log_p.gather(-1, x0[:, None])[:, 0]
        if self.kl == "forward":
            return -log_p_x0
        negative_entropy = (log_p.exp() * log_p).sum(-1)
        return negative_entropy + 1e6 * (1.0 - log_p_x0.exp())
