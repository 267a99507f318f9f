"""Trackers of experiments beside stats.jsonl: TensorBoard, Weights & Biases, trackio (`--track`).

They get the rows of stats.jsonl, in the first process, and a run that resumes goes on in the same run of the tracker.
No training fails with its tracker: what goes wrong there is told once, and that tracker gets nothing more.
"""

import contextlib
import importlib.util
import io
import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from mcd.errors import UsageError
from mcd.files import read_json, write_json
from mcd.progress import notice

TrackerName = Literal["tensorboard", "wandb", "trackio"]
PROJECT = "mcd"
IDENTITY = "tracked.json"
"""File in the run folder that holds the name of the run in the trackers."""


class Tracker(Protocol):
    """One tracker's run, from its first row on."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""
        ...

    def close(self) -> None:
        """Write all that is left."""
        ...


class TensorBoard(Tracker):
    """Events in the run's folder `tensorboard`; those of the steps that are done again are hidden."""

    def __init__(self, run: Path, name: str, first_step: int, config: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """A run of Weights & Biases, whose files are in the run's folder `wandb`. WANDB_MODE, WANDB_PROJECT and its other
    variables hold; offline, a run that resumes has several folders of one id, which `wandb sync` joins. Steps that are
    done again are points of the same place."""

    def __init__(self, run: Path, name: str, first_step: int, config: Mapping[str, Any]):
        import os

        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name,
            name=name,
            resume="allow",
            dir=str(run),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio(Tracker):
    """A run of trackio, in its own place (TRACKIO_DIR) or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says."""

    def __init__(self, run: Path, name: str, first_step: int, config: Mapping[str, Any]):
        import os

        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # it advertises its commands
            project = os.environ.get("TRACKIO_PROJECT", PROJECT)
            self._run = trackio.init(project=project, name=name, resume="allow", config=dict(config), embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


TRACKERS: dict[str, Callable[[Path, str, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError, before any work, for a tracker that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--track {name}: is not installed; pip install 'mcd-lm[{name}]', or leave it out")


class Tracking:
    """The trackers `names` of a run in the folder `run`, of configuration `config`; opened with the first row."""

    def __init__(self, names: Sequence[str], run: Path, config: Mapping[str, Any]):
        self._left, self._run, self._config = list(names), run, config
        self._open: dict[str, Tracker] = {}

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass on a row of stats.jsonl: its numbers, under the name of the network whose turn it was if there are
        several."""
        step, values = row["step"], numbers_of(row)
        for name in tuple(self._left):
            with self._told(name):
                if name not in self._open:
                    self._open[name] = TRACKERS[name](self._run, _identity(self._run), step, self._config)
                self._open[name].log(step, values)

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, *error: object) -> None:
        for name, tracker in self._open.items():
            if name in self._left:
                with self._told(name):
                    tracker.close()

    @contextlib.contextmanager
    def _told(self, name: str) -> Any:
        """Around what a tracker does."""
        quiet = logging.getLogger(name)
        level = quiet.level
        quiet.setLevel(logging.ERROR)
        try:
            yield
        except Exception as error:
            self._left.remove(name)
            said = (str(error).splitlines() or [""])[0]
            notice(
                f"mcd: --track {name}: failed ({type(error).__name__}: {said:.200}); the training goes on without it, "
                "and stats.jsonl has everything"
            )
        finally:
            quiet.setLevel(level)


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row trackers draw: finite numbers but the step, as floats."""
    prefix = f"{row['turn']}/" if "turn" in row else ""
    numbers = {key: value for key, value in row.items() if key != "step" and isinstance(value, int | float)}
    return {prefix + key: float(value) for key, value in numbers.items() if math.isfinite(value)}


def _identity(run: Path) -> str:
    """The name of the run in the trackers: that of its folder, and a part by which it is the only one of this name."""
    path = run / IDENTITY
    if not path.is_file():
        write_json(path, {"name": f"{run.resolve().name}-{secrets.token_hex(4)}"})
    return str(read_json(path)["name"])
