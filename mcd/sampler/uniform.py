"""Sampling from uniform-state models: all tokens are redrawn at every step, from noise to text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.options import Share
from mcd.process.categorical import sample_inverse_cdf, temper
from mcd.process.timestep import descending_grid
from mcd.process.transfer import flat_rows, send
from mcd.process.uniform import psi_posterior_zs
from mcd.sampler.base import Sampler, Step, parts, row_generator, uniforms

END_TIME = 1e-5
"""Where the steps end when the tail is greedy, as in the public code."""


@dataclass(frozen=True)
class Uniform(Sampler):
    """The reverse process of Duo (arXiv 2506.10892) on a uniform grid from t = 1 to t = 0, by inverse CDF in float64.

    Every blank starts as a uniform token. The start is pure noise, so the first step takes alpha_t = 0, whatever the
    schedule has at t = 1; the last step ends at alpha_s = 1 and draws the clean token given z_t, so there is no
    further call for "noise removal". One step is thus a draw from x_theta at noise. Given tokens stay unchanged
    at every step. A row's stream is read in step order: another number of steps is another sample.

    Steps are those of a Psi-sampler (arXiv 2602.21185): with probability 1 - kappa a token is not drawn from the
    reverse posterior but predicted clean and noised afresh (`process.uniform.psi_posterior_zs`), so that late steps
    can correct early mistakes; kappa is constant here and 1 is ancestral. temperature and top_p act on x_theta.
    Memory: a few float64 arrays of (`many_rows`, V) in addition to the network's.
    """

    name: ClassVar[str] = "uniform"
    process: ClassVar[Process] = "uniform"
    remasks: ClassVar[bool] = True
    facts: ClassVar = {**Sampler.facts, "order": "all tokens at every step"}
    likeliest: ClassVar[str] = "--tail greedy ends with the likeliest tokens"

    tail: Literal["sampled", "greedy"] = "sampled"
    """How sampling ends: sampled (with the draw of the last step) or greedy (as in Duo: steps down to t = 1e-5, and
    then one more call, of which the argmax of x_theta is taken at every position)."""
    kappa: Share = 1.0
    """Probability that a step draws a token from the reverse posterior; otherwise it predicts it and adds noise
    again."""

    def protocol(self) -> dict[str, Any]:
        grid = {"grid": f"uniform t, 1 to {END_TIME}, then argmax"} if self.tail == "greedy" else {}
        return super().protocol() | grid

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        K, schedule = denoiser.config.vocab_size, denoiser.config.schedule
        streams = [row_generator(seed, row) for row in rows]
        z = z.cpu()
        wanted = z == denoiser.blank_id
        active, rows_per_call = wanted.any(dim=1), self.rows_for(denoiser, z.shape[1])
        z = torch.where(wanted, (uniforms(streams, z) * K).long().clamp(max=K - 1), z)
        z = send(z, denoiser.device)
        nfe = torch.zeros(len(rows), dtype=torch.int64)
        yield Step(z.clone(), 1.0, nfe.clone())
        grid = descending_grid(self.steps)
        if self.tail == "greedy":
            grid = torch.cat((descending_grid(self.steps, 1.0, END_TIME), grid[-1:]))
        for t, s in pairwise(grid):
            alpha_t = schedule.alpha(t) if t < 1.0 else torch.zeros_like(t)
            alpha_s = schedule.alpha(s) if s > 0.0 else torch.ones_like(s)
            v = uniforms(streams, z)
            for chunk in flat_rows(active).split(rows_per_call) if active.any() else ():
                at = send(chunk, z.device)
                z[at] = self._redraw(denoiser, z[at], wanted[chunk], v[chunk], t, alpha_t, alpha_s)
            nfe += active.long()
            yield Step(z.clone(), float(s), nfe.clone())

    def _redraw(
        self, denoiser: Denoiser, z: Tensor, wanted: Tensor, v: Tensor, t: Tensor, alpha_t: Tensor, alpha_s: Tensor
    ) -> Tensor:
        """One step of at most `rows_for` rows. z, wanted, v: (n, L), all but z on the CPU; t, alpha_t, alpha_s: ().

        Returns (n, L).
        """
        many = denoiser.shapes.many_rows
        where = flat_rows(wanted)
        at, of_where = send(where, z.device), send(v.flatten()[where], z.device)
        hidden = self.hidden(denoiser, z, t.float().expand(len(z)), at, many)
        greedy = self.tail == "greedy" and bool(alpha_s == 1.0)
        alpha_t, alpha_s = send(alpha_t, z.device), send(alpha_s, z.device)
        drawn = []
        tokens = (x.split(many) for x in (z.flatten()[at], of_where))
        for part, z_part, v_part in zip(parts(hidden, many), *tokens, strict=True):
            log_p = temper(denoiser.logits(part, len(v_part)), self.temperature, self.top_p)
            if greedy:
                drawn.append(log_p.argmax(-1))
                continue
            levels = alpha_t.expand(len(v_part)), alpha_s.expand(len(v_part))
            q = psi_posterior_zs(z_part, log_p.exp(), *levels, self.kappa)
            drawn.append(sample_inverse_cdf(q.log(), v_part))
        return z.flatten().index_copy(0, at, torch.cat(drawn)).view_as(z)
