"""Gumbel race: sampling as the public MDLM code does, kept to show why published figures differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.categorical import sample_gumbel_race, temper
from mcd.process.timestep import descending_grid
from mcd.process.transfer import send
from mcd.sampler.base import Step, row_generator
from mcd.sampler.masked import MaskedSampler

END_TIME = 1e-5


@dataclass(frozen=True)
class GumbelRace(MaskedSampler):
    """MDLM's `ddpm_cache`: at every step each masked token is redrawn, the mask competing in one Gumbel race.

    Grid: t from 1 to 1e-5 in N steps, then one more call that fills what is left ("noise removal", sampled), so up to
    N + 1 calls. The prediction is kept while a row does not change, except for a time-conditioned network, whose
    prediction changes with t: both as in the public code. With precision "fp32" the race never draws unlikely tokens,
    and the more steps are taken, the more tokens it excludes (`process.categorical.sample_gumbel_race`).
    """

    name: ClassVar[str] = "gumbel-race"
    facts: ClassVar = {**MaskedSampler.facts, "grid": f"uniform t, 1 to {END_TIME}, then noise removal"}

    precision: Literal["fp64", "fp32"] = "fp64"
    """Precision of its uniform draws; fp32 shows the effect of low precision."""

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        """The states of the class; see `Sampler.trajectory`."""
        schedule, mask_id = denoiser.config.schedule, denoiser.mask_id
        dtype = torch.float64 if self.precision == "fp64" else torch.float32
        z, rows_per_call = send(z, denoiser.device).clone(), self.rows_for(denoiser, z.shape[1])
        generators, guide = [row_generator(seed, row) for row in rows], self.guide(denoiser)
        nfe = torch.zeros(len(rows), dtype=torch.int64)
        log_x_theta: list[Tensor | None] = [None] * len(rows)
        yield Step(z.clone(), 1.0, nfe.clone())
        grid = [*descending_grid(self.steps, 1.0, END_TIME).tolist(), 0.0]
        for t, s in pairwise(grid):
            alpha_t, alpha_s = (schedule.alpha(torch.tensor(time, dtype=torch.float64)) for time in (t, s))
            alpha_s = alpha_s if s > 0.0 else torch.ones_like(alpha_s)  # noise removal reveals whatever is left
            unfinished = (z == mask_id).any(dim=1).tolist()
            stale = [n for n, unfinished_n in enumerate(unfinished) if unfinished_n and log_x_theta[n] is None]
            for start in range(0, len(stale), rows_per_call):
                chunk = stale[start : start + rows_per_call]
                padded = z[chunk + chunk[:1] * (rows_per_call - len(chunk))]
                hidden = denoiser.hidden(padded, torch.full((len(padded),), t, device=z.device)).view(*padded.shape, -1)
                for n, hidden_n in zip(chunk, hidden, strict=False):
                    log_x_theta[n] = temper(denoiser.log_x_theta(hidden_n), self.temperature, self.top_p, guide)
                    nfe[n] += 1
            for n, generator in enumerate(generators):
                masked = (z[n] == mask_id).nonzero(as_tuple=True)[0]
                prediction = log_x_theta[n]
                if prediction is None or not len(masked):
                    continue
                drawn = sample_gumbel_race(prediction[masked], alpha_t, alpha_s, dtype, generator)
                revealed = drawn < denoiser.config.vocab_size
                if revealed.any():
                    z[n, masked[revealed]] = drawn[revealed]
                if revealed.any() or denoiser.config.time_conditioned:
                    log_x_theta[n] = None
            yield Step(z.clone(), s, nfe.clone())
