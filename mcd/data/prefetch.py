"""Batches cut ahead of need: while a step computes, a thread cuts the rows of the next."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor


class Prefetch:
    """The batch of any step, on `device`; asked for in order, each is ready when it is wanted.

    batch_of: a pure function of the step, as `Loader.batch`, so that it may be called early. One thread calls it, and
    what it raises is raised by `batch` of that step. For CUDA the rows wait in pinned memory and are copied while the
    device computes.
    """

    def __init__(self, batch_of: Callable[[int], Tensor], device: torch.device):
        self.batch_of, self.device = batch_of, device
        self.thread = ThreadPoolExecutor(1, "prefetch")
        self.ahead: dict[int, Future[Tensor]] = {}

    def batch(self, step: int) -> Tensor:
        """x0 of step `step`, (B, L) int64; that of the next step is begun."""
        wanted = self.ahead.get(step) or self.thread.submit(self._cut, step)
        self.ahead = {step + 1: self.thread.submit(self._cut, step + 1)}
        return wanted.result().to(self.device, non_blocking=True)

    def _cut(self, step: int) -> Tensor:
        x0 = self.batch_of(step)
        return x0.pin_memory() if self.device.type == "cuda" else x0

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.thread.shutdown(cancel_futures=True)
