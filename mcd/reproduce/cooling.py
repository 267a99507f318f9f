"""How to cool a teacher: by a temperature or by top-p, read at equal entropy and at equal distinct bigrams.

Students are compared with a teacher that is cooled by a temperature. Here the same teacher, in its best order, is
cooled by top-p too, which leaves out unlikely tokens. On text, Gen PPL and energy distance judge. On languages of known
law the teacher is the exact denoiser, and its exact laws judge. The student of LTD on text, which is ahead of a cooled
teacher in one call, is judged by all of this.
"""

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mcd.eval.equal_entropy import Sweep
from mcd.eval.laboratory.curves import Curve, curve_of, match_keys, point_row
from mcd.eval.laboratory.experiment import Cell, Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.report.curves import draw_curves
from mcd.reproduce.frontier import BEST, with_energy
from mcd.reproduce.languages import language_cells
from mcd.reproduce.scales import LANGUAGES, Scale, text_data, text_student
from mcd.reproduce.text import reference_rows, text_cell

STEPS = (1, 2, 4, 8, 16)
NUM = 128
"""Samples of text of each cell, at least."""
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "temperature": [{"temperature": T} for T in (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)],
    "top-p": [{"top_p": p} for p in (0.8, 0.85, 0.9, 0.95)],
}
"""The two ways; "top-p" ends where "temperature" has T = 1."""
LTD: list[dict[str, Any]] = [{"temperature": 0.8}, {}, {"top_p": 0.95}, {"top_p": 0.9}, {"top_p": 0.8}]
LTD_STEPS = (1, 2, 4)


def plan(scale: Scale) -> Experiment:
    """Every way at every number of steps, of the teacher of text and of each exact denoiser; and LTD on text."""
    cells, student, num = [], text_student(scale, "ltd"), max(NUM, scale.num)
    for steps in STEPS:
        for label, way in ((label, BEST | way) for label, ways in SWEEPS.items() for way in ways):
            cells.append(replace(text_cell(scale, scale.teachers["mdlm"], steps, label, **way), num=num))
            for language in LANGUAGES:
                one = {name: value for name, value in way.items() if name != "temperature"}
                temperatures = (way.get("temperature", 1.0),)
                cells += language_cells(f"exact:{language}", language, (steps,), label, 0, temperatures, **one)
        for way in LTD if steps in LTD_STEPS else ():
            cells.append(replace(text_cell(scale, student.name, steps, "ltd", **BEST | way), num=num))
    return Experiment([*text_data(scale), student], cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Points on text with their energy distance, points on languages, and each way next to both sweeps."""
    text = [one for one in measured if one.cell.language is None]
    points = with_energy(text, scale, work)
    found = compared(measured)
    for row in found:
        if row["language"] is None:
            row |= at_equal_distinct(row, points)
    draw_curves([curve for curves in sweeps_of(text).values() for curve in curves.values()], out / "cooling.png")
    return {
        "protocol": {"sweeps": SWEEPS, "students": LTD, "order": BEST["order"], "samples": text[0].cell.num},
        "rows": [*reference_rows(scale, work), *points],
        "languages": [point_row(one) for one in measured if one.cell.language is not None],
        "compared": found,
    }


def sweeps_of(measured: list[MeasuredCell]) -> dict[tuple[str | None, int], dict[str, Curve]]:
    """The curve of each sweep for each (language, steps). That of top-p ends at T = 1, where nothing is left out."""
    groups: dict[tuple[str | None, int], dict[str, list[MeasuredCell]]] = defaultdict(lambda: defaultdict(list))
    for one in measured:
        cell, of_steps = one.cell, groups[one.cell.language, one.cell.steps]
        if cell.label in SWEEPS:
            of_steps[cell.label].append(one)
        if cell.label == "temperature" and "temperature" not in dict(cell.options):
            of_steps["top-p"].append(one)
    return {
        key: {label: curve_of(label, key[1], members) for label, members in by_label.items()}
        for key, by_label in groups.items()
    }


def compared(measured: list[MeasuredCell]) -> list[dict[str, Any]]:
    """Each point that is no temperature, next to the sweeps at its entropy: a row for each measure.

    What a sweep says is under its name (`match_keys`). A point of top-p is compared with the temperature alone.
    """
    rows: list[dict[str, Any]] = []
    for (language, steps), sweeps in sweeps_of(measured).items():
        others = [
            (one, curve_of(one.cell.label, steps, [one]).points)
            for one in measured
            if (one.cell.language, one.cell.steps) == (language, steps) and one.cell.label != "temperature"
        ]
        for measure in next(iter(sweeps.values())).points:
            read = {name: Sweep(curve.points[measure]) for name, curve in sweeps.items()}
            for one, points in others:
                (point,) = points[measure]
                entropy = float(point.entropy.mean())
                value = float(point.quality(np.ones((1, len(point.entropy))))[0])
                row: dict[str, Any] = {
                    "language": language,
                    "steps": steps,
                    "way": _said(one.cell),
                    "measure": measure,
                    "entropy": entropy,
                    "value": math.exp(value) if measure == "gen_ppl" else value,
                }
                row |= {
                    key: one.row.get(key)
                    for key in ("self_bleu", "distinct_2", "bigram_entropy", "bigram_entropy_true")
                }
                for name, sweep in read.items():
                    match = None if name == one.cell.label else sweep.at(entropy)
                    row |= match_keys(f"{name}_", match, measure)
                rows.append(row)
    return rows


def _said(cell: Cell) -> str:
    """The way of a cell in words: its label, and the knobs that it turns."""
    options = dict(cell.options)
    knobs = {"guidance": "guidance", "temperature": "T =", "top_p": "top-p"}
    said = [f"{word} {options[name]}" for name, word in knobs.items() if name in options]
    return ", ".join(said if said and said[0].startswith(cell.label) else [cell.label, *said])


def at_equal_distinct(row: dict[str, Any], points: list[dict[str, Any]]) -> dict[str, float | None]:
    """Gen PPL of each sweep where it has as many distinct bigrams as the row, linear in log Gen PPL; None outside."""
    found: dict[str, float | None] = {}
    for name in SWEEPS:
        sweep = sorted(
            (point["distinct_2"], math.log(point["gen_ppl"]))
            for point in points
            if point["steps"] == row["steps"]
            and (point["model"] == name or (point["model"] == "temperature" and point.get("temperature", 1.0) == 1.0))
        )
        x, y = zip(*sweep, strict=True)
        inside = x[0] <= row["distinct_2"] <= x[-1] and not row["way"].startswith(name)
        found[f"{name}_at_distinct"] = math.exp(float(np.interp(row["distinct_2"], x, y))) if inside else None
    return found
