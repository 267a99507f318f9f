"""ReMDM: an ancestral sampler in which generated tokens may be masked again and redrawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.options import Share
from mcd.process.timestep import descending_grid
from mcd.process.transfer import send
from mcd.sampler.base import Step, row_generator, uniforms
from mcd.sampler.masked import MaskedSampler


@dataclass(frozen=True)
class ReMDM(MaskedSampler):
    """The remasking sampler (ReMDM, arXiv 2503.00307, Sections 3.1 and 4.1) on a uniform grid from t = 1 to t = 0.

    In a step s < t a generated token is masked again with probability sigma, and a masked one is revealed, drawn from
    p_theta(. | z_t), with the probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), so that
    P(visible at s) stays alpha_s. sigma is at most min(1, (1 - alpha_s) / alpha_t), which is 0 in the last step, so no
    mask is left. Since all rows begin masked, alpha is that of the process given this,
    (alpha - alpha_1) / (1 - alpha_1): the marginals are exactly those of `ancestral`. Given tokens are kept.

    Randomness is locked as in `ancestral`: a token is revealed where its w, uniform on (0, 1] as long as it is masked,
    is at most the probability, and drawn at its v. A token masked again gets a new w and a new v. With eta = 0 the rows
    are those of `ancestral` with the order "iid".
    """

    name: ClassVar[str] = "remdm"
    remasks: ClassVar[bool] = True

    remasking: Literal["cap", "rescale"] = "cap"
    """How often a step masks generated tokens again, so that they are drawn anew. The process allows a largest
    probability, which is high at first and falls to 0 in the last step. cap uses --eta itself until that limit is
    lower, so remasking is even until near the end; rescale uses eta times the limit, so it is strongest at first."""
    eta: Share = 0.04
    """Strength of remasking: 0 never masks a token again. Small values are enough, because it acts in every step; more
    steps give it more chances to correct a token."""

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        """The states of the class; see `Sampler.trajectory`."""
        mask_id = denoiser.mask_id
        wanted = masked = z.cpu() == mask_id
        z, nfe = send(z, denoiser.device).clone(), torch.zeros(len(rows), dtype=torch.int64)
        streams = [row_generator(seed, row) for row in rows]
        w, v = 1.0 - uniforms(streams, z), uniforms(streams, z)
        grid = descending_grid(self.steps)
        alpha = denoiser.config.schedule.alpha(grid)
        alpha = ((alpha - alpha[0]) / (1.0 - alpha[0])).tolist()
        alpha[-1] = 1.0  # alpha_0 may round to less than 1
        yield Step(z.clone(), 1.0, nfe.clone())
        for (t, s), (alpha_t, alpha_s) in zip(pairwise(grid.tolist()), pairwise(alpha), strict=True):
            remask, appear = self.probabilities(alpha_t, alpha_s)
            revealed = masked & (w <= appear)
            z, calls = self.reveal(denoiser, z, revealed, v, t)
            nfe += calls
            waiting = masked & ~revealed
            w = torch.where(waiting, (w - appear) / (1.0 - appear), w)  # uniform again, given that it waits
            if remask > 0.0:
                coin, new_w, new_v = (1.0 - uniforms(streams, z) for _ in range(3))
                again = wanted & ~masked & (coin <= remask)
                z = z.masked_fill(send(again, z.device), mask_id)
                w, v = torch.where(again, new_w, w), torch.where(again, new_v, v)
                waiting = waiting | again
            masked = waiting
            yield Step(z.clone(), s, nfe.clone())

    def probabilities(self, alpha_t: float, alpha_s: float) -> tuple[float, float]:
        """P(masked at s | visible at t), the sigma of the class, and P(visible at s | masked at t)."""
        if alpha_t == 1.0:  # of a schedule so flat at 0 that it rounds
            return 0.0, 1.0
        most = min(1.0, (1.0 - alpha_s) / alpha_t) if alpha_t > 0.0 else 1.0
        sigma = min(self.eta, most) if self.remasking == "cap" else self.eta * most
        return sigma, (alpha_s - (1.0 - sigma) * alpha_t) / (1.0 - alpha_t)
