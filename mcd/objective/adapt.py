"""Masked diffusion for a network that was autoregressive, with an alignment to what it knew (`mcd adapt`).

Sources: DiffuLLaMA (arXiv 2410.17891), whose loss is masked cross-entropy weighted by 1 / t, with the shift kept;
REPR-ALIGN (of Open-dLLM), which holds the hidden states of all layers to those of the frozen causal network.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mcd.model.adapted.network import Adapted
from mcd.model.denoiser import Denoiser
from mcd.model.targets import TokenTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.options import Decay, NotNegative, Positive
from mcd.process.draws import Draws
from mcd.process.masked import mask
from mcd.process.schedule import Schedule
from mcd.process.transfer import flat_rows


@dataclass(frozen=True)
class Adapt(Objective):
    """Masked cross-entropy at stratified times t, and W times the alignment:

        mean:   sum_i m_t^i CE_i / (number of masked tokens of the batch)
        bound:  sum_i m_t^i min(1 / t, max_weight) CE_i / (B L)
        align:  W mean_{k, i} (1 - cos(h_k^i(z_t), g_k^i(x0)))

    with the student's hidden states h_k behind block k under full attention, and g_k those of the frozen autoregressive
    network, which reads the clean row under causal attention; the mean is over all blocks and all positions, the start
    of text among them. Without a limit, "bound" is the NELBO (MDLM, Eq. 10; 1 / t is the weight of a log-linear
    schedule). In "mean" a row with many masked tokens has more weight, as in BERT's loss.

    Equal to REPR-ALIGN: the cosine, all layers, the frozen causal network as the target, the shift. Different: the
    states are those behind the blocks, before the last norm; W = 10 is that paper's and 0 the default here.
    """

    name: ClassVar[str] = "adapt"
    distils: ClassVar[bool] = False
    snapshots: ClassVar[bool] = False

    weights: Literal["mean", "bound"] = "mean"
    """Weights of the times: mean counts each masked token equally, whatever its row's t; bound is the NELBO's 1/t."""
    max_weight: Positive = math.inf
    """Largest weight of a time in bound; the bound itself has no limit."""
    t_min: Decay = 1e-3
    """Smallest time."""
    align: NotNegative = 0.0
    """Weight of the alignment of all hidden states with the frozen autoregressive network; 0 for none. It costs one
    more forward pass."""

    @property
    def needs_teacher(self) -> bool:
        return self.align > 0.0

    def idle_options(self, rounds: int) -> dict[str, str]:
        return {"--max-weight": "--weights mean weights all times alike"} if self.weights == "mean" else {}

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        (b, L), schedule = x0.shape, student.config.schedule
        whole = draws.whole()
        t, u = draws.t(self.t_min, 1.0), draws.u()
        z_t = mask(x0, u, schedule.alpha(t)[:, None], student.mask_id)
        rows = flat_rows(z_t == student.mask_id)
        share = draws.B / (b * max(1, self._masked(whole, schedule)))  # the mean of equal parts is then that of tokens
        weight: float | Tensor = share
        if self.weights == "bound":
            weight = schedule.nelbo_weight(t).clamp(max=self.max_weight)[rows // L] / draws.divisor
        target = TokenTarget(x0.flatten()[rows], weight)
        if teacher is None or not self.needs_teacher:
            alignment, hidden = None, student.hidden(z_t, t, rows=rows)
        else:
            alignment, hidden = self._aligned(student, teacher, z_t, x0, t, rows)
        total, (cross_entropy,) = student.head_loss(hidden, target)
        terms = {"cross_entropy": share * cross_entropy.sum()}
        if alignment is not None:
            total = total + self.align * alignment
            terms["alignment"] = alignment.detach()
        return Loss(total, terms, {"tokens_masked": torch.tensor(rows.numel()), "tokens": torch.tensor(x0.numel())})

    def _masked(self, whole: Draws, schedule: Schedule) -> int:
        """How many tokens of the whole batch are masked."""
        t = whole.t(self.t_min, 1.0)
        return int((whole.u() > schedule.alpha(t)[:, None]).sum())

    @staticmethod
    def _aligned(
        student: Denoiser, teacher: Denoiser, z_t: Tensor, x0: Tensor, t: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean of 1 - cos over blocks and positions, and the student's features of the rows, of one pass."""
        if not isinstance(student.backbone, Adapted) or not isinstance(teacher.backbone, Adapted):
            raise ValueError("--align: is for networks of Hugging Face, which were autoregressive; take 0")
        with torch.no_grad(), teacher.backbone.causally(), teacher.backbone.recorded() as wanted:
            teacher.hidden(x0, t, rows=rows[:0])
        with student.backbone.recorded() as states:
            hidden = student.hidden(z_t, t, rows=rows)
        gaps = [
            1.0 - F.cosine_similarity(h.float(), g.float(), dim=-1).mean() for h, g in zip(states, wanted, strict=True)
        ]
        return torch.stack(gaps).mean(), hidden
