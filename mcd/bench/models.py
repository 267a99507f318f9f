"""Networks to measure: random weights that are the same in every process, without zero gates or heads."""

from dataclasses import dataclass

import torch

from mcd.model.denoiser import Denoiser, DenoiserConfig, Process
from mcd.model.dit import DiTConfig


@dataclass(frozen=True)
class Size(DiTConfig):
    """A network to measure, and its process."""

    rows: int = 50_258
    length: int = 256
    dropout: float = 0.0
    gate_init: float = 1.0
    process: Process = "masked"


CPU = torch.device("cpu")
SMALL = Size()
"""DiT-small with GPT-2's vocabulary and the mask: 169,627,218 parameters."""


def random_denoiser(size: Size, seed: int, device: torch.device = CPU) -> Denoiser:
    """A denoiser of random weights, a function of the arguments. Gates are 1; heads and modulations are not zero.

    It is made on `device`, whose random numbers are others than those of a CPU.
    """
    torch.manual_seed(seed)
    uniform = size.process == "uniform"
    with device:
        denoiser = Denoiser(DenoiserConfig(size, None if uniform else size.rows - 1, time_conditioned=uniform))
    with torch.no_grad():
        for name, p in denoiser.backbone.named_parameters():
            if name.endswith("adaLN.weight") or name.startswith("head.linear"):
                p.normal_(std=0.02)
    return denoiser


def random_rows(size: Size, batch: int, seed: int) -> torch.Tensor:
    """(B, L) ids of real tokens, a function of the arguments."""
    real = size.rows - (size.process != "uniform")
    return torch.randint(real, (batch, size.length), generator=torch.Generator().manual_seed(seed))
