"""The ablations that the paper leaves open, on a known language, three seeds each."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.curves import curve_of, matched_rows
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import Lab
from mcd.reproduce.languages import LENGTH, NUM, language_cell, over_seeds
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
"""What is changed: the method and its options. Nothing said is the method's default at this scale (scales.py)."""
SIZES = (32, LANGUAGE_SIZE, 128)


def plan(scale: Scale) -> Experiment:
    """Every variant at both numbers of steps; the teacher's temperature sweep; MCD at three sizes."""
    runs, cells = [language_data(LANGUAGE)], []
    for seed in SEEDS:
        for hidden in SIZES if seed == SEEDS[0] else (LANGUAGE_SIZE,):
            teacher = language_teacher(LANGUAGE, seed, hidden=hidden)
            name = "" if hidden == LANGUAGE_SIZE else f"h{hidden}"
            student = language_student(LANGUAGE, seed, "mcd", name, hidden=hidden)
            runs += [teacher, student]
            tag = "" if hidden == LANGUAGE_SIZE else f"-h{hidden}"
            cells += [
                language_cell(teacher.name, LANGUAGE, n, f"mdlm{tag}", seed, temperature=temperature)
                for n in STEPS
                for temperature in TEMPERATURES
            ]
            if tag:
                cells += [language_cell(student.name, LANGUAGE, n, f"mcd{tag}", seed, temperature=1.0) for n in STEPS]
        for name, (method, options) in VARIANTS.items():
            run = language_student(LANGUAGE, seed, method, "" if name == method else name, options)
            runs.append(run)
            cells += [language_cell(run.name, LANGUAGE, n, name, seed, temperature=1.0) for n in STEPS]
    return Experiment(list(dict.fromkeys(runs)), cells)


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """Means over seeds; and each variant against the teacher of its size cooled to its entropy, seed by seed."""
    measured = lab.measure(plan(scale).cells)
    matched = []
    for hidden in SIZES:
        tag = "" if hidden == LANGUAGE_SIZE else f"-h{hidden}"
        seeds = SEEDS if not tag else SEEDS[:1]
        labels = [f"mdlm{tag}", *((f"mcd{tag}",) if tag else VARIANTS)]
        for seed in seeds:
            curves = [
                curve_of(
                    label, n, [m for m in measured if (m.cell.label, m.cell.steps, m.cell.seed) == (label, n, seed)]
                )
                for label in labels
                for n in STEPS
            ]
            matched += matched_rows(curves)
    return {
        "protocol": {"language": LANGUAGE, "samples": NUM, "length": LENGTH, "seeds": list(SEEDS)},
        "rows": over_seeds(measured),
        "matched": matched,
    }
