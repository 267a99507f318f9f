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
from mcd.eval.laboratory.curves import Curve, curves_of, matched_rows, point_row
from mcd.eval.laboratory.experiment import Experiment, Training
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.report.curves import draw_curves
from mcd.reproduce.languages import language_cells
from mcd.reproduce.scales import ROWS, SEEDS, Scale, language_data

LANGUAGES = ("hmm", "grammar")
STEPS = (1, 2, 4, 8)
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ORDER = "low-discrepancy"
NETWORK = ("--hidden", "96", "--layers", "3", "--heads", "4")


def plan(scale: Scale) -> Experiment:
    """A network that knows the language a little, its student of the truth, and the truth at many temperatures."""
    trainings, cells = [], []
    for language in LANGUAGES:
        data = language_data(language)
        trainings.append(data)
        for seed in SEEDS:
            cells += language_cells(f"exact:{language}", language, STEPS, "exact", seed, TEMPERATURES, order=ORDER)
            start, student = _start(language, seed), _student(language, seed)
            trainings += [start, student]
            cells += language_cells(student.name, language, STEPS, "ltd", seed, (0.8, 1.0), order=ORDER)
            cells += language_cells(student.name, language, STEPS, "ltd-greedy", seed, order=ORDER, greedy=True)
    return Experiment(trainings, cells)


def _start(language: str, seed: int) -> Training:
    options = ("--recipe", "cpu", "--data", f"@data/{language}", *NETWORK, *ROWS, "--steps", "400")
    return Training(f"{language}/start-s{seed}", ("train", *options, "--valid-every", "0", "--seed", str(seed)))


def _student(language: str, seed: int) -> Training:
    models = ("--teacher", f"exact:{language}", "--init", f"@{language}/start-s{seed}", "--length", "64")
    budget = ("--rounds", "1", "--steps-per-round", "500", "--batch-size", "8", "--lr", "1e-3", "--warmup-steps", "50")
    rest = (
        "--lr-decay",
        "0.5",
        "--trajectory-steps",
        "16",
        "--valid-every",
        "0",
        "--threads",
        "1",
        "--seed",
        str(seed),
    )
    return Training(f"{language}/ltd-s{seed}", ("distill", "ltd", *models, *budget, *rest))


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """The points, the rows at equal entropy and equal calls, and those against twice the calls."""
    curves = curves_of(measured)
    matched = []
    for domain in dict.fromkeys((curve.language, curve.seed) for curve in curves):
        matched += matched_rows([curve for curve in curves if (curve.language, curve.seed) == domain])
    for language in LANGUAGES:
        drawn = [curve for curve in curves if (curve.language, curve.seed) == (language, SEEDS[0])]
        draw_curves(drawn, out / f"truth_{language}.png")
    halved = against_twice_the_calls(curves)
    return {
        "protocol": {"temperatures": TEMPERATURES, "order": ORDER, "seeds": SEEDS},
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
