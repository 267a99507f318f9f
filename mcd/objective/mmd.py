"""MMD: rows drawn in one call are to look like text to the teacher (yandex-research/dlm-mmd, "Representation-Space MMD
for Diffusion Language Models").

There is no target for a single prediction, and no trajectory. Whole rows are drawn from the student's prediction; those
whose tokens, in the hidden states of the frozen teacher, are distributed more like the tokens of the text become
likelier (REINFORCE).
"""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from mcd.errors import UsageError
from mcd.model.denoiser import Denoiser
from mcd.model.targets import RewardTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.objective.reward import Pairs, attraction, bandwidth, leave_one_out, repulsion
from mcd.objective.trajectory import drawn
from mcd.options import Count, Decay, NotNegative, Positive
from mcd.process.draws import Draws
from mcd.process.masked import mask
from mcd.process.transfer import flat_rows, send


@dataclass(frozen=True)
class MMD(Objective):
    """Policy gradient of a reward of drawn rows, divided by B L:

        L = -(1 / (K B L)) sum_rows sum_{k <= K} A_{g(k)} sum_i m_t^i log p_theta(x_k^i | z_t),   K = groups * rows

    z_t is the text x0 masked at a stratified t from (t_min, 1]. At its m masked tokens the student draws K complete
    rows x_k, all from one prediction; they form G `groups` of R `rows`. F are the teacher's hidden states of complete
    rows behind block `layer`, and k(f, f') = exp(-|f - f'|^2 / (2 h^2)) with h = bandwidth * (median distance between
    the masked tokens of x0). Sums over p, q are over the m masked tokens:

        att_k = sum_{p, q} k(F(x_k)_p, F(x0)_q) / m^2
        rep_{k k'} = sum_{p != q} k(F(x_k)_p, F(x_k')_q) / (m (m - 1))
        r_g = (2 / R) sum_{k in g} att_k - (2 / (R (R - 1))) sum_{k < k' in g} rep_{k k'}
        A_g = reward_scale * (r_g - mean of the other groups' r)

    r_g is nearly minus the squared MMD between the tokens of the drawn rows and those of the text, up to a constant
    (with `pairs` all: exactly). Rows with fewer than two masked tokens have no reward. The sum of A over the groups is
    0, so log p is only needed up to its normaliser.

    The loss itself says nothing of progress: watch `reward` in stats.jsonl, and judge by `mcd frontier`. Cost: a
    forward pass of the student with its gradient (3 forwards), and K + 1 passes of the teacher up to `layer`;
    `--dry-run` gives the sum as `forwards`, for a third of the blocks. The teacher stays as it is, whatever the rounds.
    """

    name: ClassVar[str] = "mmd"
    distils: ClassVar[bool] = True
    snapshots: ClassVar[bool] = False
    watched: ClassVar[tuple[str, ...]] = ("reward",)
    reads_states: ClassVar[bool] = True

    groups: Annotated[int, Ge(2)] = 4
    """Groups G of drawn rows; each is compared with the others."""
    rows: Annotated[int, Ge(2)] = 2
    """Drawn rows R of each group; the rows of a group repel each other, which keeps them diverse."""
    layer: Count | None = None
    """Block of the teacher whose hidden states are compared; a third of its blocks by default."""
    bandwidth: Positive = 1.0
    """Width of the kernel, in median distances between tokens of the text."""
    pairs: Pairs = "apart"
    """Which positions p, q of two rows are compared. apart, as published: all in att, p != q in rep; it sharpens what
    the student predicts, the more the fewer tokens are masked. all: all in both, so that r is the squared MMD. same: p
    = q in both, each token with the one in its place; at the best prediction there is no sharpening."""
    reward_scale: NotNegative = 1.0
    """Factor of the reward. AdamW hardly notices it; --clip-norm does."""
    t_min: Decay = 1e-3
    """Smallest time."""

    def check(self, student: Denoiser) -> None:
        """Raise UsageError for a layer that the teacher, the student's copy, does not have."""
        if (self.layer or 1) > student.depth:
            raise UsageError(f"--layer {self.layer}: the teacher has {student.depth} blocks")

    def layer_of(self, teacher: Denoiser) -> int:
        """The block whose hidden states are compared."""
        return self.layer or max(1, teacher.depth // 3)

    def schedule_of_round(self, round: int) -> dict[str, Any]:
        """What a row of the batch costs, in forwards of the network; nothing where it depends on the network."""
        return {"forwards": 3.0 + (self.groups * self.rows + 1) / 3} if self.layer is None else {}

    def nothing_to_learn(self, rounds: int) -> str | None:
        """Without a reward."""
        return "--reward-scale 0: nothing is rewarded, so nothing is learnt" if self.reward_scale == 0.0 else None

    def without_gap(self) -> Objective:
        """No reward."""
        return replace(self, reward_scale=0.0)

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        """The loss of the class; see `Objective.loss`."""
        assert teacher is not None
        L, K = x0.shape[1], self.groups * self.rows
        t, u, v = draws.t(self.t_min, 1.0), draws.u(), draws.uniform(L, K)
        z_t = mask(x0, u, student.config.schedule.alpha(t)[:, None], student.mask_id)
        masked = z_t == student.mask_id
        where = masked & (masked.sum(-1, keepdim=True) > 1)
        rows = flat_rows(where)
        hidden = student.hidden(z_t, t, rows=rows)
        with torch.no_grad():
            ids = drawn(student, hidden, v.flatten(0, 1)[rows])
            real, at = send(x0, ids.device), send(rows, ids.device)
            x = real[..., None].expand(-1, -1, K).flatten(0, 1).index_copy(0, at, ids).view(*x0.shape, K)
            attracted, repelled = self._compared(teacher, real, x, send(where, ids.device))
        reward = 2.0 * attracted.mean(-1) - repelled
        advantage = self.reward_scale * leave_one_out(reward.double())  # rewards differ little
        of_draws = advantage.repeat_interleave(self.rows, dim=1)[send(rows // L, ids.device)]
        total = student.head_loss(hidden, RewardTarget(ids, of_draws, 1.0 / (K * draws.divisor))).total

        active = send(flat_rows(where.any(-1)), ids.device)
        counts = {"tokens_distilled": where.sum(), "tokens_visible": (~masked).sum()}
        stats = {
            "reward": reward.mean(1)[active],
            "attraction": attracted.mean((1, 2))[active],
            "repulsion": repelled.mean(1)[active],
            "advantage_spread": advantage.square().mean(1).sqrt()[active],
        }
        return Loss(total, {"distillation": total.detach()}, counts, stats)

    def _compared(self, teacher: Denoiser, x0: Tensor, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows x (b, L, K) drawn for x0 (b, L): att (b, G, R), and of each group the mean of rep over pairs (b, G).

        A group's features are made and forgotten before those of the next.
        """
        b, L = x0.shape
        layer = self.layer_of(teacher)
        real = teacher.features(x0, layer)
        wide = torch.promote_types(real.dtype, torch.float32)
        real = real.to(wide)
        count = where.sum(-1).clamp(min=1)[:, None, None]
        centre = (real * where[..., None]).sum(1, keepdim=True) / count
        attracted, repelled = [], []
        with torch.autocast(real.device.type, enabled=False):
            real = real - centre
            a = bandwidth(real, where, self.bandwidth)
        for group in x.movedim(-1, 0).split(self.rows):
            features = teacher.features(group.reshape(-1, L), layer).to(wide).view(self.rows, b, L, -1)
            with torch.autocast(real.device.type, enabled=False):
                made = features - centre
                attracted.append(torch.stack([attraction(one, real, where, a, self.pairs) for one in made], dim=1))
                of_pairs = [repulsion(*pair, where, a, self.pairs) for pair in combinations(made, 2)]
                repelled.append(torch.stack(of_pairs).mean(0))
        return torch.stack(attracted, dim=1), torch.stack(repelled, dim=1)
