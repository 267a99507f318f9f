"""What run folders hold, read for the report: measured cells, samples, trajectories, logs and configurations."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcd.errors import UsageError
from mcd.eval.protocol import said_by
from mcd.files import JSONError, json_lines, parse_json, read_json
from mcd.train.run_folder import read_stats

DEPTH = 3  # of folders below a run in which further runs are looked for
SKIPPED = ("checkpoints", "data", "rounds")
SAMPLES = re.compile(r"samples_(?P<model>.+?)(?:_r(?P<round>\d+))?(?:_s(?P<steps>\d+))?\.jsonl")
NUMBERS = "nfe gen_ppl gen_ppl_lo gen_ppl_hi entropy entropy_lo entropy_hi repetition_4 distinct_2 temperature".split()
WHOLE = ("round", "steps", "samples", "tokens")


@dataclass(frozen=True)
class Cell:
    """One row of a metrics.json: a model at one number of steps. None where it was not measured or does not apply."""

    run: str
    model: str
    round: int | None = None
    steps: int | None = None
    nfe: float | None = None
    gen_ppl: float | None = None
    gen_ppl_lo: float | None = None
    gen_ppl_hi: float | None = None
    entropy: float | None = None
    entropy_lo: float | None = None
    entropy_hi: float | None = None
    repetition_4: float | None = None
    distinct_2: float | None = None
    samples: int | None = None
    tokens: int | None = None
    temperature: float | None = None
    protocol: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """The rows of one samples_*.jsonl: {"row", "seed", "text", ...}."""

    run: str
    model: str
    round: int | None
    steps: int | None
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Trajectory:
    """One text being revealed: `states` by step, each with its tokens (None while masked)."""

    run: str
    model: str
    row: int
    seed: int
    steps: int
    states: list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """All that one folder holds; empty where it holds nothing of the kind."""

    name: str
    cells: list[Cell]
    samples: list[Samples]
    trajectories: list[Trajectory]
    stats: list[dict[str, Any]]
    config: dict[str, Any]
    environment: dict[str, Any]
    schedule: dict[str, Any] | None
    command: str | None


def gather(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders` and in their subfolders, in order.

    Raises UsageError, naming the folder or file, where there is no folder, nothing to report, or damaged contents.
    """
    runs: list[Run] = []
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"RUN {folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
        found = [path for path in _folders(folder) if _holds_run(path)]
        if not found:
            raise UsageError(
                f"RUN {folder}: holds nothing to report (metrics.json, samples_*.jsonl, stats.jsonl, trajectory.jsonl "
                "or run.json); name a folder written by mcd train, distill, sample, eval or demo"
            )
        for path in found:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                runs.append(_read_run(path))
    return runs


def _folders(folder: Path, depth: int = DEPTH) -> list[Path]:
    found = [folder]
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name not in SKIPPED and not path.name.startswith("."):
                found += _folders(path, depth - 1)
    return found


def _holds_run(folder: Path) -> bool:
    names = ("metrics.json", "stats.jsonl", "run.json", "trajectory.jsonl")
    return any((folder / name).is_file() for name in names) or any(folder.glob("samples_*.jsonl"))


def _read_run(folder: Path) -> Run:
    name = folder.as_posix()
    run = _read_json(folder / "run.json")
    metrics = _read_json(folder / "metrics.json")
    model = _read_json(folder / "config.json")
    cells = metrics.get("rows", [])
    if not isinstance(cells, list):
        raise UsageError(f'{folder / "metrics.json"}: "rows" is not a list')
    command = metrics.get("command") or run.get("command")
    has_stats = (folder / "stats.jsonl").is_file()
    return Run(
        name=name,
        cells=[_cell(name, folder / "metrics.json", i, row) for i, row in enumerate(cells) if not _is_likelihood(row)],
        samples=[samples for path in _by_number(folder.glob("samples_*.jsonl")) if (samples := _samples(name, path))],
        trajectories=_trajectories(name, folder / "trajectory.jsonl"),
        stats=[row for row in read_stats(folder) if isinstance(row, dict) and "step" in row] if has_stats else [],
        config=_mapping(run.get("config")),
        environment=_mapping(run.get("environment")),
        schedule=_mapping(model.get("schedule")) or None,
        command=command and str(command),
    )


def _is_likelihood(row: Any) -> bool:
    """Rows of `mcd eval --likelihood` are of a model and a text, not of samples: the page has no place for them."""
    return isinstance(row, dict) and "valid_nelbo" in row


def _cell(run: str, path: Path, i: int, row: Any) -> Cell:
    if not isinstance(row, dict) or not isinstance(row.get("model"), str):
        raise UsageError(f'{path}: row {i} has no "model"')
    protocol = said_by(_mapping(row.get("protocol")))
    values: dict[str, Any] = {}
    for name in (*NUMBERS, *WHOLE):
        value = row.get(name, protocol.get(name) if name == "temperature" else None)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{path}: row {i}: {name} is {value!r}, not a number")
        if value is None or not math.isfinite(value):
            values[name] = None
        else:
            values[name] = int(value) if name in WHOLE else float(value)
    for name in ("gen_ppl", "steps"):
        if values[name] is not None and values[name] <= 0:
            raise UsageError(f"{path}: row {i}: {name} is {values[name]}, which is not positive")
    return Cell(run=run, model=row["model"], protocol=protocol, **values)


def _samples(run: str, path: Path) -> Samples | None:
    named = SAMPLES.fullmatch(path.name)
    rows = [row for row in _read_lines(path) if isinstance(row.get("text"), str)]
    if any(isinstance(row.get(name), list | dict) for row in rows for name in ("row", "seed")):
        raise UsageError(f"{path}: a line has a row or seed that is no number")
    if named is None or not rows:
        return None
    first = rows[0]

    def whole(name: str) -> int | None:
        value = first.get(name, named[name])
        return int(value) if isinstance(value, int | str) and str(value).isdigit() else None

    model = first.get("model", named["model"])
    return Samples(run, str(model), whole("round"), whole("steps"), rows)


def _trajectories(run: str, path: Path) -> list[Trajectory]:
    if not path.is_file():
        return []
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for line in _read_lines(path):
        if not isinstance(line.get("tokens"), list) or not isinstance(line.get("step"), int):
            raise UsageError(f'{path}: a line has no "tokens" or no "step"')
        for name in ("row", "seed", "steps"):
            if not isinstance(line.get(name), int | None):
                raise UsageError(f"{path}: a line has a {name} that is no whole number")
        key = (
            str(line.get("model", "model")),
            int(line.get("row") or 0),
            int(line.get("seed") or 0),
            line.get("steps"),
        )
        groups.setdefault(key, []).append(line)
    trajectories = []
    for (model, row, seed, steps), states in groups.items():
        states.sort(key=lambda state: state["step"])
        if len({len(state["tokens"]) for state in states}) > 1:
            raise UsageError(f"{path}: the states of {model} row {row} differ in length")
        trajectories.append(Trajectory(run, model, row, seed, int(steps or states[-1]["step"]), states))
    return trajectories


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no file."""
    if not path.is_file():
        return {}
    try:
        value = read_json(path, strict=False)
    except JSONError as error:
        raise UsageError(f"{path}: is not JSON ({error}); write it anew or name another folder") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line cut short by a kill is left out."""
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


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _by_number(paths: Any) -> list[Path]:
    """Sorted by name, numbers in it by value."""
    return sorted(paths, key=lambda p: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", p.name)])
