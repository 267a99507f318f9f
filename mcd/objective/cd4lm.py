"""CD4LM (arXiv 2601.02236): discrete-space consistency distillation between two mask ratios of one row."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.model.targets import TeacherTarget, TokenTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.options import Decay, Positive, Share
from mcd.process.draws import Draws
from mcd.process.transfer import flat_rows


@dataclass(frozen=True)
class CD4LM(Objective):
    """The loss is taken on every token masked for the student and divided by B L:

        lambda T^2 KL(p_teacher(. | z_T; T) || p_student(. | z_S; T)) + (1 - lambda) CE(x0, p_student(. | z_S))

    z_S and z_T mask exact counts of one row, int(L r_S) and int(L r_T), in the order of one permutation, so the masks
    nest as in MCD; the gap is a ratio drawn per row, not a fixed delta. Both sides of the KL have temperature T, and
    T^2 keeps the size of its gradient. lambda stays at lambda_start for a while, then falls to lambda_end by a cosine.

    Where the teacher sees the token, its raw logits are used, without the certainty of SUBS. A loss on masked tokens
    only, such as MDLM's or LLaDA's, never trains them there, so a teacher trained from scratch may predict noise for
    tokens that it sees: region "both" leaves those tokens out of the KL.

    In a row of a question and its answer only the answer is masked, in counts of its own length. Two parts of the
    method are left out: other counts for answers below 20 tokens, and skipping batches with NaN. The teacher is frozen
    throughout, whatever the rounds. A model with a time input gets the t at which the share masked is expected.
    """

    name: ClassVar[str] = "cd4lm"
    distils: ClassVar[bool] = True
    snapshots: ClassVar[bool] = False

    student_min: Share = 0.4
    """Smallest share of a row that is masked for the student; drawn uniformly, per row."""
    student_max: Share = 0.9
    """Largest share masked for the student."""
    share_min: Share = 0.3
    """Smallest ratio of what is masked for the teacher to what is masked for the student. Each row draws its ratio
    evenly between this and --share-max. At 0.3, the teacher sees most of what the student has to guess: the smaller the
    ratio, the larger the leap that the student learns. The paper's range is 0.3 to 0.7."""
    share_max: Share = 0.7
    """Largest such ratio; at 1 the teacher sees no more than the student, so there is nothing to leap."""
    teacher_min: Share = 0.1
    """Lower limit of the teacher's masked share, which never exceeds the student's."""
    teacher_max: Share = 0.6
    """Upper limit of the teacher's masked share."""
    temperature: Positive = 2.0
    """Temperature T of the raw logits on both sides of the KL; the cross-entropy uses 1."""
    lambda_start: Share = 0.9
    """Weight of the KL at the beginning; the cross-entropy has one minus this weight."""
    lambda_end: Share = 0.5
    """Weight of the KL at the end."""
    lambda_hold: Decay = 0.1
    """Share of the run during which the weight stays at its first value."""
    region: Literal["student", "both"] = "student"
    """Where the KL is taken: wherever the student is masked (CD4LM), or where both are."""
    clamp: Positive | None = None
    """Upper limit of each of the two loss terms, in nats per token of a batch; the public code has 5. It keeps single
    bad batches from disturbing a run, but a term above the limit has no gradient, so nothing is learnt from such a
    batch. Leave it off unless the loss jumps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("student", "share", "teacher"):
            low, high = getattr(self, f"{part}_min"), getattr(self, f"{part}_max")
            if low > high:
                raise ValueError(f"--{part}-min {low} --{part}-max {high}: the first must not be above the second")

    def without_gap(self) -> Objective:
        """The same masks for both, and no cross-entropy."""
        gapless = {"share_min": 1.0, "share_max": 1.0, "teacher_min": 0.0, "teacher_max": 1.0}
        return replace(self, **gapless, lambda_start=1.0, lambda_end=1.0)

    def at_progress(self, progress: float) -> float:
        """lambda, the weight of the KL."""
        if progress < self.lambda_hold:
            return self.lambda_start
        phase = (progress - self.lambda_hold) / (1.0 - self.lambda_hold)
        return self.lambda_end + (self.lambda_start - self.lambda_end) * 0.5 * (1.0 + math.cos(math.pi * phase))

    def counts(self, a: Tensor, b: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """How many tokens of each row are masked for student and teacher: two int64 (B,), the second never larger.

        a, b: uniform on [0, 1), float64 (B,); length: how many tokens of the row are diffused, int64 (B,). The student
        has at least max(2, ceil(0.1 length)), or all of a shorter row. Equal ratios give equal counts.
        """
        ratio_s = self.student_min + (self.student_max - self.student_min) * a
        ratio_t = ratio_s * (self.share_min + (self.share_max - self.share_min) * b)
        ratio_t = ratio_t.clamp(self.teacher_min, self.teacher_max)
        least = torch.minimum(length, (0.1 * length.double()).ceil().long().clamp(min=2))
        count_s = torch.maximum((length * ratio_s).long(), least)
        count_t = torch.minimum((length * ratio_t).long(), count_s)
        return count_s, count_t.where(ratio_t < ratio_s, count_s)

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        assert teacher is not None
        length = torch.full_like(x0[:, 0], x0.shape[1]) if draws.diffused is None else draws.diffused.sum(1)
        count_s, count_t = self.counts(draws.uniform(), draws.uniform(), length)
        u = draws.u()
        place = u.masked_fill(u == 0.0, 2.0).argsort(dim=1).argsort(dim=1)  # in the permutation, a prompt's tokens last
        masked_s, masked_t = place < count_s[:, None], place < count_t[:, None]

        distilled = masked_s if self.region == "student" else masked_t
        rows_kl = flat_rows(distilled)
        rows = torch.cat((rows_kl, flat_rows(masked_s & ~distilled)))
        z_student = x0.masked_fill(masked_s, student.mask_id)
        hidden = student.hidden(z_student, _time_of(student, count_s, length), rows=rows)
        z_teacher = x0.masked_fill(masked_t, teacher.mask_id)
        with torch.no_grad():
            teacher_hidden = teacher.hidden(z_teacher, _time_of(teacher, count_t, length), rows=rows_kl)

        T, weight = self.temperature, self.at_progress(clock.progress)
        shares = weight / draws.divisor, (1.0 - weight) / draws.divisor
        kl = TeacherTarget(teacher, teacher_hidden, T, "forward", student_tau=T, weight=shares[0] * T * T)
        ce = TokenTarget(x0.flatten()[rows], shares[1])
        if self.clamp is None:
            total, (kl_rows, ce_rows) = student.head_loss(hidden, kl, ce)
            parts = shares[0] * T * T * kl_rows.sum(), shares[1] * ce_rows.sum()
        else:  # a term at its clamp has no gradient and the other may have one, so each is a loss of its own
            parts = tuple(
                student.head_loss(hidden, target).total.clamp(max=self.clamp * len(target) * share)
                for target, share in zip((kl, ce), shares, strict=True)
            )
            total = parts[0] + parts[1]
        counts = {  # regimes, as of MCD; with region "student" the KL is on the revealed tokens too
            "tokens_distilled": masked_t.sum(),
            "tokens_revealed": (masked_s & ~masked_t).sum(),
            "tokens_visible": (~masked_s).sum(),
        }
        terms = {"distillation": parts[0].detach(), "reconstruction": parts[1].detach()}
        return Loss(total, terms, counts)


def _time_of(model: Denoiser, masked: Tensor, length: Tensor) -> Tensor:
    """The t at which that many of the (B,) tokens diffused in a row are expected to be masked, float32 (B,)."""
    return model.config.schedule.t_of_alpha(1.0 - masked / length.clamp(min=1)).clamp(0.0, 1.0)
