"""Where experiments run: a work folder and a pool of processes. What the folder holds is not done again."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.checkpoints.locate import DEMO
from mcd.checkpoints.weights import WEIGHTS, parts_of_weights
from mcd.data.languages.known import LANGUAGES
from mcd.data.manifest import MANIFEST
from mcd.errors import WorkFailed
from mcd.eval import scorer
from mcd.eval.exact_denoiser import exact_denoiser, language_of_exact
from mcd.eval.known_language import sampling_floor
from mcd.eval.laboratory.experiment import Cell, Training
from mcd.eval.laboratory.held_out import HeldOut
from mcd.eval.laboratory.measure import measure_model
from mcd.eval.laboratory.samples_file import write_samples
from mcd.eval.metrics import Scoring
from mcd.eval.scorer import Scorer
from mcd.files import file_sha256, read_json, write_json
from mcd.machine import device
from mcd.model.denoiser import Denoiser
from mcd.progress import progress_bar
from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS
from mcd.training.run_folder import read_stats


@dataclass(frozen=True)
class MeasuredCell:
    """A cell's row of metrics, and what it was computed from: ids (N, L), and of text nll and tokens (N,).

    samples: of text, the file of samples as `mcd sample` writes them.
    """

    cell: Cell
    row: dict[str, Any]
    arrays: dict[str, np.ndarray]
    samples: Path | None = None


@dataclass(frozen=True)
class Lab:
    """Does the work of experiments below `work`, `jobs` tasks at a time, each in a process of `threads` threads. Where
    there is a GPU, which they would share, one task at a time.

    Killed at any moment, the same call resumes: trainings from their checkpoints, and cells are written atomically.
    """

    work: Path
    jobs: int = 2
    threads: int = 1

    def train(self, trainings: Iterable[Training], command: Callable[[list[str]], int]) -> None:
        """Do the trainings that are not done, each after those it starts from.

        command: `mcd.cli.main.main`, which takes the words of a command line and returns the exit status.
        Raises WorkFailed, which names the log, when a training fails.
        """
        left = {one.name: one for one in trainings if not self._is_done(one)}
        logs = {name: self.work / "logs" / f"{name.replace('/', '-')}.log" for name in left}
        tasks = {name: (_train, command, one.argv(self.work), logs[name], one.may_fail) for name, one in left.items()}
        self._do("training", tasks, {name: one.needs for name, one in left.items()})

    def measure(self, cells: Sequence[Cell], cost: Callable[[Cell], float] = lambda cell: 1.0) -> list[MeasuredCell]:
        """Draw and score the cells that `work` does not hold. Returns all of them in the order asked for.

        cost: of a cell, in any unit, by which the progress counts it.
        """
        (self.work / "cells").mkdir(parents=True, exist_ok=True)
        left = sorted(self.missing(cells), key=lambda c: (c.model, c.round or 99))
        tasks = {str(cell): (_measure, cell, cell.source(self.work), self._path(cell)) for cell in left}
        self._do("measuring", tasks, costs={str(cell): cost(cell) for cell in left})
        return [_read(cell, self._path(cell)) for cell in cells]

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that `work` does not hold, each once."""
        return [cell for cell in dict.fromkeys(cells) if not self._path(cell).is_file()]

    def _path(self, cell: Cell) -> Path:
        """The file of a cell's row, whether it is there or not."""
        return self.work / "cells" / f"{cell.digest(_weights(cell.source(self.work)))}.json"

    def references(self, data: Path, like: Cell, nonsense: bool = True) -> list[dict[str, Any]]:
        """Held-out text of prepared `data`, its words shuffled, and `nonsense` (`HeldOut`): as many rows as the cell
        `like`, of its length and seed, scored like it. They are measured once."""
        key = (like.num, like.length, like.seed, like.scorer, like.scorer_precision, like.borders)
        key += () if nonsense else ("without nonsense",)
        text = json.dumps([*key, (data / MANIFEST).read_text(encoding="utf-8")])
        path = self.work / "cells" / f"references-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if not path.is_file():
            judge, scoring = _scorer_of(like), Scoring(borders=like.borders)
            held_out = HeldOut(data, like.length, like.seed, like.borders)
            rows = held_out.text(like.num, judge, scoring)
            rows += held_out.controls(like.num, judge, scoring) if nonsense else []
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"rows": rows})
        return read_json(path)["rows"]

    def _is_done(self, one: Training) -> bool:
        folder = self.work / one.name
        if (folder / WEIGHTS["ema"]).is_file() or (folder / MANIFEST).is_file():
            return True
        return one.may_fail and (folder / "stats.jsonl").is_file() and read_stats(folder)[-1].get("diverged", False)

    def _do(
        self,
        what: str,
        tasks: dict[str, tuple[Any, ...]],
        needs: dict[str, list[str]] | None = None,
        costs: dict[str, float] | None = None,
    ) -> None:
        """Run tasks (a function and its arguments) in parallel, each after those that it needs."""
        if not tasks:
            return
        order = TopologicalSorter({name: set((needs or {}).get(name, ())) & tasks.keys() for name in tasks})
        order.prepare()
        ready, running, done = list[str](), dict[Future[None], str](), list[str]()
        costs = costs or dict.fromkeys(tasks, 1.0)
        context, jobs = multiprocessing.get_context("spawn"), self.jobs if device().type == "cpu" else 1
        start = (os.getpid(), self.threads)
        with progress_bar(what) as update, ProcessPoolExecutor(jobs, context, _start_worker, start) as pool:
            while order.is_active():
                ready += order.get_ready()
                # No more than there are workers: after a stop or a fault nothing further begins.
                while ready and len(running) < jobs:
                    name = ready.pop(0)
                    running[pool.submit(*tasks[name])] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    done.append(running.pop(future))
                    order.done(done[-1])
                    share = sum(costs[name] for name in done) / sum(costs.values())
                    update(share, f"{len(done)} of {len(tasks)}")


def _start_worker(parent: int, threads: int) -> None:
    """Set the threads, and die with the parent: an orphan would train on next to the resumed command."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(command: Callable[[list[str]], int], argv: list[str], log: Path, may_fail: bool) -> None:
    """Run one `mcd` command; its output goes into a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        print(f"mcd {' '.join(argv)}", flush=True)
        status = command(argv)
    if status and not may_fail:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1]
        raise WorkFailed(f"mcd {' '.join(argv)} ended with status {status}: {last} (see {log})")


def _measure(cell: Cell, source: str, path: Path) -> None:
    """Draw one cell, score it, and write its files; the row comes last, and says by being there that all are whole."""
    model = model_of(source, cell.length or 64)
    model.dtype = getattr(torch, cell.dtype)
    options = dict(cell.options)
    kind = SAMPLERS[options.pop("sampler", DEFAULT_SAMPLER[model.config.process])]
    if model.device.type == "cpu":  # a process of one thread; a GPU takes its own number of rows
        options = {"rows_per_call": 32} | options
    sampler = kind(cell.steps, **options)
    length = cell.length or model.config.backbone.length
    measured = measure_model(
        model,
        sampler,
        _scorer_of(cell),
        cell.num,
        length,
        cell.seed,
        model=cell.label,
        round=cell.round,
        scoring=Scoring(borders=cell.borders),
        language=cell.language,
    )
    row = measured.row
    if cell.language is None:
        write_samples(path.with_suffix(".jsonl"), measured.samples)
    else:
        floor = sampling_floor(LANGUAGES[cell.language](), cell.num, length)
        row = row | {"language": cell.language, "floor": floor}
    arrays: dict[str, Any] = {"ids": np.array([one["ids"] for one in measured.samples], dtype=np.int32)}
    if measured.scores is not None:
        arrays["nll"] = np.array([score.nll for score in measured.scores])
        arrays["tokens"] = np.array([score.tokens for score in measured.scores])
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    write_json(path, row)


def model_of(source: str, length: int) -> Denoiser:
    """A model by its name, on this process's device, or the exact denoiser of a language for rows of `length`."""
    language = language_of_exact(source)
    return from_pretrained(source).to(device()) if language is None else exact_denoiser(language, length)


def _scorer_of(cell: Cell) -> Scorer | None:
    return None if cell.scorer is None else load_once(cell.scorer, cell.scorer_precision)


@cache
def load_once(name: str, precision: str) -> Scorer:
    """`load_scorer`, which loads each scorer once per process."""
    return scorer.load_scorer(name, precision, str(device()))


def _read(cell: Cell, path: Path) -> MeasuredCell:
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    return MeasuredCell(cell, read_json(path), arrays, path.with_suffix(".jsonl"))


def _weights(source: str) -> str:
    """A hash of a model's weights; a hub id stands for itself."""
    path = parts_of_weights((DEMO if source == "demo" else Path(source)) / WEIGHTS["ema"])[0]
    return _sha256(path) if path.is_file() else source


_sha256 = cache(file_sha256)
