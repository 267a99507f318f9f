"""Sampling from a model that is shown the locked noise of its row: few steps that agree within themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.process.categorical import sample_inverse_cdf
from mcd.process.timestep import descending_grid
from mcd.process.transfer import flat_rows, send
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.base import Step, padded, parts, row_generator, uniforms
from mcd.sampler.masked import of_likeliest


@dataclass(frozen=True)
class Locked(Ancestral):
    """The steps of `ancestral` for a student of `mcd distill ltd`, which sees u, v and drafts (`mcd.model.locked`).

    A call predicts all tokens that are masked. Those with alpha_t < u <= alpha_s are drawn for good; of the others the
    likeliest tokens are the drafts for the next call, as in training. The first drafts need no call: they are drawn at
    v from the prior that the model carries. A token is drawn with a number of the row's own stream that the model has
    not seen, and so keeps the law that the model gives it; `greedy` follows the noise instead, as the model was trained
    to, and is a deterministic map from u and v to text.

    Drafts cost no network call, but vocabulary rows: with N steps of equal counts (N + 1) / 2 rows a token, where
    `ancestral` has one.
    """

    name: ClassVar[str] = "locked"
    process: ClassVar[Process] = "locked"
    likeliest: ClassVar[str] = "--greedy takes the likeliest tokens"

    order: str = "low-discrepancy"
    greedy: bool = False
    """Take the likeliest id instead of a draw (temperature 0, whatever --temperature, --top-p and --guidance say)."""

    def protocol(self) -> dict[str, Any]:
        """A greedy draw has temperature 0."""
        said = super().protocol()
        return of_likeliest(said) if said.pop("greedy") else said

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        """The states of the class; see `Sampler.trajectory`."""
        assert denoiser.locked is not None
        grid = descending_grid(self.steps)
        alpha = denoiser.config.schedule.alpha(grid)
        streams, masked = [row_generator(seed, row) for row in rows], z.cpu() == denoiser.mask_id
        u = self.thresholds(masked, streams, float(alpha[0]))
        v, fresh = uniforms(streams, z), uniforms(streams, z)
        step, device = self.steps_of(u, alpha).masked_fill(~masked, -1), denoiser.device
        z, u, v, fresh, due = (send(x, device) for x in (z, u, v, fresh, step))
        z, draft = z.clone(), denoiser.locked.first_drafts(v)
        nfe = torch.zeros(len(rows), dtype=torch.int64)
        yield Step(z.clone(), 1.0, nfe.clone())
        for k, (t, s) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True)):
            active = flat_rows((step == k).any(dim=1))
            for chunk in active.split(self.rows_for(denoiser, z.shape[1])) if len(active) else ():
                at = send(chunk, device)
                draft[at] = self._become(denoiser, t, step[chunk] - k, *(x[at] for x in (z, draft, u, v, fresh)))
            z = torch.where(due == k, draft, z)
            nfe[active] += 1
            yield Step(z.clone(), s, nfe.clone())

    def _become(
        self, denoiser: Denoiser, t: float, left: Tensor, z: Tensor, draft: Tensor, u: Tensor, v: Tensor, fresh: Tensor
    ) -> Tensor:
        """What masked tokens of at most `rows_for` rows z (n, L) become: drawn if they are due, else drafts, (n, L).

        left: the steps to that in which each is due, (n, L), on the CPU; below 0 for visible ones.
        """
        assert denoiser.locked is not None
        masked, rows = left >= 0, self.rows_for(denoiser, z.shape[1])
        many = denoiser.shapes.many_rows
        where = flat_rows(masked)
        at = send(where, z.device)
        noise = denoiser.noise(*(padded(x, rows) for x in (masked, draft, u, v)))
        hidden = self.hidden(denoiser, z, torch.full((len(z),), t), at, many, noise)
        tokens = (left.flatten()[where] == 0).split(many), fresh.flatten()[at].split(many)
        ids, law = [], (self.temperature, self.top_p, self.guide(denoiser))
        for part, due_part, fresh_part in zip(parts(hidden, many), *tokens, strict=True):
            logits = denoiser.logits(part, len(due_part))
            now = logits.argmax(-1)
            if not self.greedy and due_part.any():
                due = send(flat_rows(due_part), z.device)
                now[due] = sample_inverse_cdf(logits[due], fresh_part[due], *law)
            ids.append(now)
        return draft.flatten().index_copy(0, at, torch.cat(ids)).view_as(draft)
