"""Curves of a temperature sweep: made of cells, read at equal entropy; for `mcd frontier` and experiments."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from mcd.data.languages.known import LANGUAGES
from mcd.eval.diversity import sample_entropies
from mcd.eval.equal_entropy import Match, Point, at_entropy, ratio, total_variation
from mcd.eval.known_language import bigram_counts
from mcd.eval.laboratory.lab import MeasuredCell


@dataclass(frozen=True)
class Curve:
    """One model at one number of steps: its points by measure ("gen_ppl", or "nll" and "tv_bigram" of a language)."""

    label: str
    steps: int
    language: str | None
    seed: int
    points: dict[str, list[Point]]

    def natural_entropy(self) -> float | None:
        """The mean entropy at temperature 1, or None where it was not drawn."""
        points = next(iter(self.points.values()))
        return next((float(point.entropy.mean()) for point in points if point.temperature == 1.0), None)


def curve_of(label: str, steps: int, members: Sequence[MeasuredCell]) -> Curve:
    """The curve of cells that differ in temperature alone."""
    cell = members[0].cell
    points: dict[str, list[Point]] = {}
    for one in members:
        temperature = float(dict(one.cell.options).get("temperature", 1.0))
        ids, entropy = one.arrays["ids"], sample_entropies(one.arrays["ids"])
        if cell.language is None:
            qualities = {"gen_ppl": ratio(one.arrays["nll"], one.arrays["tokens"])}
        else:
            language, rows = LANGUAGES[cell.language](), torch.from_numpy(ids).long()
            nll = -language.log_likelihood(rows).numpy()
            law = language.ngram(2).flatten().numpy()
            qualities = {
                "nll": ratio(nll, np.full(len(ids), float(ids.shape[1]))),
                "tv_bigram": total_variation(bigram_counts(rows, language.vocab_size).numpy(), law),
            }
        for name, quality in qualities.items():
            points.setdefault(name, []).append(Point(temperature, entropy, quality))
    return Curve(label, steps, cell.language, cell.seed, points)


def curves_of(measured: Sequence[MeasuredCell]) -> list[Curve]:
    """All curves of some cells, in their order: a curve for each (language, seed, number of steps, label)."""
    groups: dict[tuple[Any, ...], list[MeasuredCell]] = {}
    for one in measured:
        cell = one.cell
        groups.setdefault((cell.language, cell.seed, cell.steps, cell.label), []).append(one)
    return [curve_of(label, steps, members) for (_, _, steps, label), members in groups.items()]


def point_row(one: MeasuredCell) -> dict[str, Any]:
    """A cell of the sweep as a row."""
    return one.row | {"language": one.cell.language, **dict(one.cell.options)}


def matched_rows(
    curves: list[Curve],
    teacher_of: Mapping[str, str] = MappingProxyType({}),
    common: str | None = None,
    entropies: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """A row for each curve, number of steps, measure and target entropy, beside its teacher at the same entropy.

    teacher_of: labels of students to labels of their teachers; without one, the first curve of the same steps is it.
    Targets are the entropy that the curve has at temperature 1, that which `common` has, and `entropies`. A row holds
    `value` (Gen PPL, NLL or total variation there) and `teacher_value`, with intervals; None where not reached.
    """
    rows = []
    for steps in sorted({curve.steps for curve in curves}):
        here = [curve for curve in curves if curve.steps == steps]
        by_label = {curve.label: curve for curve in here}
        for curve in here:
            teacher = by_label.get(teacher_of.get(curve.label, ""), here[0])
            if teacher is curve or curve.label in teacher_of.values():
                continue
            targets = {f"{curve.label} at T = 1": curve.natural_entropy()}
            if common is not None and common in by_label:
                targets[f"{common} at T = 1"] = by_label[common].natural_entropy()
            targets |= {f"H = {entropy}": entropy for entropy in entropies}
            for name, target in targets.items():
                if target is None:
                    continue
                for measure in curve.points:
                    own = at_entropy(curve.points[measure], target)
                    cooled = at_entropy(teacher.points[measure], target)
                    scale = math.exp if measure == "gen_ppl" else float
                    rows.append(
                        {
                            "model": curve.label,
                            "language": curve.language,
                            "seed": curve.seed,
                            "steps": steps,
                            "measure": measure,
                            "entropy": target,
                            "entropy_of": name,
                            **_told("", own, scale),
                            "teacher": teacher.label,
                            **_told("teacher_", cooled, scale),
                        }
                    )
    return rows


def _told(prefix: str, match: Match | None, scale: Callable[[float], float]) -> dict[str, float | None]:
    """A match as keys of a row; None where it was not reached."""
    if match is None:
        return {f"{prefix}value": None, f"{prefix}lo": None, f"{prefix}hi": None, f"{prefix}temperature": None}
    interval = match.quality
    ends = {
        f"{prefix}{name}": None if x is None else scale(x) for name, x in (("lo", interval.lo), ("hi", interval.hi))
    }
    return {f"{prefix}value": scale(interval.value), **ends, f"{prefix}temperature": match.temperature}
