"""Causal sampling: an autoregressive model's text, left to right, one token per network call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.model.dit import DiTConfig
from mcd.model.reader import rows_to_read
from mcd.process.categorical import sample_inverse_cdf
from mcd.process.transfer import flat_rows, send
from mcd.sampler.base import Sampler, Step, row_generator, uniforms


@dataclass(frozen=True)
class Causal(Sampler):
    """Token i is drawn from p(. | start of text, tokens before i) by inverse CDF at v_i, in float64.

    There is one call per token, whatever `steps`: an autoregressive model has no shorter way, and its NFE is the
    length. A template's tokens are kept and need no call and no step, but a draw sees only the tokens to its left.
    Keys and values are kept (`mcd.model.reader`), so a call computes one position of each of its rows, and besides only
    given tokens that no call has read. Rows that do not fit a call follow one group after the other; a state is yielded
    when all rows are past it.
    """

    name: ClassVar[str] = "causal"
    process: ClassVar[Process] = "autoregressive"
    facts: ClassVar = {"order": "left to right", "precision": "fp64", "grid": "left to right"}
    likeliest: ClassVar[str] = "--temperature 1e-6 takes the likeliest tokens, except for ties and near-ties"

    def rows_for(self, denoiser: Denoiser, length: int) -> int:
        config = denoiser.config.backbone
        assert isinstance(config, DiTConfig)  # networks of Hugging Face are masked here
        return self.rows_per_call or rows_to_read(config, length, denoiser.shapes)

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        wanted, L = z.cpu() == denoiser.blank_id, z.shape[1]
        z, nfe = send(z, denoiser.device).clone(), wanted.cumsum(dim=1)
        v = uniforms([row_generator(seed, row) for row in rows], z)
        yield Step(z.clone(), 1.0, torch.zeros(len(rows), dtype=torch.int64))
        blank, position = send(wanted, z.device), torch.arange(L, device=z.device)
        *earlier, last = (self._write(denoiser, z, group, wanted, v) for group in self._groups(denoiser, wanted))
        for writing in earlier:
            for _ in writing:
                pass
        places, written = flat_rows(wanted.any(dim=0)).tolist(), -1
        for n, i in enumerate(places, start=1):
            while written < i:
                written = next(last, L)
            later = blank & (position > i)
            yield Step(torch.where(later, denoiser.blank_id, z), 1.0 - n / len(places), nfe[:, i].clone())
        if not places:
            yield Step(z.clone(), 0.0, torch.zeros(len(rows), dtype=torch.int64))

    def _groups(self, denoiser: Denoiser, wanted: Tensor) -> Iterator[Tensor]:
        """The rows of `wanted` (N, L), as many as a call takes, and only rows where the same tokens are wanted."""
        patterns, which = wanted.unique(dim=0, return_inverse=True)
        for pattern in range(len(patterns)):
            yield from flat_rows(which == pattern).split(self.rows_for(denoiser, wanted.shape[1]))

    def _write(self, denoiser: Denoiser, z: Tensor, group: Tensor, wanted: Tensor, v: Tensor) -> Iterator[int]:
        """Write the tokens of the rows `group` (n,) into z (N, L), each place that is yielded; v: (N, L) on the CPU."""
        n, L = len(group), z.shape[1]
        reader, at, read = denoiser.reader(self.rows_for(denoiser, L), L), send(group, z.device), 0
        text = torch.cat((torch.full_like(z[at, :1], denoiser.mask_id), z[at]), dim=1)  # behind the start of text
        v_of_group = send(v[group], z.device)
        for i in flat_rows(wanted[group[0]]).tolist():
            logits = denoiser.logits(reader.read(text[:, read : i + 1]))[:n]
            read = i + 1
            text[:, read] = sample_inverse_cdf(logits, v_of_group[:, i], self.temperature, self.top_p)
            z[at, i] = text[:, read]
            yield i
