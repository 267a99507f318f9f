"""Times: stratified t for training, descending grids for sampling."""

import torch
from torch import Tensor


def stratified_t(n: int, low: float, high: float, generator: torch.Generator | None = None) -> Tensor:
    """n times, one in each n-th part of (low, high], float32 (n,).

    Each is uniform on its stratum, so the batch as a whole is uniform with far less variance than n free draws
    (MDLM's "antithetic" sampling); with low = delta it is the t of distillation (paper, Algorithm 1). 0 is never drawn:
    there is no noise at t = 0 and the bound's weight is infinite.
    """
    u = 1.0 - torch.rand(n, generator=generator)  # (0, 1]
    return low + (high - low) * (torch.arange(n) + u) / n


def descending_grid(steps: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    """`steps` + 1 times from `start` down to `end`, float64. Raises ValueError for steps < 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def sample_u(rows: int, length: int, generator: torch.Generator | None = None) -> Tensor:
    """Thresholds u ~ U(0, 1] for training, float32 (B, L): one per token locks its trajectory (paper, Theorem 3.3)."""
    return 1.0 - torch.rand(rows, length, generator=generator)
