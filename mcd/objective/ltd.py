"""LTD: locked trajectory distillation, a method of this project. The student sees the noise, and learns what it makes.

A factorised prediction of several tokens cannot make them agree with each other: without the noise that will draw them,
the best student of one step predicts the marginals. But a sampler whose u and v are locked is a deterministic map from
noise to text, and a student that sees u and v can learn the map itself: the tokens of one call then agree, because they
are parts of one text. Nearest to it are consistency LLMs (arXiv 2403.00835), which learn the fixed points of parallel
decoding from text; Gumbel Distillation, whose student sees the Gumbel noise of an autoregressive teacher; Di4C (arXiv
2410.08709), which mixes over a latent variable; and IMDM, which keeps continuous noise at masked tokens.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from mcd.errors import UsageError
from mcd.model.denoiser import Denoiser, Process
from mcd.model.locked import Shown, shows_drafts
from mcd.model.prior import prior
from mcd.model.targets import TeacherTarget, TokenTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.objective.trajectory import likeliest, locked_trajectory
from mcd.options import Count, Guidance, Share
from mcd.process.categorical import Guide
from mcd.process.draws import Draws
from mcd.process.transfer import flat_rows, send
from mcd.process.unmasking import ORDERS


@dataclass(frozen=True)
class LTD(Objective):
    """Cross-entropy of the student, which sees u, v and drafts, at the tokens that the teacher makes of u and v.

    For each row the teacher takes `trajectory_steps` sampler steps from noise, with u in `order` and v uniform, which
    gives the text x; the data give only what is not to be learnt, such as a question. The student then sees `pairs`
    states of this row. Each is one from t to s on the grid of N steps, with N from `student_steps` and a random step:
    the tokens with u <= alpha_t are visible, and the loss is at those with alpha_t < u <= alpha_s:

        L = 1 / (pairs B L) sum_pairs sum_i (m_t^i - m_s^i) CE(x^i, p_theta(. | z_t, u, v, drafts))

    The drafts are those of the prior at v, and with probability `redraft` those that the student itself, from these,
    predicts at the state one step before, as in drawing (self-conditioning, arXiv 2208.04202). With the target
    "distribution" the loss is KL(teacher || student), where the teacher's prediction is the one x^i was drawn from.

    Cost: a teacher forward for each of `trajectory_steps`, and for each pair a student step (3 forwards) and now and
    then a forward for drafts; `--dry-run` gives the sum as `forwards`, per row of --batch-size. The activations are
    those of pairs x batch-size rows. A teacher that is such a student itself makes trajectories in its own few steps.
    It stays as it is, whatever the rounds.
    """

    name: ClassVar[str] = "ltd"
    distils: ClassVar[bool] = True
    process: ClassVar[Process] = "locked"
    snapshots: ClassVar[bool] = False

    trajectory_steps: Annotated[int, Ge(1), Le(1_000_000)] = 32
    """Steps of the teacher for a trajectory."""
    order: str = "low-discrepancy"
    """Joint distribution of the u of a row (see --order of `mcd sample`). Draw with the same."""
    teacher_top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Nucleus from which the teacher draws (see --top-p of `mcd sample`). The student then needs none."""
    teacher_guidance: Guidance = 0.0
    """Guidance with which the teacher draws (see --guidance of `mcd sample`). The student then needs none."""
    student_steps: tuple[Count, ...] = (1, 2, 4, 8)
    """Numbers of steps that the student is trained for, equally often."""
    pairs: Count = 8
    """States of each trajectory that the student learns from; making the trajectory is the expensive part."""
    redraft: Share = 0.5
    """Probability that drafts come from the student's prediction one step before."""
    target: Literal["token", "distribution"] = "token"
    """What a prediction is compared with: the teacher's token, or the distribution that it was drawn from."""
    region: Literal["revealed", "masked"] = "revealed"
    """Where the loss is taken: at what the step reveals, or wherever the student is masked."""
    shown: tuple[Shown, ...] = ("draft", "word", "when")
    """What the student is shown at masked tokens: draft (the token that it would become now, as a row of a table), word
    (the same token, as a learnt linear map of its embedding), when (u), value (v)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ValueError(f"--order {self.order}: known are {', '.join(ORDERS)}")
        if self.target == "distribution" and (self.teacher_top_p < 1.0 or self.teacher_guidance):
            raise ValueError(
                "--target distribution: compares with the teacher's plain distribution; leave out --teacher-top-p and "
                "--teacher-guidance, or give --target token"
            )
        if not self.student_steps:
            raise ValueError("--student-steps: name at least one number")
        if not self.shown:
            raise ValueError("--shown: name at least one thing")

    @classmethod
    def takes(cls, process: Process) -> bool:
        """A plain teacher, or a student of this method."""
        return process in ("masked", "locked")

    def check(self, student: Denoiser) -> None:
        """Raise UsageError for a student that is shown something else already."""
        if student.locked is None:
            return
        if student.config.locked != self.shown:
            raise UsageError(f"--shown {' '.join(self.shown)}: the teacher is shown {' '.join(student.config.locked)}")
        given = {"--teacher-top-p": self.teacher_top_p < 1.0, "--teacher-guidance": self.teacher_guidance > 0.0}
        for option in (option for option, asked in given.items() if asked):
            raise UsageError(f"{option}: does nothing here: such a teacher takes the likeliest tokens; leave it out")

    def equip(self, student: Denoiser, length: int) -> None:
        """Show a plain student its noise."""
        if student.locked is None:
            student.add_locked(self.shown, prior(student, length))

    def schedule_of_round(self, round: int) -> dict[str, Any]:
        """What a row of the batch costs, in forwards of the network."""
        later = sum((N - 1) / N for N in self.student_steps) / len(self.student_steps)
        redrafts = self.redraft * later if shows_drafts(self.shown) else 0.0
        return {"forwards": self.trajectory_steps + self.pairs * (3.0 + redrafts)}

    def idle_options(self, rounds: int) -> dict[str, str]:
        if not shows_drafts(self.shown):
            return {"--redraft": "--shown has no draft"}
        return {"--redraft": "the first step has no step before"} if set(self.student_steps) == {1} else {}

    def without_gap(self) -> Objective:
        """The teacher's own states as the student's, and its own predictions as targets."""
        same = (self.trajectory_steps,)
        plain: dict[str, Any] = {"teacher_top_p": 1.0, "teacher_guidance": 0.0}
        return replace(self, student_steps=same, target="distribution", region="revealed", redraft=0.0, **plain)

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        """The loss of the class; see `Objective.loss`."""
        assert teacher is not None and student.locked is not None
        mask_id, alpha, L, K = student.mask_id, student.config.schedule.alpha, x0.shape[1], self.pairs
        u, v = draws.u(self.order), draws.uniform(L)
        guide = Guide(self._prior(student, teacher, L), self.teacher_guidance) if self.teacher_guidance else None
        x, features = locked_trajectory(
            teacher,
            x0.masked_fill(u > 0.0, mask_id),
            u,
            v,
            self.trajectory_steps,
            self.teacher_top_p,
            guide,
        )
        j, N = self._steps_of(draws.uniform(K))
        again = (draws.uniform(K) < self.redraft) & (j > 0)

        j, N, again = (a.flatten() for a in (j, N, again))
        x, u, v = (a.repeat_interleave(K, dim=0) for a in (x, u, v))
        draft = student.locked.first_drafts(v)
        if shows_drafts(self.shown) and self.redraft and max(self.student_steps) > 1:
            asked = again.clone()
            asked[0] |= not again.any()  # so that all processes make the same calls
            of = flat_rows(asked)
            at = send(of, x.device)
            made = self._redrafted(student, x[at], u[of], v[of], j[of], N[of], draft[at])
            draft[send(flat_rows(again), x.device)] = made[send(flat_rows(again[asked]), x.device)]
        t, s = 1.0 - j / N, 1.0 - (j + 1) / N
        masked = _masked(u, alpha(t), j)
        revealed = masked & ((u <= alpha(s)[:, None]) | (j + 1 == N)[:, None])
        noise = student.noise(masked, draft, u, v)
        rows = flat_rows(revealed if self.region == "revealed" else masked)
        z_t, at = x.masked_fill(send(masked, x.device), mask_id), send(rows, x.device)
        hidden = student.hidden(z_t, t.float(), noise, rows=at)
        weight = 1.0 / (draws.divisor * K)
        if self.target == "token":
            target = TokenTarget(x.flatten()[at], weight)
        else:
            of_teacher = features[at // (K * L) * L + at % L]
            target = TeacherTarget(teacher, of_teacher, direction="forward", weight=weight)
        total = student.head_loss(hidden, target).total
        counts = {"tokens_distilled": torch.tensor(len(rows)), "tokens_visible": (~masked).sum()}
        return Loss(total, {"distillation": total.detach()}, counts)

    def _prior(self, student: Denoiser, teacher: Denoiser, length: int) -> Tensor:
        """What the teacher predicts where it sees nothing, (V,) float64.

        The student carries it, since it began as the teacher; so sharded weights need no further call. An exact teacher
        has no weights, and its student began as another model.
        """
        assert student.locked is not None
        exact = next(teacher.parameters(), None) is None
        return prior(teacher, length) if exact else student.locked.prior.double()

    def _steps_of(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Step j of N steps for each of (b, K) numbers in [0, 1), float64 each; a row's K are stratified."""
        K = uniform.shape[1]
        place = (torch.arange(K, device=uniform.device) + uniform) / K * len(self.student_steps)
        which = place.long().clamp(max=len(self.student_steps) - 1)
        N = torch.tensor(self.student_steps, dtype=torch.float64, device=uniform.device)[which]
        return torch.minimum(((place - which) * N).floor(), N - 1), N

    def _redrafted(
        self, student: Denoiser, x: Tensor, u: Tensor, v: Tensor, j: Tensor, N: Tensor, draft: Tensor
    ) -> Tensor:
        """Drafts (n, L) for step j from the student's prediction at step j - 1, whose own drafts are given."""
        assert student.locked is not None
        before = (j - 1).clamp(min=0)
        t = 1.0 - before / N
        masked = _masked(u, student.config.schedule.alpha(t), before)
        rows = flat_rows(masked)
        with torch.no_grad():
            noise = student.noise(masked, draft, u, v)
            z_t, at = x.masked_fill(send(masked, x.device), student.mask_id), send(rows, x.device)
            hidden = student.hidden(z_t, t.float(), noise, rows=at)
            return draft.flatten().index_copy(0, at, likeliest(student, hidden)).view_as(draft)


def _masked(u: Tensor, alpha_t: Tensor, j: Tensor) -> Tensor:
    """What is masked before step j, (n, L): all that is to be learnt before the first, which begins at pure noise."""
    return (u > 0.0) & ((u > alpha_t[:, None]) | (j == 0)[:, None])
