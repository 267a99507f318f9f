"""Ancestral sampling with two locked scalars a token: u says when it is revealed, v says what is drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.timestep import descending_grid
from mcd.process.unmasking import ORDERS, sample_u_of_row
from mcd.sampler.base import Sampler, Step, row_generator
from mcd.sampler.locked import reveal_locked


@dataclass(frozen=True)
class Ancestral(Sampler):
    """The reverse process (paper, Eq. 6) on a uniform grid from t = 1 to t = 0, driven by locked scalars.

    Token i is revealed in the step s < t with alpha_t < u_i <= alpha_s, as the masking operator (Eq. 13) run backwards,
    and drawn from p_theta(. | z_t) by inverse CDF at v_i. Since u is known beforehand, a step computes logits only for
    the tokens it reveals, a row that reveals nothing does not enter the network, and rows do not wait for each other.
    The last step ends at alpha = 1: there is no extra call for "noise removal".

    `order` is the law of u within a row (`process.unmasking`): "iid" is the plain ancestral sampler. The others run
    over the masked tokens of a row alone, so that given ones take no share of the steps.
    The softmax and the inverse CDF are always float64.
    """

    name: ClassVar[str] = "ancestral"

    order: str = "iid"
    """When masked tokens are revealed: iid; stratified (equal counts a step); low-discrepancy (equal counts, and tokens
    of a step far apart); blockwise (equal counts, one block after another from a random one on)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ValueError(f"--order {self.order}: known are {', '.join(ORDERS)}")

    def protocol(self) -> dict[str, Any]:
        return {
            "sampler": self.name,
            "order": self.order,
            "precision": "fp64",
            "grid": "uniform t, 1 to 0",
            "temperature": self.temperature,
            "top_p": self.top_p,
        }

    @torch.inference_mode()
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        grid = descending_grid(self.steps)
        alpha = denoiser.config.schedule.alpha(grid)
        masked = (z == denoiser.mask_id).cpu()
        u, v = self._locked_scalars(masked, rows, seed, float(alpha[0]))
        step = torch.searchsorted(alpha[1:-1], u)  # the first with u <= alpha_s, or the last: alpha_0 may round below 1
        step = step.masked_fill(~masked, -1)
        yield from reveal_locked(self, denoiser, z, step, v.to(z.device), grid)

    def _locked_scalars(self, masked: Tensor, rows: Sequence[int], seed: int, alpha_1: float) -> tuple[Tensor, Tensor]:
        """u, v (N, L) float64 of rows that are `masked`, bool (N, L), at first.

        Both are drawn per row from its own stream; u in (alpha_1, 1] of masked tokens, else 0; v in [0, 1).
        """
        draws = []
        for masked_row, row in zip(masked, rows, strict=True):
            generator = row_generator(seed, row)
            u = sample_u_of_row(self.order, masked_row, alpha_1, generator)
            draws.append((u, torch.rand(len(masked_row), dtype=torch.float64, generator=generator)))
        return torch.stack([u for u, _ in draws]), torch.stack([v for _, v in draws])
