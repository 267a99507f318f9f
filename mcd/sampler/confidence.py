"""Confidence first: every step reveals the tokens that the model is surest of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.options import Natural
from mcd.process.timestep import descending_grid
from mcd.process.transfer import flat_rows, send
from mcd.sampler.base import Step, parts, row_generator, uniforms
from mcd.sampler.masked import MaskedSampler, of_likeliest

Score = Literal["top", "margin", "entropy", "random"]
TIE = 1e-4
"""Scores are compared as whole multiples of this."""
Watch = Callable[[Tensor, Tensor], Tensor]
"""Of features (m, D) and where their tokens stand in the flat batch (m,), what a choice looks at: float64 (m, c)."""


@dataclass(frozen=True)
class Confidence(MaskedSampler):
    """Parallel decoding in the order of the model's own certainty, equal counts per step.

    After MaskGIT (arXiv 2202.04200) and, for blocks, LLaDA (arXiv 2502.09992). A step scores every masked token of the
    current block by the model's prediction, untempered, and reveals the surest: ceil(m / steps left) of m. They are
    drawn by inverse CDF in float64 at their locked scalars v, as in `ancestral`, so the id drawn need not be the one
    that made the score high; `greedy` takes that one. What is visible then depends on what the text says, which never
    happens in training. With one token per step a perfect model still gives its own law: the choice looks at nothing
    that is not drawn yet.

    Equal scores (multiples of `TIE`) are taken in random order, from the row's own stream. In a row of nothing but
    masks all scores are equal up to rounding, since rotary positions are relative: without this the last bits of the
    matrix products would choose where a text begins.

    A block is a number of consecutive masked tokens; given tokens do not count, wherever they are. Blocks share the
    steps in proportion to their tokens (adjacent blocks join when there are fewer steps than blocks). A row makes no
    call in a step that finds its block complete. A time-conditioned network is given the time at which the share of
    masked tokens is that of the row, among those that were masked at first: as in training with prompts and in all
    other samplers, a row starts at t = 1 whatever is given.
    """

    name: ClassVar[str] = "confidence"
    facts: ClassVar = {**MaskedSampler.facts, "grid": "equal counts"}
    likeliest: ClassVar[str] = "--greedy takes the likeliest tokens"

    score: Score = "top"
    """Confidence score of a token: top (probability of the likeliest id), margin (its lead over the second), entropy
    (low entropy of the prediction; not of klass), random (equal scores, as a control; only of confidence)."""
    block: Natural = 0
    """Masked tokens per block; blocks are filled from left to right. 0: the whole row is one block."""
    greedy: bool = False
    """Take the likeliest id instead of a draw (temperature 0, whatever --temperature, --top-p and --guidance say).
    Rows of such a sampler then differ only in the order of equal scores."""

    def protocol(self) -> dict[str, Any]:
        """The score is the `order`, and a greedy draw has temperature 0."""
        said = super().protocol()
        said["order"] = said.pop("score")
        return of_likeliest(said) if said.pop("greedy") else said

    def _choose(self, seen: Tensor, left: int) -> Tensor:
        """Which of a row's candidates to reveal with `left` steps for their block: places (k,) in `seen` (m, c), m > 0.

        seen: what `_watch` says of each, the score first. This one looks at no number to know k, so no step waits for
        the device that made them.
        """
        return surest(seen[:, 0])[: share_of_step(len(seen), left)]

    def _watch(self, denoiser: Denoiser, tokens: int) -> Watch:
        """What sees the predictions of one trajectory, of `tokens` tokens in all its rows."""

        def watch(hidden: Tensor, places: Tensor) -> Tensor:
            if self.score == "random":
                return torch.zeros(len(hidden), 1, dtype=torch.float64, device=hidden.device)
            many = denoiser.shapes.many_rows  # whole parts: a sum's bits may depend on how many rows are summed
            return torch.cat([self._see(denoiser.log_x_theta(part)) for part in parts(hidden, many)])[: len(hidden)]

        return watch

    def _see(self, log_p: Tensor) -> Tensor:
        """What a choice looks at, of predictions (m, V): float64 (m, c), the score first."""
        return score_of_log_p(log_p, self.score)[:, None]

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        """The states of the class; see `Sampler.trajectory`."""
        masked, device = z.cpu() == denoiser.mask_id, denoiser.device
        nfe = torch.zeros(len(rows), dtype=torch.int64)
        streams = [row_generator(seed, row) for row in rows]
        v, chance = (send(uniforms(streams, z), device) for _ in range(2))
        rank, total = masked.cumsum(dim=1) - 1, masked.sum(dim=1)
        count = total.clamp(min=1)  # a row without any makes no call
        counts, which = count.unique(return_inverse=True)
        plans = torch.tensor([self._blocks(n) for n in counts.tolist()])
        grid = descending_grid(self.steps).tolist()
        watch = self._watch(denoiser, z.numel())
        z, shown = send(z, device).clone(), count - total  # blocks are filled one after the other, each to its end
        yield Step(z.clone(), 1.0, nfe.clone())
        for k, s in enumerate(grid[1:]):
            low, high, left = plans[which, k].T
            block = masked & (rank >= low[:, None]) & (rank < high[:, None])
            t = denoiser.config.schedule.t_of_alpha(shown.double() / count).clamp(0.0, 1.0).float()
            waiting = (torch.minimum(high, count) - shown).clamp(min=0)
            active = flat_rows(waiting)
            for chunk in active.split(self.rows_for(denoiser, z.shape[1])) if len(active) else ():
                at = send(chunk, device)
                budget = waiting[chunk].tolist(), left[chunk].tolist()
                z[at], revealed = self._reveal(
                    denoiser, watch, z[at], t[chunk], at, send(block[chunk], device), *budget, v[at], chance[at]
                )
                shown[chunk] += torch.tensor(revealed)
            nfe[active] += 1
            yield Step(z.clone(), s, nfe.clone())

    def _blocks(self, count: int) -> list[tuple[int, int, int]]:
        """The (low, high, left) of each step of a row with `count` > 0 masked tokens.

        The block of the step holds the masked tokens low to high - 1; it has `left` steps, this one included.
        """
        size = min(self.block or count, count)
        blocks = -(-count // size)
        parts = min(blocks, self.steps)
        edges = [min(count, n * blocks // parts * size) for n in range(parts + 1)]
        starts = [edge * self.steps // count for edge in edges] if parts == blocks else list(range(parts + 1))
        return [
            (*edge, left)
            for edge, (start, end) in zip(pairwise(edges), pairwise(starts), strict=True)
            for left in range(end - start, 0, -1)
        ]

    def _reveal(
        self,
        denoiser: Denoiser,
        watch: Watch,
        z: Tensor,
        t: Tensor,
        at: Tensor,
        block: Tensor,
        waiting: list[int],
        left: list[int],
        v: Tensor,
        chance: Tensor,
    ) -> tuple[Tensor, list[int]]:
        """Fill the surest masked tokens of the blocks of at most `rows_for` rows z (n, L) at times t (n,).

        watch: as of `_watch`; at: (n,), which rows of the batch they are; block, v, chance: (n, L); waiting: how many
        tokens of the block of each row are masked; left: the steps that it has left. Returns (n, L), and how many
        tokens of each row were filled.
        """
        elsewhere = ~(block & (z == denoiser.mask_id)).flatten()
        where = elsewhere.byte().argsort(stable=True)[: sum(waiting)]  # as `flat_rows`, of a number that is known
        hidden = self.hidden(denoiser, z, t, where, denoiser.shapes.many_rows)
        L = z.shape[1]
        seen = watch(hidden, at[where // L] * L + where % L)
        chosen = []
        of_row = torch.arange(len(where), device=z.device).split(waiting)
        for candidates, left_of_row in zip(of_row, left, strict=True):
            candidates = candidates[chance.flatten()[where[candidates]].argsort()]
            chosen.append(candidates[self._choose(seen[candidates], left_of_row)])
        filled, chosen = list(map(len, chosen)), torch.cat(chosen)
        if self.greedy:
            few = denoiser.shapes.few_rows
            ids = torch.cat([denoiser.logits(part).argmax(-1) for part in parts(hidden[chosen], few)])[: len(chosen)]
        else:
            ids = self.draw(denoiser, hidden[chosen], v.flatten()[where[chosen]])
        return z.flatten().index_copy(0, where[chosen], ids).view_as(z), filled


def surest(score: Tensor) -> Tensor:
    """The places of scores (m,) from the highest down; of equal ones (multiples of `TIE`) the first comes first."""
    return (score / TIE).round().argsort(descending=True, stable=True)


def share_of_step(tokens: int, left: int) -> int:
    """How many of `tokens` a step reveals where they are shared evenly over the `left` steps, this one included."""
    return -(-tokens // left)


def score_of_log_p(log_p: Tensor, score: Score) -> Tensor:
    """How sure predictions (m, V) are, float64 (m,): "top" and "margin" in [0, 1], "entropy" at most 0, in nats.

    Raises ValueError for "random", which does not look at them.
    """
    if score == "top":
        return log_p.amax(-1).double().exp()
    if score == "margin":
        best = log_p.topk(2, dim=-1).values.double().exp()
        return best[:, 0] - best[:, 1]
    if score == "entropy":
        return -torch.special.entr(log_p.double().exp()).sum(-1)
    raise ValueError(f"{score} is no score of a prediction")
