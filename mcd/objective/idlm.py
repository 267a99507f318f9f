"""IDLM: inverse distillation (arXiv 2602.19066), whose gradient is that of distribution matching (DMD) for masks.

The teacher is the optimum of a denoising loss on data. A student whose texts have the same optimum has the same texts:
so a second network, the "fake", is trained to denoise what the student draws, and the student learns where the fake and
the teacher differ. D-MMD (arXiv 2603.20155) noises what the student draws in another way.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.model.targets import ContrastTarget, TeacherTarget, TokenTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.objective.trajectory import drawn
from mcd.options import Count, Decay, Positive
from mcd.process.draws import Draws
from mcd.process.schedule import Schedule
from mcd.process.transfer import flat_rows, send
from mcd.process.unmasking import ORDERS


@dataclass(frozen=True)
class IDLM(Objective):
    """The student against a fake network that learns from what the student draws, in turns.

    For each row: z_t = mask(x0), p = p_student(. | z_t), x drawn from p where z_t is masked, and z_r = mask(x) at a new
    time r. With w = -alpha_dot_r / (1 - alpha_r), which is 1/r, and m the masked positions, all divided by B L:

        fake turn:    w sum_i m_t^i m_r^i KL(p^i || fake^i(. | z_r)) + (1 - m_t^i) m_r^i CE(x^i, fake^i(. | z_r))
        student turn: w sum_i m_t^i m_r^i sum_c p_c^i (log fake_c^i - log teacher_c^i)(. | z_r)

    In the student's turn the gradient is that of p alone: neither the fake nor the draw of z_r has one. Its loss is 0
    for a fake that equals the teacher, it may be negative, and it says nothing of quality: choose a student by
    `mcd frontier`. The fake begins as a copy of the student. The teacher stays as it is, whatever the rounds.

    Cost in forwards for each row of a batch: 4 in a fake turn (student 1, fake 3) and 5 in a student turn (student 3,
    fake 1, teacher 1); `--dry-run` gives the mean of a step as `forwards`. Memory: three networks and two optimisers.
    """

    name: ClassVar[str] = "idlm"
    distils: ClassVar[bool] = True
    snapshots: ClassVar[bool] = False

    fake_turns: Count = 1
    """Turns of the fake before each turn of the student; each turn is a step of the run."""
    renoise: Literal["fresh", "posterior"] = "fresh"
    """How what the student draws is masked again. fresh (IDLM): all of the row, at a time r and at random. posterior
    (D-MMD): as a sampler would go on, so that what the student saw stays visible, and of the masked tokens of z_t each
    is masked still with probability (1 - alpha_r) / (1 - alpha_t), for a time r below t."""
    times: Literal["public", "independent"] = "public"
    """With --renoise fresh: how r goes with t. public: both are from the same stratum of (0, 1], as in the public code
    (where it seems to be by chance), so that r is within 1/batch-size of t. independent: r knows nothing of t."""
    calls: Count = 4
    """With --renoise posterior: how many calls the student is trained for. r is uniform on the last 1/calls below t, as
    in moment matching (arXiv 2406.04103); 1 is all below t."""
    t_min: Decay = 1e-3
    """Smallest time, of both."""
    max_weight: Positive = math.inf
    """Largest weight w. IDLM has no limit, but with 1/r a few tokens of a small batch dominate the loss."""
    order: str = "iid"
    """Joint distribution of the u of a row (see --order of `mcd sample`). Draw with the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ValueError(f"--order {self.order}: known are {', '.join(ORDERS)}")

    @property
    def turns(self) -> tuple[str, ...]:
        """The fake's, then the student's."""
        return *(("fake",) * self.fake_turns), "student"

    def idle_options(self, rounds: int) -> dict[str, str]:
        if self.renoise == "fresh":
            return {"--calls": "it belongs to --renoise posterior"}
        return {"--times": "it belongs to --renoise fresh"}

    def schedule_of_round(self, round: int) -> dict[str, Any]:
        """What a row of the batch costs in a step, on average over the turns, in forwards of the network."""
        return {"forwards": (4.0 * self.fake_turns + 5.0) / (self.fake_turns + 1)}

    def loss(
        self,
        student: Denoiser,
        teacher: Denoiser | None,
        x0: Tensor,
        clock: Clock,
        draws: Draws,
        fake: Denoiser | None = None,
    ) -> Loss:
        """The loss of whose turn it is; see `Objective.loss`. fake: the auxiliary network."""
        assert teacher is not None and fake is not None
        schedule, mask_id, L = student.config.schedule, student.mask_id, x0.shape[1]
        t, r, masked_t, masked_r = self._masks(draws, schedule)
        both = flat_rows(masked_t & masked_r)
        rows = torch.cat((both, flat_rows(masked_t & ~masked_r)))
        hidden = student.hidden(x0.masked_fill(masked_t, mask_id), t, rows=rows)
        with torch.no_grad():
            ids = drawn(student, hidden, draws.uniform(L).flatten()[rows])
        x = send(x0, ids.device).flatten().index_copy(0, send(rows, ids.device), ids).view_as(x0)
        z_r = x.masked_fill(send(masked_r, ids.device), mask_id)
        weight = schedule.nelbo_weight(r).clamp(max=self.max_weight) / draws.divisor

        if self.turn(clock.step)[0] == "fake":
            given = flat_rows(~masked_t & masked_r)
            places = torch.cat((both, given))
            w, n = send(weight[places // L], ids.device), len(both)
            total, (kl, ce) = fake.head_loss(
                fake.hidden(z_r, r, rows=places),
                TeacherTarget(student, hidden[:n], direction="forward", weight=w[:n]),
                TokenTarget(x0.flatten()[given], weight=w[n:], first=n),
            )
            terms = {"fake_divergence": (w[:n] * kl).sum(), "fake_cross_entropy": (w[n:] * ce).sum()}
            return Loss(total, terms, {"tokens_drawn": torch.tensor(n), "tokens_given": torch.tensor(len(given))})

        with torch.no_grad():
            of_fake, of_teacher = (model.hidden(z_r, r, rows=both) for model in (fake, teacher))
        target = ContrastTarget(fake, of_fake, teacher, of_teacher, weight=weight[both // L])
        total = student.head_loss(hidden, target).total
        counts = {"tokens_distilled": torch.tensor(len(both)), "tokens_visible": (~masked_t).sum()}
        return Loss(total, {"distillation": total.detach()}, counts)

    def _masks(self, draws: Draws, schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t and r (b,), and what is masked at t, and at r after the draw (b, L)."""
        t, u = draws.t(self.t_min, 1.0), draws.u(self.order)
        if self.renoise == "fresh":
            r, u_r = draws.t(self.t_min, 1.0, shuffled=self.times == "independent"), draws.u(self.order)
        else:  # u of a masked token is uniform above alpha_t, so that u > alpha_r with the probability wanted
            lowest = (t - 1.0 / self.calls).clamp(min=self.t_min)
            r, u_r = lowest + (t - lowest) * draws.t(0.0, 1.0, shuffled=True), u
        return t, r, u > schedule.alpha(t)[:, None], u_r > schedule.alpha(r)[:, None]
