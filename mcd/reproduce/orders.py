"""Structured reveal orders: what each gains at 2, 4 and 8 steps, with trained teachers and with the truth itself."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.process.unmasking import ORDERS
from mcd.reproduce.languages import LENGTH, NUM, language_cells, over_seeds
from mcd.reproduce.scales import Scale, language_data, language_teacher

STEPS = (2, 4, 8)
LANGUAGES = ("hmm", "grammar")
WAYS: list[dict[str, Any]] = [
    *({"order": order} for order in ORDERS),
    {"sampler": "confidence", "score": "top"},
    {"sampler": "remdm"},
]
"""Every order of `ancestral`, the surest token first, and remasking: options of the samplers."""


def plan(scale: Scale) -> Experiment:
    """Every way of revealing, on the exact denoiser and on the teacher."""
    teachers = {language: language_teacher(language, 0) for language in LANGUAGES}
    models = [(f"exact:{language}", language, "exact") for language in LANGUAGES]
    models += [(teacher.name, language, "mdlm") for language, teacher in teachers.items()]
    cells = [
        cell
        for model, language, label in models
        for way in WAYS
        for cell in language_cells(model, language, STEPS, label, 0, **way)
    ]
    return Experiment([*map(language_data, LANGUAGES), *teachers.values()], cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """A row for each (language, model, way, steps)."""
    return {"protocol": {"samples": NUM, "length": LENGTH, "seeds": [0]}, "rows": over_seeds(measured)}
