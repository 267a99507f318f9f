"""How much arithmetic it takes to distil, to draw and to score, and how long this machine needs for it.

A multiply-add is two operations. Only matrix products are counted; all other work comes in through `OTHER`.
"""

import time
from collections.abc import Callable

import torch

from mcd.eval.laboratory.experiment import Cell
from mcd.model.linear import product
from mcd.model.sizes import Sizes
from mcd.training.estimate import Setup, flops

SMOLLM2 = 2 * 134.5e6 + 4 * 110 * 576 * 30
"""Operations for a token that SmolLM2-135M scores: two for each weight, and attention over 110 tokens in 30 layers."""
SCORED = 1.0
"""Tokens of SmolLM2 for a token of the model. They were 0.85 with a vocabulary of 2,048; longer tokens hold more."""
WANTED = 0.25
"""Share of the positions of a network call that the last block computes for a sampler, about."""
OTHER = 1 / 350e9
"""Seconds for an operation that go into all that is no matrix product: memory, norms, softmax, the optimiser."""


def calls_of(cell: Cell) -> float:
    """Network calls of a row, as expected: a step that reveals nothing makes none.

    With independent times, N steps miss all of L tokens with probability (1 - 1 / N)^L each; other orders have equal
    counts in their steps.
    """
    N, L = cell.steps, cell.length or 1
    return N * (1.0 - (1.0 - 1.0 / N) ** L) if dict(cell.options).get("order", "iid") == "iid" else float(min(N, L))


def distilling(sizes: Sizes, length: int, batch_size: int, steps: int) -> float:
    """Operations of a distillation by MCD."""
    return steps * sum(flops(Setup(sizes, batch_size, length)).values())


def drawing(sizes: Sizes, cell: Cell) -> float:
    """Operations of drawing the rows of a cell: a forward pass for each call, and the head once for each token."""
    length = cell.length or sizes.length
    per_token = calls_of(cell) * sizes.forward_flops(length, WANTED)
    return cell.num * length * (per_token + sizes.head_flops())


def scoring(cell: Cell) -> float:
    """Operations of scoring the texts of a cell by SmolLM2; another scorer counts as if it were of its size."""
    return 0.0 if cell.scorer is None else cell.num * (cell.length or 1) * SCORED * SMOLLM2


def seconds(operations: float, rate: float) -> float:
    """Time of some operations on a machine whose matrix products run at `rate` operations per second."""
    return operations * (1.0 / rate + OTHER)


def rate_of_products(budget_s: float = 0.25, clock: Callable[[], float] = time.perf_counter) -> float:
    """Operations per second of float32 products of the scorer's size on all threads: the best within `budget_s`."""
    m, k, n = 256, 576, 1536
    x, weight = torch.randn(m, k), torch.randn(n, k)
    end, best = clock() + budget_s, float("inf")
    while True:
        started = clock()
        product(x, weight)
        now = clock()
        best = min(best, now - started)
        if now >= end:
            return 2 * m * k * n / best
