"""The law of u when sampling: it decides when each token of a row is revealed.

Every order gives u marginally uniform on (low, 1], so each single token follows the masking process exactly; they
differ in how the tokens of a row depend on each other. A sampler whose rows start all masked draws above low = alpha_1.
Where some tokens of a row are given, the order runs only over the others: see `sample_u_of_row`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Order = Callable[[int, float, torch.Generator], Tensor]

BLOCKS = 8
"""Blocks of a row in `sample_u_blockwise`: each is an eighth of it."""
GOLDEN = (5.0**0.5 - 1.0) / 2.0
"""The number that is hardest to approximate by fractions: multiples of it, modulo 1, keep apart."""


def sample_u_iid(length: int, low: float, generator: torch.Generator) -> Tensor:
    """Independent thresholds, float64 (L,): the ancestral sampler of the masking process itself."""
    return low + (1.0 - low) * (1.0 - torch.rand(length, dtype=torch.float64, generator=generator))


def sample_u_stratified(length: int, low: float, generator: torch.Generator) -> Tensor:
    """One threshold in each L-th part of (low, 1], in random order, float64 (L,).

    Each of the N steps of a uniform grid then reveals L/N tokens (exactly when N divides L, else within two),
    instead of a binomial number.
    """
    return _u_of_rank(torch.randperm(length, generator=generator), low, generator)


def sample_u_low_discrepancy(length: int, low: float, generator: torch.Generator) -> Tensor:
    """Tokens that are revealed together are far apart, float64 (L,).

    Token i has the rank of its point in the golden-ratio sequence, i GOLDEN modulo 1, plus a random shift modulo L; the
    rest is as in `sample_u_stratified`, so counts are as equal. Multiples of the golden ratio come close to each other
    modulo 1 for distant i only: where N divides L, two tokens revealed in the same of N steps are more than 0.4 N apart
    (for every L up to 1,024; N would be a perfect comb, and a random order puts neighbours together). Every row goes
    through one cyclic order of tokens, from a random place on: only the shift and the jitter are random.

    Others spread what a step reveals too. Dilated schedules for masked language models (DUS, arXiv 2506.19037) divide
    the positions of a block into groups of tokens that are not adjacent, and reveal a group per step, in a fixed order.
    The Halton scheduler for masked image models (arXiv 2503.17076) reveals positions in the order of a low-discrepancy
    sequence in two dimensions. Here the sequence has one dimension, the whole row is one block, any number of steps
    reveals equal counts, and the random shift makes each u uniform on (low, 1]: a single token is revealed at a time
    that has the law of the masking process, so that the order changes nothing but what is revealed together.
    """
    point = torch.arange(length, dtype=torch.float64) * GOLDEN % 1.0
    rank = point.argsort().argsort() + torch.randint(length, (), generator=generator)
    return _u_of_rank(rank % length, low, generator)


def sample_u_blockwise(length: int, low: float, generator: torch.Generator) -> Tensor:
    """Blocks of consecutive tokens, one block after another from a random one on, float64 (L,).

    The row is cut into `BLOCKS` blocks of nearly equal length (into L when it is shorter). The block that begins is
    random and gets the lowest part of (low, 1], its right neighbour gets the next, and the first block follows the
    last. Without the random beginning a token's u would depend on its place, and no token would follow the masking
    process. In a block the order is that of `sample_u_stratified`, so counts are as equal where `BLOCKS` and N divide
    L.
    """
    blocks = min(BLOCKS, length)
    edges = [length * n // blocks for n in range(blocks + 1)]
    first = int(torch.randint(blocks, (), generator=generator))
    parts = [sample_u_stratified(edges[n + 1] - edges[n], 0.0, generator) + (n - first) % blocks for n in range(blocks)]
    return low + (1.0 - low) * torch.cat(parts) / blocks


def _u_of_rank(rank: Tensor, low: float, generator: torch.Generator) -> Tensor:
    """Thresholds in the parts of (low, 1] that belong to the ranks; rank (L,) is a permutation of 0 to L - 1."""
    jitter = 1.0 - torch.rand(len(rank), dtype=torch.float64, generator=generator)
    return low + (1.0 - low) * (rank + jitter) / len(rank)


ORDERS: dict[str, Order] = {
    "iid": sample_u_iid,
    "stratified": sample_u_stratified,
    "low-discrepancy": sample_u_low_discrepancy,
    "blockwise": sample_u_blockwise,
}


def sample_u_of_row(order: str, wanted: Tensor, low: float, generator: torch.Generator) -> Tensor:
    """Thresholds of a row of which only the tokens `wanted`, bool (L,), are revealed, float64 (L,); 0 for the others.

    The order runs over the wanted tokens as if they stood next to each other: ranks, counts and blocks are theirs, and
    the given ones take no part of (low, 1]. The threshold of a token is thus uniform on (low, 1], whatever is given.
    With "iid" it is also the same number, whatever is given.
    """
    if order == "iid":
        return sample_u_iid(len(wanted), low, generator).masked_fill(~wanted, 0.0)
    u = torch.zeros(len(wanted), dtype=torch.float64)
    if count := int(wanted.sum()):
        u[wanted] = ORDERS[order](count, low, generator)
    return u
