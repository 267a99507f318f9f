"""Causal sampling: an autoregressive model's text, left to right, one token a network call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.process.categorical import sample_inverse_cdf
from mcd.sampler.base import Sampler, Step, row_generator


@dataclass(frozen=True)
class Causal(Sampler):
    """Token i is drawn from p(. | start of text, tokens before i) by inverse CDF at v_i, in float64.

    One call a token, whatever `steps`: an autoregressive model has no shorter way, and its NFE is the length. A
    template's tokens are kept and take no call and no step, but only what stands to the left of a token is seen when it
    is drawn.
    The whole row is computed anew at each call, since there is no cache of keys and values: this is a yardstick.
    """

    name: ClassVar[str] = "causal"
    process: ClassVar[Process] = "autoregressive"

    def protocol(self) -> dict[str, Any]:
        return {
            "sampler": self.name,
            "order": "left to right",
            "precision": "fp64",
            "grid": "left to right",
            "temperature": self.temperature,
            "top_p": self.top_p,
        }

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        L, rows_per_call = z.shape[1], self.rows_for(denoiser, z.shape[1])
        z, nfe = z.clone(), torch.zeros(len(rows), dtype=torch.int64)
        wanted = z == denoiser.blank_id
        v = torch.stack([torch.rand(L, dtype=torch.float64, generator=row_generator(seed, row)) for row in rows])
        v = v.to(z.device)
        yield Step(z.clone(), 1.0, nfe.clone())
        places = wanted.any(dim=0).nonzero(as_tuple=True)[0].tolist()
        for n, i in enumerate(places, start=1):
            active = wanted[:, i].nonzero(as_tuple=True)[0]
            for chunk in active.split(rows_per_call):
                z[chunk, i] = self._next(denoiser, z[chunk], i, v[chunk, i])
            nfe[active.cpu()] += 1
            yield Step(z.clone(), 1.0 - n / len(places), nfe.clone())
        if not places:
            yield Step(z.clone(), 0.0, nfe.clone())

    def _next(self, denoiser: Denoiser, z: Tensor, i: int, v: Tensor) -> Tensor:
        """Token i of at most `rows_per_call` rows: z (n, L), v (n,). What stands in z at i and after is not seen."""
        n, L = z.shape
        rows_per_call = self.rows_for(denoiser, L)
        padded = torch.cat((z, z[:1].expand(rows_per_call - n, L)))
        start = torch.full_like(padded[:, :1], denoiser.mask_id)
        where = torch.arange(rows_per_call, device=z.device) * L + i
        shifted = torch.cat((start, padded[:, :-1]), dim=1)
        hidden = denoiser.hidden(shifted, torch.zeros(rows_per_call, device=z.device), rows=where)
        return sample_inverse_cdf(denoiser.logits(hidden)[:n], v, self.temperature, self.top_p)
