"""Batches cut ahead of need: while a step computes, a thread cuts the rows of the next."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from mcd.data.loader import Batch


class Prefetch:
    """The batch of any step; asked for in order, each is ready when it is wanted.

    batch_of: a pure function of the step, as `Loader.batch`, so that it may be called early. One thread calls it, and
    what it raises is raised by `batch` of that step. pinned: the rows wait in pinned memory, so that a CUDA device
    copies them while it computes.
    """

    def __init__(self, batch_of: Callable[[int], Batch], pinned: bool = False):
        self.batch_of, self.pinned = batch_of, pinned
        self.thread = ThreadPoolExecutor(1, "prefetch")
        self.ahead: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        """The rows of step `step`, on the CPU; those of the next step are begun."""
        wanted = self.ahead.get(step) or self.thread.submit(self._cut, step)
        self.ahead = {step + 1: self.thread.submit(self._cut, step + 1)}
        return wanted.result()

    def _cut(self, step: int) -> Batch:
        batch = self.batch_of(step)
        return batch._replace(x0=batch.x0.pin_memory()) if self.pinned else batch

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.thread.shutdown(cancel_futures=True)
