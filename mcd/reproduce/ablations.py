"""The ablations that the paper leaves open, on a synthetic language, three seeds each."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import curves_of, matched_rows
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.languages import LENGTH, NUM, language_cells, over_seeds
from mcd.reproduce.scales import LANGUAGE_SIZE, SEEDS, Scale, language_data, language_student, language_teacher

LANGUAGE = "hmm"
STEPS = (4, 8)
TEMPERATURES = (0.6, 0.75, 0.9, 1.0, 1.1)
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mcd": ("mcd", ()),
    "independent": ("mcd", ("--coupling", "independent")),
    "ce-0": ("mcd", ("--ce-weight", "0")),
    "ce-10": ("mcd", ("--ce-weight", "10")),
    "tau-1": ("mcd", ("--tau0", "1", "--tau-step", "0")),
    "tau-only": ("mcd", ("--delta0", "0")),
    "forward": ("mcd", ("--kl", "forward")),
    "delta-double": ("mcd", ("--delta0", "0.03125")),
    "delta-constant": ("mcd", ("--delta-growth", "1")),
    "blockwise": ("mcd", ("--order", "blockwise")),
    "teacher-ema": ("mcd", ("--teacher-ema", "0.95")),
    "sdtt": ("sdtt", ()),
    "sdtt-public-grid": ("sdtt", ("--time-grid", "public")),
    "cd4lm-published": ("cd4lm", ("--region", "student")),
}
"""What is changed: the method and its options. All others have the method's default at this scale (scales.py)."""
SIZES = {32: "-h32", LANGUAGE_SIZE: "", 128: "-h128"}
"""Widths, and the endings of their models' labels; all but the first have one seed and only MCD."""


def plan(scale: Scale) -> Experiment:
    """Every variant at both numbers of steps; the teacher's temperature sweep; MCD at three sizes."""
    trainings, cells = [language_data(LANGUAGE)], []
    for seed in SEEDS:
        for hidden, tag in SIZES.items() if seed == SEEDS[0] else ((LANGUAGE_SIZE, ""),):
            teacher = language_teacher(LANGUAGE, seed, hidden=hidden)
            student = language_student(LANGUAGE, seed, "mcd", tag[1:], hidden=hidden)
            trainings += [teacher, student]
            cells += language_cells(teacher.name, LANGUAGE, STEPS, f"mdlm{tag}", seed, TEMPERATURES)
            if tag:
                cells += language_cells(student.name, LANGUAGE, STEPS, f"mcd{tag}", seed)
        for name, (method, options) in VARIANTS.items():
            student = language_student(LANGUAGE, seed, method, "" if name == method else name, options)
            trainings.append(student)
            cells += language_cells(student.name, LANGUAGE, STEPS, name, seed)
    return Experiment(list(dict.fromkeys(trainings)), cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Means over seeds; and each variant against the teacher of its size cooled to its entropy, seed by seed."""
    curves = curves_of(measured)
    matched = []
    for tag in SIZES.values():
        labels = (f"mdlm{tag}", f"mcd{tag}") if tag else ("mdlm", *VARIANTS)
        for seed in SEEDS:
            matched += matched_rows([curve for curve in curves if curve.seed == seed and curve.label in labels])
    return {
        "protocol": {"language": LANGUAGE, "samples": NUM, "length": LENGTH, "seeds": list(SEEDS)},
        "rows": over_seeds(measured),
        "matched": matched,
    }
