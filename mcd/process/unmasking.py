"""Where u comes from when sampling: when is each token of a row revealed?

Every order gives u marginally uniform on (low, 1], so each token alone follows the masking process exactly; they differ
in how the tokens of a row depend on each other. A sampler that starts from all mask draws above low = alpha_1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Order = Callable[[int, float, torch.Generator], Tensor]


def sample_u_iid(length: int, low: float, generator: torch.Generator) -> Tensor:
    """Independent thresholds, float64 (L,): the ancestral sampler of the masking process itself."""
    return low + (1.0 - low) * (1.0 - torch.rand(length, dtype=torch.float64, generator=generator))


def sample_u_stratified(length: int, low: float, generator: torch.Generator) -> Tensor:
    """One threshold in each L-th part of (low, 1], in random order, float64 (L,).

    Each step of a uniform grid then reveals L/N tokens (exactly when N divides L, else within two), in place of a
    binomial number.
    """
    rank = torch.randperm(length, generator=generator)
    jitter = 1.0 - torch.rand(length, dtype=torch.float64, generator=generator)
    return low + (1.0 - low) * (rank + jitter) / length


ORDERS: dict[str, Order] = {"iid": sample_u_iid, "stratified": sample_u_stratified}
