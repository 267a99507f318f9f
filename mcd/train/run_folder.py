"""A run folder: what was asked for, what was logged, checkpoints, and the models that came out."""

import json
import os
import platform
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import mcd
from mcd.model.pretrained import WEIGHTS
from mcd.train.checkpoint import write_json
from mcd.train.config import TrainConfig

BUDGET = ("steps", "minutes", "checkpoint_every", "log_every", "valid_every", "checkpoint_activations", "strategy")
"""Options of `train` that may change when a run goes on: they say how long, how often and in what memory, not what.

Of a run of several rounds the number of steps may not: it says where the rounds begin.
"""

_DEFAULTS = {f"train.{field.name}": field.default for field in fields(TrainConfig)}
"""Value of a training option in a run that was begun before the option existed."""


class RunConflict(ValueError):
    """The folder belongs to another run."""


class RunFolder:
    """Opens `path` for a run of `config`: new, or to go on with if it holds the same configuration.

    command: what was typed, for the record.
    A run that failed before its first checkpoint leaves nothing to protect: another configuration may take its place.
    Raises RunConflict, and changes nothing, when it holds another configuration or files that are no run.
    """

    def __init__(self, path: Path, config: dict[str, Any], command: str | None = None):
        self.path = path
        config = json.loads(json.dumps(config))
        if (path / "run.json").is_file():
            old = _read_config(path)
            changed = [
                key for key in flat_config(old).keys() | flat_config(config).keys() if _differs(key, old, config)
            ]
            if changed and self._has_results():
                raise RunConflict(
                    f"--out {path}: holds a run of another configuration (it differs in {', '.join(sorted(changed))}); "
                    "name a new folder, or repeat the old options to go on"
                )
        elif (
            path.exists()
            and not (path / "run.json").is_file()
            and (not path.is_dir() or any(p.suffix != ".partial" for p in path.iterdir()))
        ):
            raise RunConflict(f"--out {path}: is not empty and holds no run; name a new folder")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "run.json", {"command": command, "config": config, "environment": environment()})

    def _has_results(self) -> bool:
        return (self.path / WEIGHTS["ema"]).exists() or any(self.checkpoints.glob("step-*"))

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    def log(self, row: dict[str, Any]) -> None:
        """Append one line to stats.jsonl."""
        with (self.path / "stats.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop lines of steps after `step`, which a resumed run will write again."""
        path = self.path / "stats.jsonl"
        if path.is_file():
            rows = [row for row in read_stats(self.path) if row["step"] <= step]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            partial.replace(path)


class FollowedRun(RunFolder):
    """A run folder as the other processes of its run see it: they check, lock and write nothing."""

    def __init__(self, path: Path):
        self.path = path


def read_stats(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's stats.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in (run / "stats.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def environment() -> dict[str, Any]:
    """Versions and machine facts that a number may depend on."""
    try:
        commit = subprocess.run(
            ["git", "-C", str(Path(mcd.__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "mcd": mcd.__version__,
        "git_commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "run.json").read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError, TypeError):
        config = None
    if not isinstance(config, dict):
        raise RunConflict(f"--out {path}: its run.json is damaged or none of ours; name a new folder")
    return config


def flat_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flat_config(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _differs(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    was, now = flat_config(old), flat_config(new)
    one_round = was.get("train.rounds", 1) == 1
    if key.startswith("train.") and key.removeprefix("train.") in BUDGET and (one_round or key != "train.steps"):
        return False
    return was.get(key, _DEFAULTS.get(key)) != now.get(key, _DEFAULTS.get(key))
