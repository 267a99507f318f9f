"""Causal sampling: an autoregressive model's text, left to right, one token per network call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.process.categorical import sample_inverse_cdf
from mcd.process.transfer import flat_rows, send
from mcd.sampler.base import Sampler, Step, row_generator, uniforms


@dataclass(frozen=True)
class Causal(Sampler):
    """Token i is drawn from p(. | start of text, tokens before i) by inverse CDF at v_i, in float64.

    There is one call per token, whatever `steps`: an autoregressive model has no shorter way, and its NFE is the
    length. A template's tokens are kept and need no call and no step, but a draw sees only the tokens to its left.
    The whole row is computed again at each call, without a cache of keys and values, since this sampler is only for
    comparison.
    """

    name: ClassVar[str] = "causal"
    process: ClassVar[Process] = "autoregressive"
    facts: ClassVar = {"order": "left to right", "precision": "fp64", "grid": "left to right"}
    likeliest: ClassVar[str] = "--temperature 1e-6 takes the likeliest tokens, except for ties and near-ties"

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        wanted = z.cpu() == denoiser.blank_id
        z, nfe = send(z, denoiser.device).clone(), torch.zeros(len(rows), dtype=torch.int64)
        v = uniforms([row_generator(seed, row) for row in rows], z)
        yield Step(z.clone(), 1.0, nfe.clone())
        places = flat_rows(wanted.any(dim=0)).tolist()
        for n, i in enumerate(places, start=1):
            active = flat_rows(wanted[:, i])
            for chunk in active.split(self.rows_for(denoiser, z.shape[1])):
                at = send(chunk, z.device)
                z[at, i] = self._next(denoiser, z[at], i, send(v[chunk, i], z.device))
            nfe[active] += 1
            yield Step(z.clone(), 1.0 - n / len(places), nfe.clone())
        if not places:
            yield Step(z.clone(), 0.0, nfe.clone())

    def _next(self, denoiser: Denoiser, z: Tensor, i: int, v: Tensor) -> Tensor:
        """Token i of at most `rows_for` rows: z (n, L), v (n,). The network does not see z at i and after."""
        n, L = z.shape
        rows = self.rows_for(denoiser, L)
        padded = torch.cat((z, z[:1].expand(rows - n, L)))
        start = torch.full_like(padded[:, :1], denoiser.mask_id)
        shifted = torch.cat((start, padded[:, :-1]), dim=1)
        where = torch.arange(rows, device=z.device) * L + i
        hidden = denoiser.hidden(shifted, torch.zeros(rows, device=z.device), rows=where)
        return sample_inverse_cdf(denoiser.logits(hidden)[:n], v, self.temperature, self.top_p)
