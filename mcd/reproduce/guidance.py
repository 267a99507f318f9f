"""Guidance next to the two other ways to cool a teacher, at equal entropy and at equal distinct bigrams.

A temperature and top-p sharpen the whole prediction, guidance (`mcd.sampler.masked`) what it says beyond the frequency
of a token. On text the bundled teacher is drawn in each way, and a student of LTD that learns from guided trajectories
is drawn plainly. On languages of known law trained teachers of three seeds and the exact denoiser are drawn, and the
exact laws judge.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcd.checkpoints.folder import from_pretrained
from mcd.checkpoints.locate import locate
from mcd.data.loader import spread_rows
from mcd.eval.equal_entropy import Sweep
from mcd.eval.laboratory.curves import point_row
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.held_out import HeldOut
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.model.prior import prior
from mcd.report.curves import draw_curves
from mcd.reproduce.cooling import NUM, SWEEPS, at_equal_distinct, compared, sweeps_of
from mcd.reproduce.frontier import BEST, REAL_TEXTS, with_energy
from mcd.reproduce.languages import language_cells
from mcd.reproduce.scales import (
    LANGUAGES,
    SEEDS,
    Scale,
    language_data,
    language_teacher,
    text_data,
    text_guided_student,
)
from mcd.reproduce.text import reference_rows, text_cell

STEPS = (1, 2, 4, 8)
GUIDED: list[dict[str, Any]] = [
    {"guidance": 0.5},
    *({"guidance": 0.5, "top_p": p} for p in (0.95, 0.9, 0.8)),
    {"guidance": 1.0, "top_p": 0.9},
]
STUDENT: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"guidance": 0.5, "top_p": 0.9}]
LANGUAGE_STEPS = (2, 4, 8)
LANGUAGE_COOLED: dict[str, list[dict[str, Any]]] = {
    "temperature": [{"temperature": T} for T in (0.7, 0.8, 0.9, 1.0, 1.1)],
    "top-p": [{"top_p": p} for p in (0.8, 0.9, 0.95)],
}
LANGUAGE_GUIDED: list[dict[str, Any]] = [{"guidance": w} for w in (0.25, 0.5, 1.0)]


def plan(scale: Scale) -> Experiment:
    """Every way at every number of steps; guidance from two steps on, since next to nothing changes in the first."""
    teacher, student, num = scale.teachers["mdlm"], text_guided_student(scale), max(NUM, scale.num)
    ways = {"guidance": GUIDED, **SWEEPS}
    drawn = [
        (teacher, STEPS[1:] if label == "guidance" else STEPS, label, way) for label in ways for way in ways[label]
    ]
    drawn += [(student.name, STEPS, "ltd", way) for way in STUDENT]
    cells = [
        replace(text_cell(scale, model, steps, label, **BEST | way), num=num)
        for model, numbers, label, way in drawn
        for steps in numbers
    ]
    trainings, of_language = [*text_data(scale), student], {"guidance": LANGUAGE_GUIDED, **LANGUAGE_COOLED}
    for language in LANGUAGES:
        teachers = [language_teacher(language, seed) for seed in SEEDS]
        trainings += [language_data(language), *teachers]
        for model, seed in [(f"exact:{language}", 0), *zip((one.name for one in teachers), SEEDS, strict=True)]:
            for label, way in ((label, way) for label, ways in of_language.items() for way in ways):
                rest = {name: value for name, value in way.items() if name != "temperature"}
                temperatures = (way.get("temperature", 1.0),)
                cells += language_cells(model, language, LANGUAGE_STEPS, label, seed, temperatures, **BEST | rest)
    return Experiment(trainings, cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Points on text with their energy distance, points on languages, each way next to the sweeps, means over seeds."""
    text = [one for one in measured if one.cell.language is None]
    points, found = with_energy(text, scale, work), compared(text)
    real = HeldOut(work / scale.text[0], scale.length, seed=0).loader
    law = prior(from_pretrained(str(locate(scale.teachers["mdlm"])))).numpy()
    for one, row in zip(text, points, strict=True):
        row["surprise"] = surprise(one.arrays["ids"], law)
    for row in found:
        row |= at_equal_distinct(row, points)
    draw_curves([curve for curves in sweeps_of(text).values() for curve in curves.values()], out / "guidance.png")
    models = dict.fromkeys(one.cell.model for one in measured if one.cell.language is not None)
    known = []
    for model in models:
        here = [one for one in measured if one.cell.model == model]
        known += [row | {"model": model, "seed": here[0].cell.seed} for row in with_twice_the_calls(here)]
    return {
        "protocol": {"guided": GUIDED, "student": STUDENT, "order": BEST["order"], "samples": text[0].cell.num},
        "surprise_of_text": surprise(spread_rows(real, REAL_TEXTS).numpy(), law),
        "rows": [*reference_rows(scale, work), *points],
        "compared": found,
        "languages": [point_row(one) for one in measured if one.cell.language is not None],
        "compared_languages": known,
        "summary": summary(known),
    }


def surprise(ids: NDArray, law: NDArray) -> float:
    """The mean of -log p(x | masks) over tokens, nats: lower than in real text where frequent tokens are too many."""
    return float(-law[ids].mean())


def with_twice_the_calls(measured: list[MeasuredCell]) -> list[dict[str, Any]]:
    """The rows of `compared`, and as `twice_value` what a temperature has at their entropy in twice the calls; None
    where that was not measured or not reached."""
    rows, sweeps = compared(measured), sweeps_of(measured)
    for row in rows:
        twice = sweeps.get((row["language"], 2 * row["steps"]))
        match = Sweep(twice["temperature"].points[row["measure"]]).at(row["entropy"]) if twice else None
        row["twice_value"] = match.quality.value if match else None
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each (language, exact or trained, steps, way of guidance, measure): means over seeds.

    For a temperature, top-p, and a temperature in twice the calls (`twice`), the means are over the `NAME_seeds` in
    which that reaches the entropy of guidance: `NAME_own` of guidance, `NAME_value` of the other; `NAME_ahead`, in how
    many guidance is below. `sureness` is H(X2 | X1) minus that of the truth, in nats.
    """
    groups = defaultdict(list)
    for row in rows:
        if row["way"].startswith("guidance"):
            kind = "exact" if row["model"].startswith("exact:") else "trained"
            groups[row["language"], kind, row["steps"], row["way"], row["measure"]].append(row)
    found = []
    for (language, kind, steps, way, measure), members in groups.items():
        one = {"language": language, "teacher": kind, "steps": steps, "way": way, "measure": measure}
        one |= {"value": float(np.mean([row["value"] for row in members])), "seeds": len(members)}
        one["sureness"] = float(np.mean([row["bigram_entropy"] - row["bigram_entropy_true"] for row in members]))
        for name in (*SWEEPS, "twice"):
            pairs = [(row["value"], row[f"{name}_value"]) for row in members if row[f"{name}_value"] is not None]
            own, other = np.mean(pairs, axis=0).tolist() if pairs else (None, None)
            one |= {f"{name}_own": own, f"{name}_value": other, f"{name}_seeds": len(pairs)}
            one[f"{name}_ahead"] = sum(a < b for a, b in pairs)
        found.append(one)
    return found
