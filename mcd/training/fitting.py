"""How many rows fit the memory of a GPU: a size is tried, and a smaller one where the memory is not enough."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch


def largest(batches: Sequence[int], work: Callable[[int], Any]) -> int:
    """The first of falling `batches` with which `work` does not run out of memory; raises if it does with the last."""
    for batch in batches[:-1]:
        try:
            work(batch)
            return batch
        except torch.OutOfMemoryError:
            pass
        clean()
    work(batches[-1])
    return batches[-1]


def clean() -> None:
    """Give back what is not used any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
