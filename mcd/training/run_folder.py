"""A run folder: what was asked for, what was logged, checkpoints, and the models that came out."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mcd.checkpoints.weights import FACTORS, WEIGHTS
from mcd.errors import RunConflict
from mcd.files import JSONError, json_lines, parse_json, read_json, sync_folder, write_durably, write_json
from mcd.machine import environment
from mcd.model.lora import LoRA
from mcd.training.config import TrainConfig
from mcd.training.optimizer import lr_factor
from mcd.training.ranks import rank
from mcd.training.run_lock import HOLDER, LOCK, RunLock

MAY_CHANGE = (
    "steps",
    "minutes",
    "checkpoint_every",
    "log_every",
    "valid_every",
    "track",
    "min_entropy",
    "checkpoint_activations",
    "strategy",
)
"""Options of `train` that may change when a run is resumed: they say how long, how often and in what memory, not what.

The number of steps of several rounds may not: it says where the rounds begin. Nor may the length of a run of which
something depends on the share that is done, such as a learning rate that falls at the end, once the steps that were
done are not those of the new length.
"""

_MOMENTS = 1000
"""Two schedules are compared at no more than this many of the steps done, evenly spread."""
_DEFAULTS = {
    f"{part}.{o.name}": o.default for part, kind in (("train", TrainConfig), ("lora", LoRA)) for o in fields(kind)
}
"""Value of an option in a run that was begun before the option existed."""


class RunFolder:
    """Opens `path` for a run of `config`: a new one, or one to resume if it holds the same configuration.

    command: what was typed, for the record. at_progress: what of the method depends on the share of the run that is
    done (`Objective.at_progress`). Where configuration or environment change after some steps, run.json keeps the older
    ones, and until which step they held, under "earlier". The folder is this process's until `close`, the end of a
    `with` block, or the end of the process (`RunLock`). Of the processes of one job only the first opens it: on the
    others nothing is checked, locked or written.
    A run that failed before its first checkpoint leaves nothing to protect: another configuration may take its place.
    Raises RunConflict, and changes nothing, when it holds another configuration or files that are no run, or when
    another process runs in it; OSError where nothing can be written.
    """

    _lock: RunLock | None = None

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        command: str | None = None,
        at_progress: Callable[[float], Any] = lambda progress: None,
    ):
        self.path, self.checkpoints, self.at_progress = path, path / "checkpoints", at_progress
        if rank() != 0:
            return
        config = json.loads(json.dumps(config))
        self._check(config)
        path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(path)
        try:
            self._check(config)  # again: from here on nobody else changes it
            record = {"command": command, "config": config, "environment": environment()}
            write_json(path / "run.json", record | self._earlier(record))
            sync_folder(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process run in the folder."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def log(self, row: dict[str, Any]) -> None:
        """Append one line to stats.jsonl, durably: a checkpoint that is written later never knows more than the log."""
        with (self.path / "stats.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_log(self, step: int) -> None:
        """Drop lines of steps after `step`, which a resumed run will write again."""
        path = self.path / "stats.jsonl"
        if rank() == 0 and path.is_file():
            rows = [row for row in read_stats(self.path) if row["step"] <= step]
            write_durably(path, "".join(json.dumps(row) + "\n" for row in rows))

    def _is_finished(self) -> bool:
        return any((self.path / name).exists() for name in (WEIGHTS["ema"], FACTORS["ema"]))

    def _steps_done(self) -> int:
        """The step of the newest checkpoint."""
        names = [path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def _check(self, config: dict[str, Any]) -> None:
        """Raise RunConflict for a folder that a run of `config` may not take."""
        path = self.path
        if (path / "run.json").is_file():
            old = _read_config(path)
            was, now = flat_config(old), flat_config(config)
            may_change = {f"train.{name}" for name in MAY_CHANGE}
            may_change -= {"train.steps"} if was.get("train.rounds", 1) != 1 else set()
            changed = [
                key
                for key in sorted((was.keys() | now.keys()) - may_change)
                if was.get(key, _DEFAULTS.get(key)) != now.get(key, _DEFAULTS.get(key))
            ]
            if changed and (self._is_finished() or any(self.checkpoints.glob("step-*"))):
                raise RunConflict(
                    f"--out {path}: holds a run of another configuration (it differs in {', '.join(changed)}); "
                    "name a new folder, or repeat the old options to resume it"
                )
            self._check_steps(old, config)
        elif path.exists() and not (path.is_dir() and all(map(_is_of_a_run, path.iterdir()))):
            raise RunConflict(f"--out {path}: is not empty and holds no run; name a new folder")

    def _check_steps(self, old: dict[str, Any], config: dict[str, Any]) -> None:
        """Raise RunConflict where the steps that were done would not be those of the run that is asked for: there are
        more, or some of another schedule. The record would then not be true."""
        asked, done = config.get("train", {}).get("steps"), self._steps_done()
        if type(asked) is int and done > asked:
            raise RunConflict(
                f"--out {self.path}: holds {done} steps, more than the {asked} asked for; "
                "name a new folder, or ask for more"
            )
        was, now = _Length.of(old), _Length.of(config)
        if was == now or not done:
            return
        elapsed = [row.get("elapsed_s") for row in read_stats(self.path) if row["step"] <= done]
        seconds = max((float(value) for value in elapsed if isinstance(value, int | float)), default=0.0)
        for step in sorted({round(i * (done - 1) / _MOMENTS) for i in range(_MOMENTS + 1)}):
            before, after = (length.progress(step, seconds * step / done) for length in (was, now))
            lr = [lr_factor(step, progress, 0, was.lr_decay) for progress in (before, after)]
            if lr[0] != lr[1] or self.at_progress(before) != self.at_progress(after):
                more = f" (`mcd train --init {self.path}` continues from its weights, with a schedule of its own)"
                raise RunConflict(
                    f"--out {self.path}: of the {done} steps done, those from {step} on followed the schedule of a "
                    f"run of {was}; one of {now} has another there, since its learning rate (--lr-decay) or what the "
                    f"method changes during the run (--warm-start) depends on the length. Ask for {was}, or name a new "
                    f"folder{more if self._is_finished() else ''}"
                )

    def _earlier(self, record: dict[str, Any]) -> dict[str, Any]:
        """The entries of run.json about steps done with another configuration or in another environment, if any."""
        try:
            old = read_json(self.path / "run.json", strict=False)
            earlier = list(old.get("earlier", []))
            until = max((int(part["until_step"]) for part in earlier), default=0)
        except FileNotFoundError:
            return {}
        except (JSONError, AttributeError, KeyError, TypeError, ValueError):
            raise RunConflict(f"--out {self.path}: its run.json is damaged; name a new folder") from None
        done = self._steps_done()
        parts = ("command", "config", "environment")
        if done > until and any(old.get(part) != record[part] for part in parts[1:]):
            earlier = [*earlier, {part: old.get(part) for part in parts} | {"until_step": done}]
        return {"earlier": earlier} if earlier else {}


def read_stats(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's stats.jsonl, each with a whole number `step`.

    Lines that are no such rows are left out: the last one when a kill cut it short, others when the file was damaged.
    """
    rows = []
    for _, line in json_lines(run / "stats.jsonl"):
        try:
            row = parse_json(line, strict=False)  # a loss may be NaN
        except JSONError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
    return rows


def flat_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flat_config(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path / "run.json", strict=False)["config"]
    except (JSONError, KeyError, TypeError):
        config = None
    if not isinstance(config, dict):
        raise RunConflict(f"--out {path}: its run.json is damaged or was not written by mcd; name a new folder")
    return config


def _is_of_a_run(path: Path) -> bool:
    """Whether it is what a run leaves that was stopped before it wrote its run.json."""
    return path.suffix == ".partial" or path.name in (LOCK, HOLDER)


class _Length(NamedTuple):
    """How long a run is, and over which share of it the learning rate falls, as its configuration says."""

    steps: int | float | None
    minutes: int | float | None
    lr_decay: int | float

    @classmethod
    def of(cls, config: dict[str, Any]) -> "_Length":
        """The length in a configuration, which may be damaged: what is no number counts as missing."""
        train = config.get("train")
        said = {
            name: value
            for name, value in (train if isinstance(train, dict) else {}).items()
            if type(value) in (int, float) and 0 < value < math.inf
        }
        return cls(said.get("steps"), said.get("minutes"), said.get("lr_decay", TrainConfig.lr_decay))

    def __str__(self) -> str:
        return f"{self.minutes} minutes" if self.steps is None else f"{self.steps} steps"

    def progress(self, step: int, seconds: float) -> float:
        if self.steps is not None:
            return min(1.0, step / self.steps)
        return 0.0 if self.minutes is None else min(1.0, seconds / (60 * self.minutes))
