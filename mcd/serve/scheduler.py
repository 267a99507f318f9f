"""The rows of many requests through one network: a row that needs a network call waits until it is its turn, and shares
the call with other rows.

Each row is drawn by its sampler, unchanged (`mcd.sampler.states`), in a greenlet of its own. The denoiser that it gets
hands every call of the network, and every projection onto the vocabulary, to the scheduler, and the row goes on when
the result is there (`mcd.serve.asking`). Rows of any request, sampler and step share a call if they have the same
length and kind of input; any rows share a projection.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from greenlet import GreenletExit, greenlet
from torch import Tensor

from mcd.api.model import Request
from mcd.model.denoiser import Denoiser
from mcd.sampler import Step, states
from mcd.sampler.base import parts
from mcd.serve.asking import Asking, Call, Pause, Projection, ask


class Busy(Exception):
    """As many rows are in work as are accepted. `retry_after_s`: when some are done, at the rate of late."""

    def __init__(self, retry_after_s: int):
        super().__init__(f"the server has as much work as it accepts; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Closed(Exception):
    """The scheduler is closed and accepts nothing."""


@dataclass(eq=False)
class Job:
    """Rows `first_row` to `first_row + num` of a request.

    tell: is called with the number of a row and each of its states; end: once, after the last one, with the error if
    there was one. Both are called in the thread of the scheduler, and must not block.
    """

    request: Request
    num: int
    seed: int
    tell: Callable[[int, Step], None]
    end: Callable[[Exception | None], None]
    first_row: int = 0
    cancelled: bool = False
    left: int = 0

    def cancel(self) -> None:
        """Let no row of it make another network call, and others be accepted in its place. `end` is not called then."""
        self.cancelled = True


@dataclass
class Counts:
    """What a scheduler has done: network calls, the rows in them, and the rows that they had room for."""

    calls: int = 0
    rows: int = 0
    room: int = 0


@dataclass(eq=False)
class _Row:
    job: Job
    work: greenlet
    call: Call | Projection | Pause = field(init=False)


class Scheduler:
    """Draws the rows of jobs in one thread. The next call is that of the row that has waited longest.

    Every network call has as many rows as `Sampler.rows_for` says, filled up by copies, so that the bits of a row do
    not depend on its company: they are those of `Model.sample` and `Model.infill`. capacity: rows that are accepted and
    not done.
    """

    def __init__(self, denoiser: Denoiser, capacity: int = 256):
        self.denoiser, self.capacity, self.counts = denoiser, capacity, Counts()
        self._asking = Asking(denoiser)
        self._new: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock, self._open = threading.Lock(), True
        self._jobs, self._row_s = set[Job](), 0.0  # that are accepted and not done
        self._waiting: list[_Row] = []
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def accepted(self) -> int:
        """Rows that are accepted and not done; none of a cancelled job, though the call that it is in goes on."""
        with self._lock:
            return self._count()

    @property
    def ready(self) -> bool:
        """Whether it accepts jobs and its thread is alive."""
        return self._open and self._thread.is_alive()

    def submit(self, *jobs: Job) -> None:
        """Accept jobs, all or none. Raises Busy or Closed."""
        num = sum(job.num for job in jobs)
        with self._lock:
            if not self.ready:
                raise Closed("the server is shutting down")
            if (accepted := self._count()) + num > self.capacity:
                raise Busy(max(1, math.ceil(min(accepted, num) * self._row_s)))
            for job in jobs:
                job.left = job.num
                self._jobs.add(job)
                self._new.put(job)

    def close(self, wait_s: float | None = None) -> None:
        """Accept nothing more, finish what was accepted, and end the thread."""
        with self._lock:
            if self._open:
                self._open = False
                self._new.put(None)
        self._thread.join(wait_s)

    def _count(self) -> int:
        return sum(job.left for job in self._jobs if not job.cancelled)

    def _run(self) -> None:
        with torch.inference_mode():  # whole, since greenlets enter and leave it in turns
            closing = False
            while not (closing and not self._waiting):
                closing = self._admit(closing) or closing
                if batch := self._batch():
                    self._call(batch)

    def _admit(self, closing: bool) -> bool:
        """Start the rows of new jobs; wait for one if there is nothing else to do. Returns whether to close."""
        while True:
            try:
                job = self._new.get(block=not self._waiting and not closing)
            except queue.Empty:
                return closing
            if job is None:
                closing = True
                continue
            if job.cancelled:
                with self._lock:
                    self._jobs.discard(job)
                continue
            for number in range(job.num):
                row = _Row(job, greenlet(self._draw))
                self._go_on(row, job, number)

    def _draw(self, job: Job, number: int) -> None:
        """The work of one row, in its greenlet."""
        request = job.request
        alone = request.sampler.process == "autoregressive"  # it has the keys and values of its row, and asks nobody
        sampler = request.sampler if alone else replace(request.sampler, rows_per_call=1)
        args = (request.length, job.seed, job.first_row + number, request.ids, request.frame)
        for step in states(sampler, self._asking, 1, *args):
            job.tell(number, step)
            if alone:
                ask(Pause())

    def _batch(self) -> list[_Row]:
        """The row that has waited longest, and the next ones whose calls are of its kind, as many as a call has."""
        for row in [row for row in self._waiting if row.job.cancelled]:
            self._waiting.remove(row)
            row.work.throw(GreenletExit)
            self._done(row.job)
        if not self._waiting:
            return []
        first = self._waiting[0]
        room, kind, batch = self._room(first), first.call.kind, list[_Row]()
        for row in self._waiting:
            if row.call.kind == kind and row.call.size <= room:
                room -= row.call.size
                batch.append(row)
        self._waiting = [row for row in self._waiting if row not in batch]
        return batch

    def _room(self, row: _Row) -> int:
        """How much the call has room for that this row asks for."""
        if isinstance(row.call, Projection):
            return row.call.group
        if isinstance(row.call, Pause):
            return 1
        return row.job.request.sampler.rows_for(self.denoiser, row.call.z_t.shape[1])

    def _call(self, batch: list[_Row]) -> None:
        """One network call or projection for some rows, each of which then goes on to its next, or to its end."""
        room, calls, started = self._room(batch[0]), [row.call for row in batch], time.monotonic()
        networks = [call for call in calls if isinstance(call, Call)]
        projections = [call for call in calls if isinstance(call, Projection)]
        try:
            results: Sequence[Tensor | None] = [None] * len(batch)
            if networks:
                results = self._network(networks, room)
            if projections:
                results = self._projection(projections)
        except Exception as error:
            for row in batch:
                self._fail(row, error)
            return
        for row, result in zip(batch, results, strict=True):
            self._go_on(row, result)
        if networks:
            self.counts.calls, self.counts.rows = self.counts.calls + 1, self.counts.rows + len(batch)
            self.counts.room += room
            done_s = (time.monotonic() - started) / len(batch)
            self._row_s += 0.05 * (done_s * batch[0].job.request.sampler.steps - self._row_s)

    def _network(self, calls: list[Call], room: int) -> tuple[Tensor, ...]:
        """The features that each call asks for."""
        L, filled = calls[0].z_t.shape[1], calls + calls[:1] * (room - len(calls))
        z, t = torch.cat([call.z_t for call in filled]), torch.cat([call.t for call in filled])
        noises = [call.noise for call in filled if call.noise is not None]
        noise = torch.cat(noises) if noises else None
        where = torch.cat([call.rows + i * L for i, call in enumerate(calls)])
        return self.denoiser.hidden(z, t, noise, where, calls[0].group).split([len(call.rows) for call in calls])

    def _projection(self, calls: list[Projection]) -> tuple[Tensor, ...]:
        """The logits that each projection asks for."""
        sizes = [call.size for call in calls]
        (part,) = parts(torch.cat([call.hidden for call in calls]), calls[0].group)
        return self.denoiser.logits(part, sum(sizes)).split(sizes)

    def _go_on(self, row: _Row, *value: Any) -> None:
        """Let a row work until its next call, or its end."""
        try:
            call = row.work.switch(*value)
        except Exception as error:
            self._fail(row, error)
            return
        if row.work.dead:
            self._done(row.job)
        else:
            row.call = call
            self._waiting.append(row)

    def _fail(self, row: _Row, error: Exception) -> None:
        """The error ends the whole job of the row."""
        job = row.job
        if not row.work.dead:
            row.work.throw(GreenletExit)
        if not job.cancelled:
            job.cancel()
            job.end(error)
        self._done(job)

    def _done(self, job: Job) -> None:
        with self._lock:
            job.left -= 1
            if job.left == 0:
                self._jobs.discard(job)
        if job.left == 0 and not job.cancelled:
            job.end(None)
