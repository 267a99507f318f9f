"""What an experiment needs: trainings, as `mcd` command lines, and cells, the sets of samples that are measured."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mcd.data.text import Borders


@dataclass(frozen=True)
class Training:
    """One training. `name` is its folder in the work folder; in `command`, `@NAME` means the folder of another
    training.

    may_fail: whether it fails is the question of an experiment; its stats.jsonl then ends with the reason.
    """

    name: str
    command: tuple[str, ...]
    may_fail: bool = False

    @property
    def needs(self) -> list[str]:
        """The trainings that this one starts from."""
        return [word[1:] for word in self.command if word.startswith("@")]

    def argv(self, work: Path) -> list[str]:
        """The words of the command line, with folders filled in."""
        words = [str(work / word[1:]) if word.startswith("@") else word for word in self.command]
        return [*words, "--out", str(work / self.name)]


@dataclass(frozen=True)
class Cell:
    """One set of samples: which model, drawn how, scored by what. Its fields are all that the numbers depend on.

    model: a training's name, a folder, a hub id, `demo`, or `exact:NAME`, the exact denoiser of a synthetic language.
    round: the model after that round; None for the last one. options: of the sampler, by name (`sampler_options`).
    scorer: None to count only tokens, or where a `language` gives exact likelihoods. dtype: as `Denoiser.dtype`.
    """

    model: str
    steps: int
    num: int
    label: str
    round: int | None = None
    length: int | None = None
    options: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    scorer: str | None = None
    scorer_precision: str = "fp32"
    language: str | None = None
    borders: Borders = "kept"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def source(self, work: Path) -> str:
        """The model's folder, or its name where it is no training in `work`."""
        folder = work / self.model
        if not folder.is_dir():
            return self.model
        return str(folder if self.round is None else folder / "rounds" / str(self.round))

    def digest(self, weights: str) -> str:
        """The name of the cell's files: sixteen hex digits of its fields and of the weights it was drawn from."""
        fields = {**asdict(self), "weights": weights}
        if self.language is not None:  # no text is scored; without the field, older cells keep their names
            del fields["borders"]
        if self.dtype == "float32":
            del fields["dtype"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Experiment:
    """All that an experiment trains and measures."""

    trainings: list[Training]
    cells: list[Cell]


def sampler_options(**options: Any) -> tuple[tuple[str, Any], ...]:
    """Sampler options as a `Cell` takes them. Temperature 1 and guidance 0 are left out: so equal cells are one."""
    plain = (("temperature", 1.0), ("guidance", 0.0))
    return tuple(sorted(option for option in options.items() if option not in plain))
