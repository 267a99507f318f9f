"""Rows for training: the batch of step n is a pure function of (data, seed, n), so a resumed run sees the same rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcd.data.corpus import DataError
from mcd.data.shards import read_manifest, read_tokens


class Batch(NamedTuple):
    """Rows of a step: x0 (B, L) int64, and which of their positions are to be learnt, (B, L) bool; None for all."""

    x0: Tensor
    diffused: Tensor | None = None


@dataclass(frozen=True)
class Loader:
    """Cuts a token stream into rows and serves them in a new random order each epoch.

    Unwrapped rows begin at a new random offset of the stream each epoch, so that row borders move; with `wrap` a row is
    [EOS, length - 2 tokens, EOS] (MDLM). Unshuffled (validation), rows come in order from offset 0.
    Raises DataError for `wrap` without an EOS.
    """

    tokens: np.ndarray
    length: int
    batch_size: int
    eos_id: int | None
    wrap: bool = False
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.wrap and self.eos_id is None:
            raise DataError("--wrap: the data has no end-of-text token")

    @property
    def stride(self) -> int:
        """Tokens of the stream that a row takes."""
        return self.length - 2 if self.wrap else self.length

    @property
    def rows(self) -> int:
        """Rows in one epoch, whatever its offset."""
        return (len(self.tokens) - (self.stride if self.shuffle and not self.wrap else 0)) // self.stride

    def batch(self, step: int) -> Batch:
        """The rows of step `step` (counted from 0), of all processes together. A batch may span two epochs."""
        first = step * self.batch_size
        return Batch(torch.from_numpy(np.stack([self._row(first + i) for i in range(self.batch_size)])))

    def _row(self, index: int) -> np.ndarray:
        epoch, i = divmod(index, self.rows)
        offset, order = self._epoch(epoch)
        return self.row_at(offset + int(order[i] if order is not None else i) * self.stride)

    def row_at(self, start: int) -> np.ndarray:
        """The row whose tokens begin at `start` of the stream, (L,) int64."""
        row = self.tokens[start : start + self.stride].astype(np.int64)
        if not self.wrap:
            return row
        assert self.eos_id is not None
        return np.concatenate(([self.eos_id], row, [self.eos_id]))

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray | None]:
        if not self.shuffle:
            return 0, None
        cached: dict[int, tuple[int, np.ndarray | None]] = self.__dict__.setdefault("_epochs", {})
        if epoch not in cached:
            rng = np.random.default_rng([self.seed, epoch])
            offset = 0 if self.wrap else int(rng.integers(self.stride))
            cached.pop(epoch - 2, None)
            cached[epoch] = (offset, rng.permutation(self.rows))
        return cached[epoch]


def spread_rows(loader: Loader, num: int) -> Tensor:
    """At most `num` rows of an unshuffled loader, spread evenly over it and so over its documents, (N, L)."""
    num = min(num, loader.rows)
    starts = [i * loader.rows // num * loader.stride for i in range(num)]
    return torch.from_numpy(np.stack([loader.row_at(start) for start in starts]))


def open_loader(
    folder: Path,
    split: str,
    batch_size: int,
    length: int | None = None,
    seed: int = 0,
) -> Loader:
    """A loader over a prepared folder; "valid" is served in order. `length` overrides the manifest's.

    Raises DataError when the split is too short for one row, and for a batch or rows without tokens.
    """
    manifest = read_manifest(folder)
    recipe = manifest["recipe"]
    if batch_size < 1:
        raise DataError(f"--batch-size {batch_size}: must be at least 1")
    loader = Loader(
        tokens=read_tokens(folder, split),
        length=recipe["length"] if length is None else length,
        batch_size=batch_size,
        eos_id=manifest["eos_id"],
        wrap=recipe["wrap"],
        shuffle=split == "train",
        seed=seed,
    )
    if loader.stride < 1:
        raise DataError(f"--length {loader.length}: must be at least {3 if loader.wrap else 1}")
    if loader.rows < 1:
        raise DataError(f"--length {loader.length}: {folder} has only {len(loader.tokens)} {split} tokens")
    return loader
