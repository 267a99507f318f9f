"""The options of `mcd demo`: those of the short set, which are the defaults, and those of the full set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from mcd.data.text import Borders
from mcd.options import Count, Options, Seed, Steps, option_name


@dataclass(frozen=True)
class DemoArgs(Options):
    """Distil a teacher by MCD in rounds, sample teacher and student, score them, and write a report.

    The default takes some minutes on two cores; --full measures about five times as many samples, at more numbers of
    steps, after every round, and with all controls. --dry-run says how long either takes on this machine.

    Writes demo.json, metrics.json, samples_*.jsonl, trajectory.jsonl and report.html below --out. A run that was killed
    resumes when the same command is typed again; with other options, name a new folder.

    Examples:
      mcd demo
      mcd demo --full
      mcd demo --full --dry-run
      mcd demo --teacher runs/teacher --out runs/mine --num 256
    """

    out: Path = Path("runs/demo")
    """Folder to write."""
    full: bool = False
    """Start from the full set in place of the short one: other defaults of the options below, and runs/demo-full as
    the folder (`mcd demo --full --help` shows them)."""
    teacher: str = "demo"
    """MODEL: a folder, a hub id, or demo."""
    data: str = "sotu"
    """Text, or a prepared folder with the teacher's tokenizer."""
    length: int = 128
    """Tokens per row: 4 to the teacher's length."""
    num: Annotated[int, Ge(2)] = 32
    """Samples per row of the table."""
    seed: Seed = 0
    """Seed of training, samples and intervals."""
    scorer: str = "smollm2"
    """As in `mcd eval`; none leaves out Gen PPL, and with it the comparisons that the page is about."""
    borders: Borders = "kept"
    """As in `mcd eval`."""
    teacher_steps: tuple[Steps, ...] = (4, 8, 64)
    """Numbers of steps at which the teacher is sampled in the usual order."""
    order_steps: tuple[Steps, ...] = (4, 8)
    """Numbers of steps at which the teacher is sampled in its best order (`mcd sample --order low-discrepancy`)."""
    student_steps: tuple[Steps, ...] = (2, 4, 8)
    """Numbers of steps at which the student of the last round is sampled."""
    round_steps: tuple[Steps, ...] = (8,)
    """Numbers of steps at which students of earlier rounds are sampled."""
    every_round: bool = False
    """Sample the students of all earlier rounds, instead of one in the middle."""
    control_steps: tuple[Steps, ...] = (4,)
    """Numbers of steps at which the student is compared with the teacher cooled to the student's entropy (and with
    tau-only)."""
    tau_only: bool = False
    """Distil also the control tau-only, which is the same training without the look-ahead."""
    nonsense: bool = False
    """Measure also two kinds of nonsense that have the entropy of real text."""
    rounds: Count = 5
    """Rounds of distillation."""
    steps_per_round: Count = 6
    """Optimiser steps per round."""
    batch_size: Count = 16
    """Rows per optimiser step."""
    dry_run: bool = False
    """Print the resolved configuration and how long the work takes on this machine, and stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("teacher_steps", "student_steps"):
            if not getattr(self, name):
                raise ValueError(f"{option_name(name)}: name at least one number of steps")


FULL = DemoArgs(
    out=Path("runs/demo-full"),
    full=True,
    num=64,
    teacher_steps=(2, 4, 8, 16, 32, 64, 128, 256),
    order_steps=(2, 4, 8, 16, 32),
    student_steps=(2, 4, 8, 16, 32, 128, 256),
    round_steps=(8, 32),
    every_round=True,
    control_steps=(2, 4, 8),
    tau_only=True,
    nonsense=True,
    steps_per_round=24,
)
"""What --full starts from: the figures of docs/demo.md."""
