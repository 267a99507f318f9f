"""LTD with the truth as teacher: do N calls of the student do the work of 2 N calls of the exact denoiser?

The exact denoiser of a language is better than any teacher, so what a student of it lacks is the fault of the method or
of its training. Both draw in the low-discrepancy order. The student is compared at its own entropy, to which the exact
denoiser is cooled, in exact NLL and in the total variation of bigrams. Likelihood alone would reward sharpening.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mcd.eval.equal_entropy import at_entropy
from mcd.eval.laboratory.curves import Curve, point_row
from mcd.eval.laboratory.experiment import Cell, Experiment, Training
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.languages import language_cells, matched_by_language
from mcd.reproduce.scales import ROWS, SEEDS, Scale, language_data

LANGUAGES = ("hmm", "grammar")
STEPS = (1, 2, 4, 8)
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ORDER = "low-discrepancy"
NETWORK = ("--hidden", "96", "--layers", "3", "--heads", "4")
STUDENT_STEPS = 500


def plan(scale: Scale) -> Experiment:
    """A network that knows the language a little, its student of the truth, and the truth at many temperatures."""
    trainings, cells = [], []
    for language in LANGUAGES:
        trainings.append(language_data(language))
        for seed in SEEDS:
            student = student_of_the_truth(language, seed, STUDENT_STEPS)
            trainings += [start(language, seed), student]
            cells += exact_cells(language, seed)
            cells += student_cells(student, language, seed, "ltd", (0.8, 1.0))
    return Experiment(trainings, cells)


def exact_cells(language: str, seed: int, temperatures: tuple[float, ...] = TEMPERATURES) -> list[Cell]:
    """The exact denoiser at some temperatures."""
    return language_cells(f"exact:{language}", language, STEPS, "exact", seed, temperatures, order=ORDER)


def student_cells(
    student: Training, language: str, seed: int, label: str, temperatures: tuple[float, ...]
) -> list[Cell]:
    """A student drawn afresh at some temperatures, and as `label`-greedy the likeliest tokens."""
    drawn = language_cells(student.name, language, STEPS, label, seed, temperatures, order=ORDER)
    return drawn + language_cells(student.name, language, STEPS, f"{label}-greedy", seed, order=ORDER, greedy=True)


def start(language: str, seed: int, network: tuple[str, ...] = NETWORK) -> Training:
    """A network that knows the language a little, from which a student begins."""
    options = ("--recipe", "cpu", "--data", f"@data/{language}", *network, *ROWS, "--steps", "400")
    return Training(f"{language}/start-s{seed}", ("train", *options, "--valid-every", "0", "--seed", str(seed)))


def student_of_the_truth(language: str, seed: int, steps: int) -> Training:
    """A student of LTD whose teacher is the exact denoiser, after so many steps of 8 trajectories."""
    models = ("--teacher", f"exact:{language}", "--init", f"@{start(language, seed).name}", "--length", "64")
    budget = ("--rounds", "1", "--steps-per-round", str(steps), "--batch-size", "8", "--lr", "1e-3")
    rest = "--warmup-steps 50 --lr-decay 0.5 --trajectory-steps 16 --valid-every 0 --threads 1".split()
    name = f"{language}/ltd{'' if steps == STUDENT_STEPS else f'-{steps}'}-s{seed}"
    return Training(name, ("distill", "ltd", *models, *budget, *rest, "--seed", str(seed)))


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """The points, the rows at equal entropy and equal calls, and those against twice the calls."""
    protocol = {"temperatures": TEMPERATURES, "order": ORDER, "seeds": SEEDS}
    return {"protocol": protocol} | judged(measured, out, "truth")


def judged(measured: list[MeasuredCell], out: Path, name: str) -> dict[str, Any]:
    """The parts of a result without its protocol. It draws the first seed, to NAME_LANGUAGE.png."""
    curves, matched = matched_by_language(measured, out, name)
    halved = against_twice_the_calls(curves)
    return {
        "rows": [point_row(one) for one in measured],
        "matched": matched,
        "halved": halved,
        "findings": findings(halved),
    }


def against_twice_the_calls(curves: list[Curve]) -> list[dict[str, Any]]:
    """For each student, seed and measure: its value in N calls, and the exact denoiser's in 2 N at the same entropy.

    `teacher_value` is None where the denoiser does not reach that entropy.
    """
    exact = {(c.language, c.seed, c.steps): c for c in curves if c.label == "exact"}
    rows = []
    for curve in curves:
        teacher = exact.get((curve.language, curve.seed, 2 * curve.steps))
        entropy = curve.natural_entropy()
        if curve.label == "exact" or teacher is None or entropy is None:
            continue
        for measure, points in curve.points.items():
            own, other = at_entropy(points, entropy), at_entropy(teacher.points[measure], entropy)
            values = {"value": own and own.quality.value, "teacher_value": other and other.quality.value}
            keys = {"model": curve.label, "language": curve.language, "seed": curve.seed, "steps": curve.steps}
            rows.append({**keys, "measure": measure, "entropy": entropy, **values})
    return rows


def findings(halved: list[dict[str, Any]]) -> list[str]:
    """For each language, student, calls and measure: in how many seeds half of the calls are enough."""
    groups = defaultdict(list)
    for row in halved:
        if row["value"] is not None and row["teacher_value"] is not None:
            groups[row["language"], row["model"], row["steps"], row["measure"]].append(row)
    return [
        f"{language}, {model}, {measure}: calls {steps} as good as {2 * steps} of the exact denoiser in "
        f"{sum(row['value'] <= row['teacher_value'] for row in rows)} of {len(rows)} seeds "
        f"({np.mean([row['value'] for row in rows]):.3f} and {np.mean([row['teacher_value'] for row in rows]):.3f})"
        for (language, model, steps, measure), rows in groups.items()
    ]
