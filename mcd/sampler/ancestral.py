"""Ancestral sampling with two locked scalars per token: u decides when it is revealed, v decides what is drawn."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import ClassVar

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.timestep import descending_grid
from mcd.process.transfer import send
from mcd.process.unmasking import ORDERS, sample_u_of_row
from mcd.sampler.base import Step, row_generator, uniforms
from mcd.sampler.masked import MaskedSampler


@dataclass(frozen=True)
class Ancestral(MaskedSampler):
    """The reverse process (paper, Eq. 6) on a uniform grid from t = 1 to t = 0, driven by locked scalars.

    Token i is revealed in the step s < t with alpha_t < u_i <= alpha_s, as the masking operator (Eq. 13) run backwards,
    and drawn from p_theta(. | z_t) by inverse CDF at v_i. Since u is known beforehand, a step computes logits only for
    the tokens it reveals, a row that reveals nothing does not enter the network, and rows do not wait for each other.
    The last step ends at alpha = 1: there is no extra call for "noise removal".

    `order` is the law of u within a row (`process.unmasking`): "iid" is the plain ancestral sampler. The others run
    only over the masked tokens of a row, so that given tokens take no part in the steps.
    The softmax and the inverse CDF are always float64.
    """

    name: ClassVar[str] = "ancestral"

    order: str = "iid"
    """When masked tokens are revealed: iid; stratified (equal counts per step); low-discrepancy (equal counts, and the
    tokens of a step far apart, as in dilated or Halton schedules); blockwise (equal counts, one block after another
    from a random one on)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ValueError(f"--order {self.order}: known are {', '.join(ORDERS)}")

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        """The states of the class; see `Sampler.trajectory`."""
        grid = descending_grid(self.steps)
        alpha = denoiser.config.schedule.alpha(grid)
        masked = z.cpu() == denoiser.mask_id
        u, v = self.locked_scalars(masked, rows, seed, float(alpha[0]))
        step = self.steps_of(u, alpha)
        yield from self.reveal_locked(denoiser, z, step.masked_fill(~masked, -1), v, grid)

    def locked_scalars(self, masked: Tensor, rows: Sequence[int], seed: int, alpha_1: float) -> tuple[Tensor, Tensor]:
        """u, v (N, L) float64 of rows that are `masked`, bool (N, L), at first.

        Both are drawn per row from its own stream; u in (alpha_1, 1] of masked tokens, else 0; v in [0, 1).
        """
        streams = [row_generator(seed, row) for row in rows]
        return self.thresholds(masked, streams, alpha_1), uniforms(streams, masked)

    def thresholds(self, masked: Tensor, streams: Sequence[torch.Generator], alpha_1: float) -> Tensor:
        """u (N, L) as of `locked_scalars`, from the streams of the rows."""
        u = [sample_u_of_row(self.order, row, alpha_1, stream) for row, stream in zip(masked, streams, strict=True)]
        return torch.stack(u)

    @staticmethod
    def steps_of(u: Tensor, alpha: Tensor) -> Tensor:
        """The step that reveals each token: the first with u <= alpha_s, or the last: alpha_0 may round below 1."""
        return torch.searchsorted(alpha[1:-1], u)

    def reveal_locked(self, denoiser: Denoiser, z: Tensor, step: Tensor, v: Tensor, times: Tensor) -> Iterator[Step]:
        """The trajectory of rows z (N, L), of which the token at (n, i) is revealed in step `step[n, i]`, drawn at v.

        All but z are on the CPU. step: (N, L) int64, below 0 for tokens that are given; v: (N, L) in [0, 1]; times:
        (steps + 1,) from 1 to 0, step k going from times[k] to times[k + 1]. Rows are independent, so each goes through
        its own steps: a network call takes the rows that are furthest behind, each at its own time, and is full as long
        as enough rows are left. Where calls of few tokens follow each other, rows wait for their draw until there are
        enough tokens for a projection onto the vocabulary. A state is yielded when all rows are past it: it is what is
        known by then, with later tokens masked.
        """
        (N, L), device = z.shape, denoiser.device
        rows_per_call, few = self.rows_for(denoiser, L), denoiser.shapes.few_rows
        z, v, due, call_times = send(z, device).clone(), v.flatten(), send(step, device), times.float()
        known = z.view(-1)  # what each row knows at its own time
        work, work_row, work_step = _work(step, len(times) - 1)
        queue = [(todo[0][0], row) for row, todo in enumerate(work) if todo]
        heapify(queue)
        yield Step(z.clone(), float(times[0]), torch.zeros(N, dtype=torch.int64))
        for k, end in enumerate(times[1:].tolist()):
            while queue and queue[0][0] <= k:
                turn: list[int] = []
                drawn: list[Tensor] = []
                hidden: list[Tensor] = []
                # calls that share a projection onto the vocabulary
                while not hidden or (len(queue) >= rows_per_call and sum(map(len, hidden)) < few):
                    behind = [heappop(queue)[1] for _ in range(min(rows_per_call, len(queue)))]
                    now, places = zip(*(work[row].popleft() for row in behind), strict=True)
                    where = torch.cat([place + n * L for n, place in enumerate(places)])
                    of_call = z[send(torch.tensor(behind), device)]
                    hidden.append(self.hidden(denoiser, of_call, call_times[list(now)], where))
                    drawn += [place + row * L for row, place in zip(behind, places, strict=True)]
                    turn += behind
                at = torch.cat(drawn)
                known[send(at, device)] = self.draw(denoiser, torch.cat(hidden), send(v[at], device))
                for row in turn:
                    if work[row]:
                        heappush(queue, (work[row][0][0], row))
            nfe = work_row[work_step <= k].bincount(minlength=N)
            yield Step(torch.where(due <= k, z, denoiser.mask_id), end, nfe)


def _work(step: Tensor, steps: int) -> tuple[list[deque[tuple[int, Tensor]]], Tensor, Tensor]:
    """The (step, places) of each row in order, and the row and the step of each of these E pairs, (E,) each.

    step: (N, L) as in `reveal_locked`; places: int64 (m,), m > 0, ascending.
    """
    row, place = (step >= 0).nonzero(as_tuple=True)
    key, order = (row * steps + step[row, place]).sort(stable=True)
    key, counts = key.unique_consecutive(return_counts=True)
    work: list[deque[tuple[int, Tensor]]] = [deque() for _ in step]
    for n, places in zip(key.tolist(), place[order].split(counts.tolist()), strict=True):
        work[n // steps].append((n % steps, places))
    return work, key // steps, key % steps
