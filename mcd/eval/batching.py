"""Rows of token ids through a network in batches of about one length, several batches at a time on a CPU."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

BATCH_TOKENS = 256  # of one network call, padding included; more is no faster on a CPU


def in_batches(
    rows: Sequence[list[int]], context: int, work: Callable[[list[list[int]]], Any], device: str
) -> Iterator[tuple[int, Any]]:
    """(number, result) of each row longer than `context`; `work` gives the results of a batch of rows, in order."""
    groups = list(batches([len(row) - context for row in rows]))
    results = _one_thread_each(work, [[rows[i] for i in group] for group in groups], device)
    for group, found in zip(groups, results, strict=True):
        yield from zip(group, found, strict=True)


def batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices of the rows with something to do, longest first, in batches of at most BATCH_TOKENS when padded."""
    order = sorted((i for i, length in enumerate(lengths) if length > 0), key=lambda i: -lengths[i])
    while order:
        rows = max(1, BATCH_TOKENS // lengths[order[0]])
        yield order[:rows]
        order = order[rows:]


def _one_thread_each(work: Callable[[Any], Any], items: list[Any], device: str) -> list[Any]:
    """`work` of each item, on a CPU as many at once as torch has threads, each on one thread of its own.

    Threads that share one small matrix product wait for each other some 700 times per batch. On an idle machine this
    costs little; next to another job it was measured to be 14 to 30 times slower. Results do not depend on the thread
    count.
    """
    if device != "cpu":
        return [work(item) for item in items]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)  # the workers' setting is theirs, but new threads would start from it
