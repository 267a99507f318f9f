"""Curves of a temperature sweep, made of cells and read at equal entropy, for `mcd frontier` and experiments."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcd.data.languages.hidden_markov import HiddenMarkov
from mcd.data.languages.known import LANGUAGES
from mcd.eval.diversity import sample_entropies
from mcd.eval.equal_entropy import Match, Point, Quality, Sweep, ratio, total_variation
from mcd.eval.known_language import ngrams
from mcd.eval.laboratory.lab import MeasuredCell


@dataclass(frozen=True)
class Curve:
    """One model at one number of steps: its points by measure ("gen_ppl", or "nll" and n-grams of a language)."""

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
    """The curve of cells that differ only in temperature."""
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
            qualities = {
                "nll": ratio(nll, np.full(len(ids), float(ids.shape[1]))),
                "tv_bigram": _from_law(rows, 2, language),
            }
            if (coarse := language.in_classes(rows)) is not None:
                qualities["tv_class_bigram"] = _from_law(coarse[0], 2, coarse[1])
            else:
                qualities["tv_trigram"] = _from_law(rows, 3, language)
        for name, quality in qualities.items():
            points.setdefault(name, []).append(Point(temperature, entropy, quality))
    return Curve(label, steps, cell.language, cell.seed, points)


def _from_law(rows: Tensor, n: int, law: HiddenMarkov) -> Quality:
    """Total variation of the n-grams of rows (N, L) from their law."""
    grams, which = ngrams(rows, n, law.vocab_size)
    return total_variation(which.numpy(), law.ngram_at(grams).numpy())


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
    """A row for each curve, number of steps, measure and target entropy, next to its teacher at the same entropy.

    teacher_of: labels of students to labels of their teachers; by default the first curve of the same steps.
    Targets are the entropy that the curve has at temperature 1, that which `common` has, and `entropies`. A row holds
    `value` (Gen PPL, NLL or total variation there) and `teacher_value`, with intervals; None where not reached.
    """
    rows, sweeps = list[dict[str, Any]](), dict[tuple[int, str], Sweep]()

    def at(curve: Curve, measure: str, target: float) -> Match | None:
        key = (id(curve), measure)
        if key not in sweeps:  # a teacher is read for each of its students
            sweeps[key] = Sweep(curve.points[measure])
        return sweeps[key].at(target)

    for curve in sorted(curves, key=lambda curve: curve.steps):
        by_label = {other.label: other for other in curves if other.steps == curve.steps}
        teacher = by_label.get(teacher_of.get(curve.label, ""), next(iter(by_label.values())))
        if teacher is curve or curve.label in teacher_of.values():
            continue
        targets = {f"{one.label} at T = 1": one.natural_entropy() for one in (curve, by_label.get(common or "")) if one}
        targets |= {f"H = {entropy}": entropy for entropy in entropies}
        for name, target in targets.items():
            if target is None:
                continue
            for measure in curve.points:
                rows.append(
                    {
                        "model": curve.label,
                        "language": curve.language,
                        "seed": curve.seed,
                        "steps": curve.steps,
                        "measure": measure,
                        "entropy": target,
                        "entropy_of": name,
                        **match_keys("", at(curve, measure, target), measure),
                        "teacher": teacher.label,
                        **match_keys("teacher_", at(teacher, measure, target), measure),
                    }
                )
    return rows


def match_keys(prefix: str, match: Match | None, measure: str) -> dict[str, float | None]:
    """A match as the keys value, lo, hi and temperature behind `prefix`; all None where the entropy was not reached.
    The qualities of "gen_ppl" are logarithms of it."""
    names = [f"{prefix}{name}" for name in ("value", "lo", "hi", "temperature")]
    if match is None:
        return dict.fromkeys(names)
    found = (match.quality.value, match.quality.lo, match.quality.hi)
    scaled = (math.exp(x) if x is not None and measure == "gen_ppl" else x for x in found)
    return dict(zip(names, (*scaled, match.temperature), strict=True))
