"""Rows for training: the batch of step n is a pure function of (data, seed, n), so a resumed run sees the same rows."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcd.data.manifest import read_manifest
from mcd.data.tokens import Tokens, read_tokens
from mcd.errors import DataError


class Batch(NamedTuple):
    """Rows of a step: x0 (B, L) int64, and which of their positions are to be learnt, (B, L) bool; None for all.

    counted: (B,), the number of tokens that a figure per token divides by: those of an answer and its first end of
    text, without the padding behind it, which is learnt and adds no text. None for all that are to be learnt.
    """

    x0: Tensor
    diffused: Tensor | None = None
    counted: Tensor | None = None

    def split(self, rows: int) -> list["Batch"]:
        """The batch in parts of that many rows, the last one perhaps of fewer."""
        x0 = self.x0.split(rows)
        diffused, counted = ([None] * len(x0) if part is None else part.split(rows) for part in self[1:])
        return [Batch(*part) for part in zip(x0, diffused, counted, strict=True)]


@dataclass(frozen=True)
class Loader:
    """Cuts a token stream into rows and serves them in a new random order each epoch.

    Unwrapped rows begin at a new random offset of the stream each epoch, so that row borders move. With `wrap` a row is
    [EOS, length - 2 tokens, EOS] (MDLM). With `spans` the stream holds whole rows, each behind the begin and end of
    what is to be learnt of it (packing "rows", see `mcd.data.prepare.pipeline`). With `frame` a row is [its first,
    length - 2 tokens, its second], and these two are always visible: not to be learnt. Unshuffled (validation), rows
    come in order from offset 0. Raises DataError for `wrap` without an EOS.
    """

    tokens: np.ndarray | Tokens
    length: int
    batch_size: int
    eos_id: int | None
    wrap: bool = False
    shuffle: bool = True
    seed: int = 0
    spans: bool = False
    frame: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.wrap and self.eos_id is None:
            raise DataError("--wrap: the data has no end-of-text token")

    @property
    def stride(self) -> int:
        """Values of the stream that a row takes."""
        return self.length + 2 * self.spans - 2 * (self.wrap or self.frame is not None)

    @property
    def rows(self) -> int:
        """Rows in one epoch, whatever its offset."""
        return (len(self.tokens) - (self.stride if self._moves else 0)) // self.stride

    @property
    def _moves(self) -> bool:
        """Do row borders move from epoch to epoch?"""
        return self.shuffle and not self.wrap and not self.spans

    def batch(self, step: int) -> Batch:
        """The rows of step `step` (counted from 0), of all processes together. A batch may span two epochs."""
        starts = []
        for index in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, i = divmod(index, self.rows)
            offset, order = self._epoch(epoch)
            starts.append(offset + int(i if order is None else order[i]) * self.stride)
        return self.at(starts)

    def at(self, starts: Sequence[int]) -> Batch:
        """The rows that begin at those values of the stream."""
        x0 = np.empty((len(starts), self.length), np.int64)
        ends = self.frame if self.eos_id is None or not self.wrap else (self.eos_id, self.eos_id)
        for row, start in zip(x0, starts, strict=True):
            if ends is not None:
                row[0], row[-1] = ends
                row = row[1:-1]
            row[:] = self.tokens[start + 2 * self.spans : start + self.stride]
        return Batch(torch.from_numpy(x0), self._diffused(starts))

    def stream(self) -> np.ndarray:
        """All tokens in their order, (N,), in memory."""
        values = self.tokens[:]
        return values.reshape(-1, self.stride)[:, 2:].reshape(-1) if self.spans else values

    def _diffused(self, starts: Sequence[int]) -> Tensor | None:
        if self.frame is not None:
            inside = torch.ones(len(starts), self.length, dtype=torch.bool)
            inside[:, 0] = inside[:, -1] = False
            return inside
        if not self.spans:
            return None
        ends = np.array([self.tokens[start : start + 2] for start in starts], np.int64).reshape(-1, 2)
        begin, end = torch.from_numpy(ends).T[..., None]
        i = torch.arange(self.length)
        return (begin <= i) & (i < end)

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray | None]:
        """Where the first row of an epoch begins, and the order of its rows."""
        if not self.shuffle:
            return 0, None
        cached: dict[int, tuple[int, np.ndarray | None]] = self.__dict__.setdefault("_epochs", {})
        if epoch not in cached:
            rng = np.random.default_rng([self.seed, epoch])
            offset = int(rng.integers(self.stride)) if self._moves else 0
            cached.pop(epoch - 2, None)
            cached[epoch] = (offset, rng.permutation(self.rows))
        return cached[epoch]


def spread_rows(loader: Loader, num: int) -> Tensor:
    """At most `num` rows of an unshuffled loader, spread evenly over it and so over its documents, (N, L).

    They are rows of text: what a frame puts around them is left out, (N, L - 2).
    """
    x0 = spread_batch(loader, num).x0
    return x0 if loader.frame is None else x0[:, 1:-1]


def spread_batch(loader: Loader, num: int) -> Batch:
    """The rows of `spread_rows`, with their frame, what is to be learnt of them and what counts."""
    num = min(num, loader.rows)
    batch = loader.at([i * loader.rows // num * loader.stride for i in range(num)])
    if batch.diffused is None or not loader.spans:
        return batch
    begin = batch.diffused.int().argmax(1)
    ends = (batch.x0 == loader.eos_id).flip(1).int().cumprod(1).sum(1)  # how many fill the row
    return batch._replace(counted=loader.length - ends + 1 - begin)


def open_loader(folder: Path, split: str, batch_size: int, length: int | None = None, seed: int = 0) -> Loader:
    """A loader over a prepared folder; "valid" is served in order. `length` overrides the manifest's.

    Raises DataError when the split is too short for one row, for a batch or rows without tokens, and for another
    length than that of data packed in rows.
    """
    manifest = read_manifest(folder)
    recipe = manifest["recipe"]
    if batch_size < 1:
        raise DataError(f"--batch-size {batch_size}: must be at least 1")
    if manifest["packing"] == "rows" and length not in (None, recipe["length"]):
        raise DataError(f"--length {length}: {folder} holds rows of {recipe['length']}; prepare it with that --length")
    loader = Loader(
        tokens=read_tokens(folder, split),
        length=recipe["length"] if length is None else length,
        batch_size=batch_size,
        eos_id=manifest["eos_id"],
        wrap=recipe["wrap"],
        shuffle=split == "train",
        seed=seed,
        spans=manifest["packing"] == "rows",
        frame=None if manifest["frame"] is None else tuple(manifest["frame"]),
    )
    if loader.stride < 1:
        raise DataError(f"--length {loader.length}: must be at least {3 if loader.wrap or loader.frame else 1}")
    if loader.rows < 1:
        raise DataError(f"--length {loader.length}: {folder} has only {len(loader.tokens)} {split} tokens")
    return loader


class Prefetch:
    """The batch of any step, cut ahead: while a step computes, a thread cuts the rows of the next.

    batch_of: a pure function of the step, as `Loader.batch`, so that it may be called early. One thread calls it, and
    what it raises is raised by `batch` of that step.
    """

    def __init__(self, batch_of: Callable[[int], Batch]):
        self.batch_of = batch_of
        self.thread = ThreadPoolExecutor(1, "prefetch")
        self.ahead: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        """The rows of step `step`, on the CPU; the thread begins those of the next step."""
        wanted = self.ahead.get(step) or self.thread.submit(self.batch_of, step)
        self.ahead = {step + 1: self.thread.submit(self.batch_of, step + 1)}
        return wanted.result()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)
