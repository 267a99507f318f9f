"""What `mcd demo` distils, draws and scores, and how much work that is."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mcd.checkpoints.weights import WEIGHTS
from mcd.cli.demo_options import DemoArgs
from mcd.eval.diversity import sample_entropy
from mcd.eval.equal_entropy import temperature_of_entropy
from mcd.eval.laboratory import cost
from mcd.eval.laboratory.experiment import Cell, sampler_options
from mcd.eval.laboratory.lab import Lab, MeasuredCell
from mcd.model.denoiser import Denoiser
from mcd.model.sizes import Sizes
from mcd.progress import Whole
from mcd.report.comparison import SPREAD
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral

BEST_ORDER = "low-discrepancy"
"""The order of the teacher that is called `SPREAD`."""
TRIALS = 6
"""Temperatures that are tried for the cooled teacher; each trial draws a set of samples and scores none."""
START_S = 45.0
"""What a demo takes besides, about: the text is prepared, the scorer is loaded twice, the page is drawn."""


def trainings(args: DemoArgs) -> dict[str, float]:
    """The distillations, with the gap of their first round: 2 tokens (the paper's is 2 of 1,024), and none."""
    return {"student": 2 / args.length} | ({"tau-only": 0.0} if args.tau_only else {})


def cells_of(args: DemoArgs) -> list[Cell]:
    """The sets of samples, but those of the cooled teacher (`cooled_cell`)."""
    cells = [_cell(args, "teacher", steps) for steps in args.teacher_steps]
    cells += [_cell(args, SPREAD, steps, order=BEST_ORDER) for steps in args.order_steps]
    cells += [_cell(args, "student", steps, args.rounds) for steps in args.student_steps]
    earlier = range(1, args.rounds) if args.every_round else {(args.rounds + 1) // 2} - {args.rounds}
    cells += [_cell(args, "student", steps, round) for round in earlier for steps in args.round_steps]
    if args.tau_only:
        cells += [_cell(args, "tau-only", steps, args.rounds) for steps in args.control_steps]
    return cells


def cooled_cell(args: DemoArgs, steps: int, temperature: float) -> Cell:
    """The teacher, cooled."""
    return _cell(args, "teacher-cooled", steps, temperature=temperature)


def compared_steps(args: DemoArgs) -> list[int]:
    """The numbers of steps at which there is a student for the cooled teacher."""
    return [steps for steps in args.control_steps if steps in args.student_steps]


def _cell(args: DemoArgs, label: str, steps: int, round: int | None = None, **options: Any) -> Cell:
    return Cell(
        args.teacher if label.startswith("teacher") else label,
        steps,
        args.num,
        label,
        round,
        args.length,
        sampler_options(rows_per_call=0, **options),
        args.seed,
        None if args.scorer == "none" else args.scorer,
        borders=args.borders,
    )


def lab_of(args: DemoArgs) -> Lab:
    """The laboratory's one process has all threads and the sampler's own calls, as `mcd sample` has."""
    return Lab(args.out, jobs=1, threads=torch.get_num_threads())


def operations(args: DemoArgs, sizes: Sizes) -> dict[str, float]:
    """Floating point operations of all that is left to do (of what --out holds already nothing is), by what it is."""
    lab = lab_of(args)
    cells = lab.missing(cells_of(args))
    cooled = [cooled_cell(args, steps, 0.8) for steps in compared_steps(args)]
    drawn = sum(cost.drawing(sizes, cell) for cell in cells)
    drawn += sum((TRIALS + 1) * cost.drawing(sizes, cell) for cell in cooled)
    texts = cost.scoring(cells_of(args)[0]) * (4 if args.nonsense else 2)
    return {
        "distilling": sum(distilling(args, sizes, name) for name in trainings(args)),
        "drawing": drawn,
        "scoring": texts + sum(map(cost.scoring, (*cells, *cooled))),
    }


def distilling(args: DemoArgs, sizes: Sizes, name: str) -> float:
    """Operations of a distillation that is not finished."""
    if (args.out / name / WEIGHTS["ema"]).is_file():
        return 0.0
    return cost.distilling(sizes, args.length, args.batch_size, args.rounds * args.steps_per_round)


def minutes(args: DemoArgs, work: Mapping[str, float], rate: float) -> float:
    """Minutes that this work takes where float32 products run at `rate` operations per second."""
    return (START_S + cost.seconds(sum(work.values()), rate)) / 60


def measured(args: DemoArgs, data: Path, teacher: Denoiser, sizes: Sizes, whole: Whole) -> list[dict[str, Any]]:
    """The rows of the table; the samples of each are written next to it."""
    lab, cells = lab_of(args), cells_of(args)

    def of_cell(cell: Cell) -> float:
        return cost.drawing(sizes, cell) + cost.scoring(cell)

    with whole.part(cost.scoring(cells[0]) * (4 if args.nonsense else 2)):
        references = lab.references(data, cells[0], args.nonsense)
    with whole.part(sum(map(of_cell, lab.missing(cells)))):
        found = lab.measure(list(dict.fromkeys(cells)), of_cell)
    last = [one for one in found if (one.cell.label, one.cell.round) == ("student", args.rounds)]
    entropies = {one.cell.steps: one.row["entropy"] for one in last}
    for steps in compared_steps(args):
        cell = cooled_cell(args, steps, 0.8)
        with whole.part(TRIALS * cost.drawing(sizes, cell)) as update:
            cell = cooled_cell(args, steps, _temperature(args, teacher, steps, entropies[steps], update))
        with whole.part(of_cell(cell)):
            found += lab.measure([cell])
    for one in found:
        _copy_samples(args, one)
    return [*references, *(one.row for one in found)]


def _copy_samples(args: DemoArgs, one: MeasuredCell) -> None:
    tag = f"{one.cell.label}_r{one.cell.round}" if one.cell.round else one.cell.label
    assert one.samples is not None  # they are text
    shutil.copyfile(one.samples, args.out / f"samples_{tag}_s{one.cell.steps}.jsonl")


def _temperature(args: DemoArgs, teacher: Denoiser, steps: int, entropy: float, update: Any) -> float:
    """The temperature at which the teacher's entropy is nearest to `entropy`, four decimals."""
    tried: list[float] = []

    def entropy_at(temperature: float) -> float:
        ids, _ = sample(Ancestral(steps, temperature), teacher, args.num, args.length, args.seed)
        tried.append(temperature)
        update(len(tried) / TRIALS, f"cooling the teacher at {steps} steps")
        return sample_entropy(ids)

    return round(temperature_of_entropy(entropy_at, entropy, halvings=TRIALS), 4)
