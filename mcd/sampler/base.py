"""What a sampler is: a frozen dataclass of options and one generator that yields every state of a batch of rows."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process

CALL_TOKENS = 512
"""Most tokens of a network call when nothing else is asked for."""
CALL_SIZE = 1 << 18
"""And most tokens times the model's width: a wide model keeps a processor busy with fewer tokens."""


@dataclass(frozen=True)
class Step:
    """A state on the way from mask to text: z (N, L) ids at time t, and `nfe` (N,), the network calls made so far.

    t goes from 1, where all that is wanted is blank, whatever else is given, to 0. It is the time of the process where
    the sampler follows its schedule, and the share of the steps that is left where it does not (`confidence`, `cad`,
    `causal`).
    """

    z: Tensor
    t: float
    nfe: Tensor


_GREEDY = {
    "masked": "--sampler confidence --greedy takes the likeliest tokens",
    "uniform": "--tail greedy ends with the likeliest tokens",
    "autoregressive": "--temperature 1e-6 takes the likeliest tokens, ties and near-ties aside",
}
"""How a sampler without `greedy` is made to take the likeliest tokens, by the kind of its models."""


@dataclass(frozen=True)
class Sampler(ABC):
    """A way to generate. Rows are independent: a row is a function of (weights, seed, its number, options) alone.

    `process` is the kind of model it draws from. Its options, `steps` apart, are those of `mcd sample --sampler NAME`.
    """

    name: ClassVar[str]
    process: ClassVar[Process] = "masked"
    remasks: ClassVar[bool] = False
    """Whether a step may change generated tokens. If not, steps only ever reveal."""

    steps: int = 32
    """Steps from noise to text."""
    temperature: float = 1.0
    """Divides the log-probabilities."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with so much mass."""
    rows_per_call: int = 0
    """Rows of every network call, padded; 0: as many as make 512 tokens (341 at width 768), at least 1. Fixed, so
    that what shares a call never changes a row: another number is another shape of matrix products, whose last bits may
    differ and now and then flip a draw."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"--steps {self.steps}: must be at least 1")
        if self.rows_per_call < 0:
            raise ValueError(f"--rows-per-call {self.rows_per_call}: must be at least 0")
        if not 0.0 < self.temperature < math.inf:
            greedy = f"; {self._greedy()}" if self.temperature == 0.0 else ""
            raise ValueError(f"--temperature {self.temperature}: must be positive and finite{greedy}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"--top-p {self.top_p}: must be in (0, 1]")

    def _greedy(self) -> str:
        """How to draw the likeliest tokens, the limit of low temperatures, in words."""
        if hasattr(self, "greedy"):
            return "--greedy takes the likeliest tokens"
        return _GREEDY[self.process]

    def rows_for(self, denoiser: Denoiser, length: int) -> int:
        """Rows of every network call for rows of `length` tokens, however many there are to draw."""
        tokens = min(CALL_TOKENS, CALL_SIZE // denoiser.config.backbone.hidden)
        return self.rows_per_call or max(1, tokens // length)

    @abstractmethod
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        """Yield the start and the state after each step; the last one holds no blank.

        z: (N, L) ids, `denoiser.blank_id` where text is wanted; rows: their N numbers, which with `seed` key all
        randomness.
        """

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """The options that decide what the samples are, for the stamp on every number."""


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    num: int,
    length: int,
    seed: int = 0,
    first_row: int = 0,
    template: Tensor | None = None,
    tell: Callable[[float], None] | None = None,
    frame: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows `first_row` to `first_row + num` of a seed: ids (N, L) int64 and network calls (N,).

    template: (L,) ids, `denoiser.blank_id` where text is wanted; tell: is called after each step with the share of the
    steps that is done; frame: ids of two of the L tokens, which begin and end each row: they are given and visible, and
    left out of template and result, which are then (L - 2,) and (N, L - 2). Raises ValueError for a model of another
    process than the sampler's, lengths the model cannot make, and a template of another length or with ids it does not
    know.
    """
    if sampler.process != denoiser.config.process:
        raise ValueError(
            f"--sampler {sampler.name}: draws from {sampler.process} models, not {denoiser.config.process}"
        )
    if not 1 <= length <= denoiser.config.backbone.length:
        raise ValueError(f"--length {length}: the model makes 1 to {denoiser.config.backbone.length} tokens")
    if num < 1:
        raise ValueError(f"--num {num}: must be at least 1")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: must be at least 0 and below 2**63")
    around = 0 if frame is None else 2
    row = torch.full((length - around,), denoiser.blank_id) if template is None else template
    if frame is not None:
        row = framed(row, frame)
    if row.shape != (length,):
        raise ValueError(f"--template of {row.numel() - around} tokens: --length is {length}")
    ids = max(denoiser.config.vocab_size, denoiser.blank_id + 1)
    if not ((row >= 0) & (row < ids)).all():
        raise ValueError(f"--template: holds ids outside the model's {ids}")
    z = row.to(denoiser.device).repeat(num, 1)
    trajectory = sampler.trajectory(denoiser, z, range(first_row, first_row + num), seed)
    last = next(trajectory)
    for last in trajectory:
        if tell:
            tell(1.0 - last.t)
    z = last.z.cpu()
    return z if frame is None else z[:, 1:-1], last.nfe


def framed(row: Tensor, frame: tuple[int, int]) -> Tensor:
    """A row of ids (L,) between the two of a frame, (L + 2,)."""
    first, last = torch.tensor(frame, dtype=row.dtype).split(1)
    return torch.cat((first, row, last))


def row_generator(seed: int, row: int) -> torch.Generator:
    """The random stream of one row, on the CPU; streams of different (seed, row) are unrelated."""
    key = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(key) >> 1)
