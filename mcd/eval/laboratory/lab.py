"""Where experiments run: a work folder, a pool of one-thread processes, and what is already there is not done again."""

import contextlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcd.data.manifest import MANIFEST
from mcd.errors import WorkFailed
from mcd.eval.laboratory.experiment import Cell, Training
from mcd.files import file_sha256
from mcd.progress import progress_bar
from mcd.train.run_folder import read_stats


@dataclass(frozen=True)
class MeasuredCell:
    """A cell's row of metrics, and what it was computed from: ids (N, L), of text nll and tokens (N,)."""

    cell: Cell
    row: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Lab:
    """Does the work of a plan below `work`, `jobs` tasks at a time, each in a process of one thread.

    Killed at any moment, the same call resumes: trainings from their checkpoints, cells are written whole.
    command: what a training is run by: `mcd.cli.main.main`, which takes the words of a command line.
    """

    work: Path
    command: Callable[[list[str]], int]
    jobs: int = 2

    def train(self, runs: Iterable[Training]) -> None:
        """Do the trainings that are not done, each after those it starts from.

        Raises WorkFailed, naming the log, when one fails.
        """
        left = {run.name: run for run in runs if not self._is_done(run)}
        tasks = {
            name: (run.needs, _train, (self.command, run.argv(self.work), self._log(name), run.may_fail))
            for name, run in left.items()
        }
        self._do("training", tasks)

    def measure(self, cells: Sequence[Cell]) -> list[MeasuredCell]:
        """Draw and score what is not yet there; the cells as asked, in order."""
        paths = {cell: self._path(cell) for cell in dict.fromkeys(cells)}
        folder = self.work / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        tasks = {
            str(cell): ([], _measure, (cell, cell.source(self.work), path))
            for cell, path in sorted(paths.items(), key=lambda item: (item[0].model, item[0].round or 99))
            if not path.is_file()
        }
        self._do("measuring", tasks)
        return [_read(cell, paths[cell]) for cell in cells]

    def _is_done(self, run: Training) -> bool:
        folder = self.work / run.name
        if (folder / "model.safetensors").is_file() or (folder / MANIFEST).is_file():
            return True
        return run.may_fail and (folder / "stats.jsonl").is_file() and read_stats(folder)[-1].get("diverged", False)

    def _path(self, cell: Cell) -> Path:
        return self.work / "cells" / f"{cell.digest(_weights(cell.source(self.work)))}.json"

    def _log(self, name: str) -> Path:
        return self.work / "logs" / f"{name.replace('/', '-')}.log"

    def _do(self, what: str, tasks: dict[str, tuple[list[str], Callable[..., None], tuple[Any, ...]]]) -> None:
        """Run tasks in parallel, each when those it needs are done."""
        if not tasks:
            return
        done: set[str] = set()
        waiting, running = dict(tasks), dict[Future[None], str]()
        spawn = multiprocessing.get_context("spawn")
        with (
            progress_bar(what) as update,
            ProcessPoolExecutor(
                self.jobs, mp_context=spawn, initializer=_start_worker, initargs=(os.getpid(),)
            ) as pool,
        ):
            while waiting or running:
                # No more than there are workers: when told to stop, or after a fault, nothing further begins.
                for name, (needs, work, args) in list(waiting.items()):
                    if len(running) < self.jobs and not any(need in tasks and need not in done for need in needs):
                        running[pool.submit(work, *args)] = name
                        del waiting[name]
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    name = running.pop(future)
                    future.result()
                    done.add(name)
                    update(len(done) / len(tasks), f"{len(done)} of {len(tasks)}")


def _start_worker(parent: int) -> None:
    """One thread, and no longer life than the parent's: an orphan would train on beside the run begun anew."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(command: Callable[[list[str]], int], argv: list[str], log: Path, may_fail: bool) -> None:
    """Run one `mcd` command, what it says kept in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        print(f"mcd {' '.join(argv)}", flush=True)
        status = command(argv)
    if status and not may_fail:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1]
        raise WorkFailed(f"mcd {' '.join(argv)} ended with status {status}: {last} (see {log})")


def _measure(cell: Cell, source: str, path: Path) -> None:
    """Draw one cell, score it, and write its row and arrays; the row comes last and so tells that both are whole."""
    from mcd.eval.laboratory.measure import measure_model
    from mcd.eval.laboratory.truth import measure_language, open_model
    from mcd.eval.metrics import Scoring
    from mcd.files import write_json
    from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS

    model = open_model(source, cell.length or 64)
    options = dict(cell.options)
    kind = SAMPLERS[options.pop("sampler", DEFAULT_SAMPLER[model.config.process])]
    sampler = kind(cell.steps, **({"rows_per_call": 32} | options))
    length = cell.length or model.config.backbone.length
    if cell.language:
        measured = measure_language(model, sampler, cell.language, cell.num, length, cell.seed, cell.label, cell.round)
    else:
        assert cell.scorer is not None
        scorer = _scorer(cell.scorer, cell.scorer_precision)
        scoring = Scoring(borders=cell.borders)
        measured = measure_model(
            model, sampler, scorer, cell.num, length, cell.seed, "ema", cell.label, cell.round, scoring=scoring
        )
    arrays: dict[str, Any] = {"ids": np.array([one["ids"] for one in measured.samples], dtype=np.int32)}
    if measured.scores is not None:
        arrays["nll"] = np.array([score.nll for score in measured.scores])
        arrays["tokens"] = np.array([score.tokens for score in measured.scores])
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    write_json(path, measured.row)


@cache
def _scorer(name: str, precision: str) -> Any:
    from mcd.eval.scorer import load_scorer

    return load_scorer(name, precision)


def _read(cell: Cell, path: Path) -> MeasuredCell:
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    return MeasuredCell(cell, json.loads(path.read_text(encoding="utf-8")), arrays)


@cache
def _weights(source: str) -> str:
    """Tells the weights of a model; a hub id stands for itself."""
    from mcd.checkpoints.folder import DEMO
    from mcd.checkpoints.weights import WEIGHTS

    path = (DEMO if source == "demo" else Path(source)) / WEIGHTS["ema"]
    return file_sha256(path) if path.is_file() else source
