"""What the row of a request asks the scheduler for: network calls, projections onto the vocabulary, and to pause."""

from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.process.transfer import send


@dataclass(eq=False)
class Call:
    """A network call that one row of `length` tokens asks for: the arguments of `Denoiser.hidden`."""

    z_t: Tensor
    t: Tensor
    noise: Tensor | None
    rows: Tensor
    group: int

    size = 1
    """How much of the room of a call it takes."""

    @property
    def kind(self) -> tuple[Any, ...]:
        """Calls of one kind can be one call."""
        return self.z_t.shape[1], self.group, self.noise is None


@dataclass(eq=False)
class Projection:
    """Features (n, D) that one row projects onto the vocabulary, n of the `group` of a product."""

    hidden: Tensor
    group: int

    @property
    def size(self) -> int:
        """How much of the room of a product it takes."""
        return len(self.hidden)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Projections of one kind can be one product."""
        return (self.group,)


@dataclass(eq=False)
class Pause:
    """Nothing: a row that computes by itself lets others go first."""

    size, kind = 1, ("pause",)


def ask(request: Call | Projection | Pause) -> Any:
    """Hand the request of this greenlet to the scheduler that runs it; returns what it answers."""
    parent = getcurrent().parent
    assert parent is not None
    return parent.switch(request)


class Asking(Denoiser):
    """A denoiser of the same network, whose calls are made by the scheduler that runs the greenlet."""

    def __init__(self, denoiser: Denoiser):
        super().__init__(denoiser.config, denoiser.backbone)
        self.locked, self.folder, self.shapes = denoiser.locked, denoiser.folder, denoiser.shapes
        self.dtype = denoiser.dtype
        self.eval()

    def hidden(
        self,
        z_t: Tensor,
        t: Tensor,
        noise: Tensor | None = None,
        rows: Tensor | None = None,
        group: int | None = None,
    ) -> Tensor:
        """As of `Denoiser`, for one row; positions are made in groups, so that their number changes no bit."""
        rows, device = torch.arange(z_t.shape[1]) if rows is None else rows, self.device
        z_t, t, rows = (send(x, device) for x in (z_t, t, rows))
        return ask(Call(z_t, t, noise, rows, group or self.shapes.few_rows))

    def logits(self, hidden: Tensor, first: int | None = None) -> Tensor:
        """As of `Denoiser`; where not all are wanted, those of other rows take the place of the others."""
        if first is None:
            return super().logits(hidden)
        return ask(Projection(hidden[:first], len(hidden)))
