"""Many texts to ids in order, by processes of their own where there is enough to do."""

import json
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import BufferedIOBase
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

import mcd
from mcd.data.encoder import Encoder, Lost, receive, receive_texts, send_texts
from mcd.errors import DataError

FEW_UNITS = 8
"""Work of at most so many units is done in this process: to start others takes longer."""
ROOT = Path(mcd.__file__).resolve().parents[1]


class WorkerDied(RuntimeError):
    """A process that tokenised ended; what was prepared is kept."""


@dataclass
class Unit:
    """Consecutive texts of the source, what they came to, and where the source goes on.

    texts: of `records` records, one or two each. lengths (N,): tokens of each text, one after the other in `ids`.
    keys: of each record (`mcd.data.prepare.duplicates`). left_out: how many were left out up to here, by why.
    lost: what the tokenizer loses of the texts.
    """

    texts: list[str]
    records: int
    position: Any
    fraction: float | None = None
    keys: list[int] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    lengths: np.ndarray | None = None
    ids: np.ndarray | None = None
    lost: Lost | None = None


def tokenised(
    units: Iterable[Unit], tokenizer: str, dtype: np.dtype, workers: int, special_tokens: bool = False
) -> Generator[Unit, None, None]:
    """The units, in order, with their ids as `dtype` (2 or 4 bytes); at most 2 x workers are held at a time.

    tokenizer: its JSON. special_tokens: read their names in a text as these tokens. workers: processes beside this one;
    1, or little to do, is this process alone.
    Raises DataError for text the tokenizer cannot encode, WorkerDied when a process ends before its work.
    """
    units = iter(units)
    first = list(islice(units, FEW_UNITS + 1)) if workers > 1 else []
    everything = chain(first, units)
    if len(first) <= FEW_UNITS:
        encoder = Encoder(tokenizer, special_tokens)
        for unit in everything:
            encoder.lost = unit.lost = Lost()
            try:
                rows = list(encoder.encode(unit.texts))
            except ValueError as error:
                raise _refused(error) from None
            unit.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            unit.ids = np.fromiter(chain.from_iterable(rows), dtype, int(unit.lengths.sum()))
            yield unit
        return
    with ExitStack() as stack:
        free: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(workers):
            free.put(stack.enter_context(_Worker(tokenizer, dtype, special_tokens)))
        threads = stack.enter_context(ThreadPoolExecutor(workers, "tokenise"))
        pending: deque[Future[Unit]] = deque()
        try:
            for unit in everything:
                pending.append(threads.submit(_tokenise, unit, free))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _tokenise(unit: Unit, free: "SimpleQueue[_Worker]") -> Unit:
    worker = free.get()
    try:
        unit.lengths, unit.ids, unit.lost = worker.ids_of(unit.texts)
    finally:
        free.put(worker)
    unit.texts = []
    return unit


class _Worker:
    """A process that tokenises (`mcd.data.encoder.serve`)."""

    def __init__(self, tokenizer: str, dtype: np.dtype, special_tokens: bool):
        self.dtype = dtype.newbyteorder("=")
        code = f"import sys; sys.path[0] = {str(ROOT)!r}; from mcd.data.encoder import serve; serve()"
        command = [sys.executable, "-c", code]  # of no main module, which would be imported anew
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin: BufferedIOBase = self.process.stdin  # type: ignore[assignment]
        self.stdout: BufferedIOBase = self.process.stdout  # type: ignore[assignment]
        self._ask([tokenizer, {2: "H", 4: "I"}[dtype.itemsize], "yes" if special_tokens else ""])

    def ids_of(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, Lost]:
        """Lengths (N,) and ids, one text after the other, and what was lost of them."""
        self._ask(texts)
        try:
            lengths, data = receive(self.stdout)
            lost = Lost(**json.loads(receive_texts(self.stdout)[0]))
        except EOFError:
            raise self._died() from None
        except ValueError as error:
            raise _refused(error) from None
        return np.array(lengths, dtype=np.int64), np.frombuffer(data, self.dtype), lost

    def _ask(self, texts: list[str]) -> None:
        try:
            send_texts(self.stdin, texts)
        except BrokenPipeError:
            raise self._died() from None

    def _died(self) -> WorkerDied:
        status = self.process.wait()
        return WorkerDied(
            f"a process that tokenised ended (status {status}); was it killed, for its memory perhaps? "
            "run the same command again, it goes on from what is finished (with fewer --workers if need be)"
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # it holds nothing that would be lost
        self.process.wait()
        for pipe in (self.stdin, self.stdout):
            with suppress(OSError):
                pipe.close()


def _refused(error: ValueError) -> DataError:
    return DataError(f"--tokenizer: it cannot encode the text ({error}); give another")
