"""Reads run folders for the report: measured rows, samples, trajectories, logs and configurations."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcd.errors import UsageError
from mcd.files import JSONError, json_lines, parse_json, read_json
from mcd.report.rows import (
    LikelihoodRow,
    MatchedRow,
    MeasuredRow,
    is_likelihood,
    likelihood_row,
    mapping,
    matched_row,
    measured_row,
)
from mcd.training.run_folder import read_stats

DEPTH = 3
"""Levels of subfolders in which further runs are looked for."""
SKIPPED = ("checkpoints", "data", "rounds")
FILES = ("metrics.json", "frontier.json", "stats.jsonl", "run.json", "trajectory.jsonl")
SAMPLES = re.compile(r"samples_(?P<model>.+?)(?:_r(?P<round>\d+))?(?:_s(?P<steps>\d+))?\.jsonl")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class SampleFile:
    """The rows of one samples_*.jsonl: {"row", "seed", "text", ...}."""

    model: str
    round: int | None
    steps: int | None
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Trajectory:
    """One text being revealed: the states in order, each with its "step" and its "tokens" (None while masked)."""

    model: str
    row: int
    seed: int
    steps: int
    states: list[dict[str, Any]]
    round: int | None = None

    @property
    def times(self) -> dict[int, float]:
        """The time t after each step: as recorded, or evenly from 1 to 0."""
        found = {}
        for state in self.states:
            t, step = state.get("t"), state["step"]
            if not isinstance(t, int | float) or not 0.0 <= t <= 1.0:
                t = min(1.0, max(0.0, 1.0 - step / max(1, self.steps)))
            found[step] = float(t)
        return found


@dataclass(frozen=True)
class Run:
    """All that one folder holds; a field is empty where the folder holds nothing of the kind."""

    name: str
    measured: list[MeasuredRow]
    likelihoods: list[LikelihoodRow]
    samples: list[SampleFile]
    trajectories: list[Trajectory]
    stats: list[dict[str, Any]]
    config: dict[str, Any]
    environment: dict[str, Any]
    schedule: dict[str, Any] | None
    command: str | None
    frontier: list[MeasuredRow] = field(default_factory=list)
    """The rows of its temperature sweeps (`mcd frontier`)."""
    matched: list[MatchedRow] = field(default_factory=list)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders` and in their subfolders, in order.

    Raises UsageError, naming the folder or file, where there is no folder, nothing to report, or damaged contents.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"RUN {folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
        found = list(_run_folders(folder))
        if not found:
            raise UsageError(
                f"RUN {folder}: holds nothing to report (metrics.json, frontier.json, samples_*.jsonl, stats.jsonl, "
                "trajectory.jsonl or run.json); name a folder written by mcd train, distill, sample, eval or demo"
            )
        for path in found:
            if path.resolve() not in runs:
                runs[path.resolve()] = _read_run(path)
    return list(runs.values())


def printable(text: str) -> str:
    """Text from outside with control characters and lone surrogates replaced, so that any page can hold it."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _run_folders(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    if any((folder / name).is_file() for name in FILES) or any(folder.glob("samples_*.jsonl")):
        yield folder
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name not in SKIPPED and not path.name.startswith("."):
                yield from _run_folders(path, depth - 1)


def _read_run(folder: Path) -> Run:
    run = _read_object(folder / "run.json")
    metrics, frontier = _read_object(folder / "metrics.json"), _read_object(folder / "frontier.json")
    name = printable(folder.as_posix())
    command = metrics.get("command") or run.get("command") or frontier.get("command")
    numbered = _rows(folder / "metrics.json", metrics, "rows")
    matched = [matched_row(row, where) for where, row in _rows(folder / "frontier.json", frontier, "matched")]
    return Run(
        name=name,
        measured=[measured_row(name, row, where) for where, row in numbered if not is_likelihood(row)],
        likelihoods=[likelihood_row(name, row, where) for where, row in numbered if is_likelihood(row)],
        samples=[one for path in _by_number(folder.glob("samples_*.jsonl")) if (one := _samples(path))],
        trajectories=_trajectories(folder / "trajectory.jsonl"),
        stats=read_stats(folder) if (folder / "stats.jsonl").is_file() else [],
        config=mapping(run.get("config")),
        environment=mapping(run.get("environment")),
        schedule=mapping(_read_object(folder / "config.json").get("schedule")) or None,
        command=command and str(command),
        frontier=[measured_row(name, row, where) for where, row in _rows(folder / "frontier.json", frontier, "rows")],
        matched=[one for one in matched if one is not None],
    )


def _rows(path: Path, value: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """The rows of a file below a name, each with the words that a complaint of it begins with."""
    rows = value.get(name, [])
    if not isinstance(rows, list):
        raise UsageError(f'{path}: "{name}" is not a list')
    return [(f"{path}: row {i}", row) for i, row in enumerate(rows)]


def _samples(path: Path) -> SampleFile | None:
    named = SAMPLES.fullmatch(path.name)
    rows = [row for row in _read_lines(path) if isinstance(row.get("text"), str)]
    if any(isinstance(row.get(name), list | dict) for row in rows for name in ("row", "seed")):
        raise UsageError(f"{path}: a line has a row or seed that is no number")
    if named is None or not rows:
        return None

    def whole(name: str) -> int | None:
        value = rows[0].get(name, named[name])
        return int(value) if isinstance(value, int | str) and str(value).isdecimal() else None

    return SampleFile(str(rows[0].get("model", named["model"])), whole("round"), whole("steps"), rows)


def _trajectories(path: Path) -> list[Trajectory]:
    if not path.is_file():
        return []
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for line in _read_lines(path):
        if not isinstance(line.get("tokens"), list) or not isinstance(line.get("step"), int):
            raise UsageError(f'{path}: a line has no "tokens" or no "step"')
        for name in ("row", "seed", "steps"):
            if not isinstance(line.get(name), int | None):
                raise UsageError(f"{path}: a line has a {name} that is no whole number")
        key = str(line.get("model", "model")), int(line.get("row") or 0), int(line.get("seed") or 0), line.get("steps")
        groups.setdefault(key, []).append(line)
    trajectories = []
    for (model, row, seed, steps), states in groups.items():
        states.sort(key=lambda state: state["step"])
        if len({len(state["tokens"]) for state in states}) > 1:
            raise UsageError(f"{path}: the states of {model} row {row} differ in length")
        trajectories.append(Trajectory(model, row, seed, int(steps or states[-1]["step"]), states))
    return trajectories


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} when there is no file."""
    if not path.is_file():
        return {}
    try:
        value = read_json(path, strict=False)
    except JSONError as error:
        raise UsageError(f"{path}: is not JSON ({error}); write it again or name another folder") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, without a last line that a kill cut short."""
    rows = []
    for i, line in json_lines(path):
        try:
            row = parse_json(line, strict=False)
        except JSONError as error:
            if not line.endswith(b"\n"):
                break
            raise UsageError(f"{path}: line {i} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}: line {i} is not a JSON object")
        rows.append(row)
    return rows


def _by_number(paths: Iterator[Path]) -> list[Path]:
    """Sorted by name, with the numbers in a name sorted by value."""
    return sorted(paths, key=lambda path: [int(w) if w.isdecimal() else w for w in re.split(r"(\d+)", path.name)])
