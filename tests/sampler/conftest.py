"""Denoisers whose predictions are known: one that knows the truth, and one that looks up whatever it says."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.locked import LockedInput
from mcd.process.schedule import LogLinear


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

    def logits(self, hidden, first=None):
        return hidden[:first]


@pytest.fixture
def model(tiny_denoiser):
    """A masked model of 23 tokens for rows of 16, with random weights."""
    return tiny_denoiser(V=23, length=16).requires_grad_(False)


@pytest.fixture
def oracle(tiny_denoiser) -> Callable[[Tensor], Oracle]:
    """The perfect model of a table of probabilities, (V,) * L."""

    def build(table: Tensor) -> Oracle:
        model = tiny_denoiser(V=len(table), length=table.ndim)
        model.__class__ = Oracle
        model.table = table.double() / table.double().sum()
        return model

    return build


@dataclass(frozen=True)
class MaskInside(DenoiserConfig):
    """As of an adapted network: the mask is one of the columns of the head, and its probability is 0."""

    @property
    def vocab_size(self):
        return self.backbone.rows

    @property
    def forbidden(self):
        return (self.mask_id,)


class Table(Denoiser):
    """Any prediction for any state: log-probs are looked up, and change linearly in t where the model is told the time.

    Predictions of a position do not fit those of another, nor those at another time: only a sampler that asks for the
    right state at the right time, and draws as it says, has the law that its definition gives.
    """

    def __init__(self, config, seed):
        torch.nn.Module.__init__(self)
        self.config, self.locked = config, LockedInput((), config.vocab_size, 1)  # nothing is shown
        rows, L, columns = config.backbone.rows, config.backbone.length, config.vocab_size
        generator = torch.Generator().manual_seed(seed)
        self.base, self.slope = (1.5 * torch.randn(rows**L, L, columns, generator=generator) for _ in range(2))
        self.slope *= 2.0 * config.time_conditioned
        if columns == rows and config.mask_id is not None:
            self.base[..., config.mask_id] = -3e4

    @property
    def device(self):
        return self.base.device

    def table(self, z, t):
        """Log-probs (n, L, V) of states z (n, L) at times t (n,). A causal network sees what is up to a position."""
        places = self.config.backbone.rows ** torch.arange(z.shape[1])
        state = (z * places).sum(1, keepdim=True).expand(z.shape)
        if self.config.backbone.causal:
            state = (z * places).cumsum(1)
        each = state, torch.arange(z.shape[1])
        return (self.base[each] + t[:, None, None] * self.slope[each]).log_softmax(-1)

    def hidden(self, z_t, t, noise=None, rows=None, group=None):
        """Log-probs in the place of features."""
        log_p = self.table(z_t, t).flatten(0, 1)
        return log_p if rows is None else log_p[rows]

    def logits(self, hidden, first=None):
        return hidden[:first]

    def reader(self, rows, length):
        return _Reading(self, rows)


class _Reading:
    """A `Reader` that keeps what it read, and looks it up as a row of its length."""

    def __init__(self, table, rows):
        self.table, self.rows, self.ids = table, rows, torch.zeros(rows, 0, dtype=torch.int64)

    def read(self, ids):
        ids = torch.cat((ids, ids[:1].expand(self.rows - len(ids), -1)))
        self.ids = torch.cat((self.ids, ids), dim=1)
        return self.table.table(self.ids, torch.zeros(self.rows))[:, -1]


@pytest.fixture(scope="session")
def table_denoiser() -> Callable[..., Table]:
    """A `Table` of V real tokens for rows of L, of a process; the mask is beside the tokens or inside the columns."""

    def build(V, L, process="masked", schedule=None, time_conditioned=False, inside=False, seed=0) -> Table:
        backbone = DiTConfig(V + (process != "uniform"), 2, 1, 1, L, 2, causal=process == "autoregressive")
        kind = MaskInside if inside and process == "masked" else DenoiserConfig
        mask_id = None if process == "uniform" else V
        return Table(kind(backbone, mask_id, schedule or LogLinear(), time_conditioned), seed)

    return build
