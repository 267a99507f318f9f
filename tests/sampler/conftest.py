"""Denoisers that know the truth."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser


class Oracle(Denoiser):
    """Predicts every masked token exactly, from a table of the probabilities of all rows: (V,) * L."""

    table: Tensor

    def hidden(self, z_t, t, noise=None, rows=None, group=None):
        """Log-probs in the place of features, (n, V)."""
        L, V = self.table.ndim, len(self.table)
        found = []
        for row in z_t.tolist():
            seen = self.table[tuple(slice(None) if i == V else slice(i, i + 1) for i in row)]
            for position in range(L):
                p = seen.sum(dim=[n for n in range(L) if n != position])
                found.append(p if len(p) == V else torch.ones(V, dtype=torch.float64))  # visible: never asked for
        log_p = torch.stack([p / p.sum() for p in found]).log().float()
        return log_p if rows is None else log_p[rows]

    def logits(self, hidden):
        return hidden


@pytest.fixture
def oracle(tiny_denoiser) -> Callable[[Tensor], Oracle]:
    """The perfect model of a table of probabilities, (V,) * L."""

    def build(table: Tensor) -> Oracle:
        model = tiny_denoiser(V=len(table), length=table.ndim)
        model.__class__ = Oracle
        model.table = table.double() / table.double().sum()
        return model

    return build
