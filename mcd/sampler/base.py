"""What a sampler is: a frozen dataclass of options and one generator that yields every state of a batch of rows."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.options import Natural, Options, Positive, Steps


@dataclass(frozen=True)
class Step:
    """A state between noise and text: z (N, L) ids at time t, and `nfe` (N,), the network calls made so far.

    t falls from 1, where all wanted tokens are blank, whatever else is given, to 0. It is the time of the process where
    the sampler follows its schedule, and the share of the steps that is left where it does not (`confidence`, `cad`,
    `causal`).
    """

    z: Tensor
    t: float
    nfe: Tensor


@dataclass(frozen=True)
class Sampler(Options, ABC):
    """A way to generate text. Rows are independent: a row depends only on (weights, seed, its number, options).

    Its fields are options of `mcd sample` and `mcd eval`.
    """

    name: ClassVar[str]
    process: ClassVar[Process] = "masked"
    """The kind of model that it draws from."""
    remasks: ClassVar[bool] = False
    """Whether a step may change generated tokens. If not, steps only ever reveal."""
    facts: ClassVar[Mapping[str, str]] = {"order": "iid", "precision": "fp64", "grid": "uniform t, 1 to 0"}
    """Fields of the protocol that every sampler has: the order of revealing, the precision of the draws, the times.
    A field
    of the same name takes its place."""
    likeliest: ClassVar[str] = "--sampler confidence --greedy takes the likeliest tokens"
    """How to take the likeliest tokens, which is the limit of low temperatures."""

    steps: Steps = 32
    """Steps from noise to text."""
    temperature: Positive = 1.0
    """Divisor of the log-probabilities."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Nucleus: tokens are drawn from the smallest set whose probabilities sum to this."""
    rows_per_call: Natural = 0
    """How many rows go through the network together. 0, the default, takes as many as the device is fast with: on a
    CPU as many as make 512 tokens (fewer for a model wider than 512), on a GPU 32,768 (fewer with little memory). Every
    call has exactly this many rows, filled up where there are fewer, so a row does not depend on the rows drawn with
    it. Another number changes the last bits of the matrix products, and now and then a token."""

    def __post_init__(self) -> None:
        if self.temperature == 0.0:
            raise ValueError(f"--temperature 0.0: must be positive; {self.likeliest}")
        super().__post_init__()

    @abstractmethod
    def trajectory(self, denoiser: Denoiser, z: Tensor, rows: Sequence[int], seed: int) -> Iterator[Step]:
        """Yield the start and the state after each step; the last one holds no blank.

        z: (N, L) ids, `denoiser.blank_id` where text is wanted; rows: their N numbers, which with `seed` key all
        randomness. States are on the denoiser's device. What is masked when follows from numbers that are drawn on the
        CPU, so positions are listed there and sent, and no step asks the device for a number (`process.transfer`).
        """

    def protocol(self) -> dict[str, Any]:
        """What decides the samples, for the stamp on every number: `facts`, and all options under their own names."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        del options["steps"], options["rows_per_call"]  # a row of results has its steps; for calls see `shapes_said`
        return {"sampler": self.name, **self.facts, **options}

    def rows_for(self, denoiser: Denoiser, length: int) -> int:
        """Rows of every network call for rows of `length` tokens, however many there are to draw."""
        return self.rows_per_call or denoiser.shapes.call_rows(length)

    def shapes_said(self, denoiser: Denoiser, length: int) -> str | None:
        """What the stamp says of the shapes in which a GPU draws, since they change bits; None for a CPU."""
        shapes = denoiser.shapes
        if shapes.device == "cpu":
            return None
        calls = self.rows_for(denoiser, length)
        return f"{shapes.device}: calls of {calls} rows, projections of {shapes.few_rows} or {shapes.many_rows}"

    def hidden(
        self,
        denoiser: Denoiser,
        z: Tensor,
        t: Tensor,
        where: Tensor,
        group: int | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Features (m, D) at the flat positions `where` (m,) of z (n, L) at times t (n,), n <= `rows_for`: one call.

        where, t: on the CPU, or already with z on the denoiser's device.

        group: as of `Denoiser.hidden`, by default `few_rows` of the device's shapes. noise: as of `Denoiser.hidden`, of
        all `rows_for` rows. The call is padded to `rows_for` rows.
        """
        rows = self.rows_for(denoiser, z.shape[1])
        z, t = padded(z, rows), padded(t, rows)
        return denoiser.hidden(z, t, noise, rows=where, group=group or denoiser.shapes.few_rows)


def padded(x: Tensor, rows: int) -> Tensor:
    """x (n, ...) and copies of its first row, (rows, ...), n <= rows."""
    return x if len(x) == rows else torch.cat((x, x[:1].expand(rows - len(x), *x.shape[1:])))


def parts(hidden: Tensor, group: int) -> Iterator[Tensor]:
    """Features (m, D), m > 0, in parts (group, D) for the head: the last is padded with zeros."""
    for part in hidden.split(group):
        yield torch.nn.functional.pad(part, (0, 0, 0, group - len(part))) if len(part) < group else part


def row_generator(seed: int, row: int) -> torch.Generator:
    """The random stream of one row, on the CPU; streams of different (seed, row) are unrelated."""
    key = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(key) >> 1)


def uniforms(streams: Sequence[torch.Generator], z: Tensor) -> Tensor:
    """A number in [0, 1) for each token of z (N, L), float64 on the CPU, from the streams of its N rows."""
    return torch.stack([torch.rand(z.shape[1], dtype=torch.float64, generator=stream) for stream in streams])
