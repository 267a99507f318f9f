"""Many texts to ids in order, by processes of their own where there is enough to do.

A worker is a fresh Python that runs `serve`: it imports this module, and with it only `tokenizers` and the standard
library. It is no fork, which threads of torch and of `tokenizers` would not survive, and no process of
`multiprocessing`, which would import the main module again, and torch with it (1.8 s and 227 MB instead of 0.06 s and
25 MB), and would stay when the main process is killed. A worker ends when its stdin does.
"""

import os
import pickle
import signal
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mcd
from mcd.data.encoder import Encoder, Lost
from mcd.errors import DataError, WorkFailed

FEW_UNITS = 8
"""Work of at most this many units is done in this process: to start others takes longer."""
ROOT = Path(mcd.__file__).resolve().parents[1]


@dataclass
class Unit:
    """Consecutive texts of the source, their tokens, and where the source continues.

    texts: of `records` records, one or two each. lengths (N,): tokens of each text, one after the other in `ids`.
    keys: of each record (`mcd.data.prepare.duplicates`). left_out: how many were left out up to here, by reason.
    lost: what the tokenizer loses of the texts.
    """

    texts: list[str]
    records: int
    position: Any
    fraction: float | None = None
    keys: list[int] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    lengths: Any = None
    ids: Any = None
    lost: Lost | None = None


def tokenised(
    units: Iterable[Unit], tokenizer: str, code: str, workers: int, special_tokens: bool = False
) -> Generator[Unit, None, None]:
    """The units, in order, with `lengths` and `ids` as arrays (NumPy's); at most 2 x workers are held at a time.

    tokenizer: its JSON. code: "H" for ids of 2 bytes, "I" for 4. special_tokens: read their names in a text as these
    tokens. workers: processes in addition to this one; with 1, or little to do, only this process works.
    Raises DataError for text the tokenizer cannot encode, WorkFailed when a process ends before its work.
    """
    units = iter(units)
    first = list(islice(units, FEW_UNITS + 1)) if workers > 1 else []
    everything = chain(first, units)
    if len(first) <= FEW_UNITS:
        encoder = Encoder(tokenizer, special_tokens)
        for unit in everything:
            try:
                yield _filled(unit, _encode(encoder, unit.texts, code))
            except ValueError as error:
                raise _refused(error) from None
        return
    with ExitStack() as stack:
        free: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(workers):
            free.put(stack.enter_context(_Worker(tokenizer, special_tokens, code)))
        threads = stack.enter_context(ThreadPoolExecutor(workers, "tokenise"))
        pending: deque[Future[Unit]] = deque()
        try:
            for unit in everything:
                pending.append(threads.submit(_by_worker, unit, free))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


Encoded = tuple["array[int]", "array[int]", Lost]
"""The length of each text, the ids one after the other, and what was lost."""


def _encode(encoder: Encoder, texts: list[str], code: str) -> Encoded:
    encoder.lost = Lost()
    lengths, ids = array("Q"), array(code)
    for row in encoder.encode(texts):
        lengths.append(len(row))
        ids.extend(row)
    return lengths, ids, encoder.lost


def _filled(unit: Unit, encoded: Encoded) -> Unit:
    import numpy as np  # not at the top: a worker does without

    lengths, ids, unit.lost = encoded
    unit.lengths, unit.ids = np.array(lengths, np.int64), np.frombuffer(ids, f"u{ids.itemsize}")
    unit.texts = []
    return unit


def _by_worker(unit: Unit, free: "SimpleQueue[_Worker]") -> Unit:
    worker = free.get()
    try:
        return _filled(unit, worker.encode(unit.texts))
    finally:
        free.put(worker)


class _Worker:
    """A process that runs `serve`; both sides send pickles."""

    def __init__(self, tokenizer: str, special_tokens: bool, code: str):
        source = f"import sys; sys.path[0] = {str(ROOT)!r}; from mcd.data.prepare.workers import serve; serve()"
        self.process = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._send((tokenizer, special_tokens, code))

    def encode(self, texts: list[str]) -> Encoded:
        """As `_encode`. Raises DataError and WorkFailed as `tokenised`."""
        self._send(texts)
        assert self.process.stdout is not None
        try:
            answer = pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._died() from None
        if isinstance(answer, ValueError):
            raise _refused(answer)
        return answer

    def _send(self, value: Any) -> None:
        assert self.process.stdin is not None
        try:
            pickle.dump(value, self.process.stdin)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _died(self) -> WorkFailed:
        status = self.process.wait()
        return WorkFailed(
            f"a process that tokenised ended (status {status}); was it killed, for its memory perhaps? "
            "run the same command again, which continues from what is finished (with fewer --workers if need be)"
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # it holds nothing that would be lost
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def serve() -> None:
    """A worker: takes the arguments of a `_Worker`, then answers lists of texts as `_encode`, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    stdin, stdout = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    try:
        tokenizer, special_tokens, code = pickle.load(stdin)
        encoder = Encoder(tokenizer, special_tokens)
        while True:
            texts = pickle.load(stdin)
            try:
                answer: Any = _encode(encoder, texts, code)
            except (ValueError, OverflowError) as error:
                answer = ValueError(str(error))
            pickle.dump(answer, stdout)
            stdout.flush()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # without flushing into a pipe that nobody reads


def _refused(error: ValueError) -> DataError:
    return DataError(f"--tokenizer: it cannot encode the text ({error}); give another")
