"""Rows whose whole schedule is known before the first network call: each goes through its own steps, in full calls."""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.sampler.base import Sampler, Step
from mcd.sampler.padded import FEW, draw, hidden_of_call


def reveal_locked(
    sampler: Sampler, denoiser: Denoiser, z: Tensor, step: Tensor, v: Tensor, times: Tensor
) -> Iterator[Step]:
    """The trajectory of rows z (N, L), of which the token at (n, i) is revealed in step `step[n, i]` and drawn at v.

    step: (N, L) int64, on the CPU, below 0 for tokens that are given; v: (N, L) in [0, 1]; times: (steps + 1,) from
    1 to 0, step k going from times[k] to times[k + 1]. Rows are independent, so they need not march together: a network
    call takes the rows that are furthest behind, each at its own time, and is full as long as enough rows are left. A
    step in which a row reveals nothing costs it nothing. Where calls of few tokens follow each other, rows wait for
    their draw until a projection onto the vocabulary is worth its while. A state is yielded when all rows are past it:
    it is what is known by then, with later tokens masked.
    """
    N, L = z.shape
    rows_per_call, steps, device = sampler.rows_for(denoiser, L), len(times) - 1, z.device
    z, v, due, call_times = z.clone(), v.flatten(), step.to(device), times.to(device, torch.float32)
    known = z.view(-1)  # of each row what it knows at its own time
    work, work_row, work_step = _work(step, steps)
    queue = [(todo[0][0], row) for row, todo in enumerate(work) if todo]
    heapify(queue)
    yield Step(z.clone(), float(times[0]), torch.zeros(N, dtype=torch.int64))
    for k in range(steps):
        while queue and queue[0][0] <= k:
            turn: list[int] = []
            there: list[Tensor] = []
            hidden: list[Tensor] = []
            # calls that share a projection onto the vocabulary
            while not hidden or (len(queue) >= rows_per_call and sum(map(len, hidden)) < FEW):
                behind = [heappop(queue)[1] for _ in range(min(rows_per_call, len(queue)))]
                now, places = zip(*(work[row].popleft() for row in behind), strict=True)
                where = torch.cat([place + n * L for n, place in enumerate(places)]).to(device)
                hidden.append(hidden_of_call(denoiser, z[behind], call_times[list(now)], where, rows_per_call))
                there += [place + row * L for row, place in zip(behind, places, strict=True)]
                turn += behind
            at = torch.cat(there).to(device)
            known[at] = draw(sampler, denoiser, torch.cat(hidden), v[at])
            for row in turn:
                if work[row]:
                    heappush(queue, (work[row][0][0], row))
        nfe = work_row[work_step <= k].bincount(minlength=N)
        yield Step(torch.where(due <= k, z, denoiser.mask_id), float(times[k + 1]), nfe)


def _work(step: Tensor, steps: int) -> tuple[list[deque[tuple[int, Tensor]]], Tensor, Tensor]:
    """What there is to do: of each row its (step, places) in order; and the row and the step of each of them, (E,).

    step: (N, L) as in `reveal_locked`; places: int64 (m,), m > 0, ascending.
    """
    row, place = (step >= 0).nonzero(as_tuple=True)
    key, order = (row * steps + step[row, place]).sort(stable=True)
    key, counts = key.unique_consecutive(return_counts=True)
    work: list[deque[tuple[int, Tensor]]] = [deque() for _ in step]
    for n, places in zip(key.tolist(), place[order].split(counts.tolist()), strict=True):
        work[n // steps].append((n % steps, places))
    return work, key // steps, key % steps
