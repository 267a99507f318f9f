"""SDTT: Self-Distillation Through Time (arXiv 2410.21035): one student step is to do what k sampled teacher steps do.

MCD takes the state that the teacher sees from the data; SDTT has the teacher sample it.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.model.targets import TeacherTarget
from mcd.objective.base import Clock, Loss
from mcd.objective.rounds import WideningGap
from mcd.objective.trajectory import drawn
from mcd.options import Count, Decay, Positive
from mcd.process.draws import Draws
from mcd.process.masked import mask, reveal_probability
from mcd.process.schedule import Schedule
from mcd.process.transfer import flat_rows, send


@dataclass(frozen=True)
class SDTT(WideningGap):
    """At every token that is masked in z_t, match the teacher's prediction from the step that reveals it.

    From z_t, t ~ U(0, 1], the teacher takes k ancestral steps t -> t - delta -> ... (never below 0), its draws by
    inverse CDF in float64. A token's target is the teacher's prediction in the step that reveals it, and that of the
    last step if it is masked until then. In round r (from 0) delta = delta0 * delta_growth^r. The last prediction thus
    looks (k - 1) delta ahead: with k = 2, SDTT and MCD look equally far at the same delta0. The defaults are SDTT's,
    for L = 1024; its rounds of k = 2 start at 1/1024, MCD's at 1/512.

    What k steps give depends on the first k - 1 reveals only, so the k-th draws nothing. A pass of the teacher makes
    vocabulary rows for the tokens it reveals, the last one for those still masked. The u that masked a token also says
    in which step it is revealed.
    """

    name: ClassVar[str] = "sdtt"
    distils: ClassVar[bool] = True

    delta0: Decay = 1 / 1024
    """Size of one time step of the teacher in the first round. The student learns to do k such steps at once, and its
    targets look up to k - 1 of them ahead. Begin with one or two tokens of a row: 1/1024 at length 1,024 (the paper),
    1/64 at length 128."""
    delta_growth: Annotated[float, Ge(1)] = 2.0
    """Factor of the step from round to round; the public code takes k."""
    k: Count = 2
    """Teacher steps that one student step must match; also the teacher's forward passes per update."""
    divergence: Literal["reverse", "forward", "mse", "tv"] = "reverse"
    """reverse: KL(student || teacher), the paper's; forward: KL(teacher || student); mse: squared difference of
    log-probs, averaged over the V tokens (the public code averages over V + 1 columns, including the mask's); tv:
    total variation, half the sum of |p - q| (the public code's tvd sums |log p - log q| instead)."""
    reduction: Literal["positions", "masked"] = "positions"
    """Divide the sum by all B L positions, like the other methods here, or by the number of masked tokens, like
    SDTT's own code."""
    time_grid: Literal["correct", "public"] = "correct"
    """At which times the teacher takes its k steps. correct: at t, t - delta and so on, as the paper says. public: at
    the times of the paper's code, which begins at t + (1 - t)(t - k delta), so that its first step reveals about
    delta / (t (2 - t)) of the masked tokens instead of delta / t. Use public only to repeat results of that code."""
    tau0: Positive = 1.0
    """Temperature of the targets, in all rounds, for ablations: SDTT has none. The teacher's own draws stay at 1."""

    def nothing_to_learn(self, rounds: int) -> str | None:
        """A teacher that looks ahead by nothing, at temperature 1, predicts what its copy predicts."""
        if self.tau0 != 1.0 or (self.k - 1) * self.delta0 > 0.0:
            return None
        option = "--k 1" if self.k == 1 else "--delta0 0"
        return f"{option}: a teacher that does not look ahead teaches nothing at --tau0 1; give --k 2 and a --delta0"

    def idle_options(self, rounds: int) -> dict[str, str]:
        """Further the gap, where one step of the teacher is one of the student and nothing is looked ahead."""
        alone = dict.fromkeys(("--delta0", "--delta-growth"), "--k 1 does not look ahead")
        return super().idle_options(rounds) | (alone if self.k == 1 and self.time_grid == "correct" else {})

    def schedule_of_round(self, round: int) -> dict[str, Any]:
        """One teacher step, how far k of them look ahead, and the temperature of a round."""
        delta = self.delta(round)
        return {"delta": delta, "look_ahead": min(1.0, (self.k - 1) * delta), "tau": self.tau0}

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        """The divergence from the targets, at the tokens masked for the student; see `Objective.loss`."""
        assert teacher is not None
        t = draws.t(0.0, 1.0)
        u = draws.u()
        v = draws.uniform(x0.shape[1])
        schedule = student.config.schedule
        z_t = mask(x0, u, schedule.alpha(t)[:, None], student.mask_id)
        grid = self._grid(t, self.delta(clock.round), schedule)
        with torch.no_grad():
            passes = _teacher_passes(teacher, z_t, grid, u, v)

        rows = torch.cat([rows for rows, _ in passes])
        predicted = torch.cat([hidden for _, hidden in passes])
        share = 1.0 / (draws.divisor if self.reduction == "positions" else max(1, len(rows)))
        target = TeacherTarget(teacher, predicted, self.tau0, self.divergence, weight=share)
        total = student.head_loss(student.hidden(z_t, t, rows=rows), target).total
        counts = {
            "tokens_distilled": torch.tensor(len(rows)),
            "tokens_revealed_by_teacher": torch.tensor(len(rows) - len(passes[-1][0])),
            "tokens_visible": torch.tensor(x0.numel() - len(rows)),
        }
        return Loss(total, {"distillation": total.detach()}, counts)

    def _grid(self, t: Tensor, delta: float, schedule: Schedule) -> list[tuple[Tensor, Tensor]]:
        """For each teacher step its time, (B,), and the level (B,): masked tokens with u <= it are revealed.

        A level is alpha at the step's end, as far as the grid is correct. In general the step reveals with probability
        rho = reveal_probability, and u of a masked token is uniform on (level, 1]: the level gains (1 - level) rho.
        """
        if self.time_grid == "correct":
            times = [(t - i * delta).clamp(min=0.0) for i in range(self.k + 1)]
            return [(time, schedule.alpha(s)) for time, s in pairwise(times)]
        grid, level = [], schedule.alpha(t)
        for share in torch.linspace(1, 0, self.k).tolist():
            # the code has 1 - t where 1 - share was meant.
            time = (share * t + (1.0 - t) * (t - self.k * delta)).clamp(min=1e-5)
            s = (time - delta).clamp(min=0.0)
            rho = reveal_probability(schedule.alpha(time), schedule.alpha(s))
            level = level + (1.0 - level) * rho
            grid.append((time, level))
        return grid


def _teacher_passes(
    teacher: Denoiser, z: Tensor, grid: list[tuple[Tensor, Tensor]], u: Tensor, v: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """(rows, hidden) of each pass over z (B, L): flat positions (n,) with their target in it, and the features (n, D).

    Earlier passes: the tokens revealed, drawn at v (B, L) for the passes to come; none if nothing is revealed. Last
    pass: all that is masked still. The rows of all passes together are the masked tokens of z, each once, on the CPU.
    """
    passes, masked, z = [], z == teacher.mask_id, send(z, teacher.device)
    for time, level in grid[:-1]:
        revealed = masked & (u <= level[:, None])
        rows = flat_rows(revealed)
        if not len(rows):
            continue
        hidden = teacher.hidden(z, time, rows=rows)
        ids = drawn(teacher, hidden, v.flatten()[rows])
        z = z.flatten().index_copy(0, send(rows, z.device), ids).view_as(z)
        masked = masked & ~revealed
        passes.append((rows, hidden))
    rows = flat_rows(masked)
    passes.append((rows, teacher.hidden(z, grid[-1][0], rows=rows)))
    return passes
