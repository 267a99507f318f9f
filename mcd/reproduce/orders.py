"""Structured reveal orders: what each buys at 2, 4 and 8 steps, with trained teachers and with the truth itself."""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import Lab
from mcd.process.unmasking import ORDERS
from mcd.reproduce.languages import LENGTH, NUM, language_cell, over_seeds
from mcd.reproduce.scales import Scale, language_data, language_teacher

STEPS = (2, 4, 8)
LANGUAGES = ("hmm", "grammar")


def plan(scale: Scale) -> Experiment:
    """Every order of `ancestral`, the surest first, and remasking, on the teacher and on the exact denoiser."""
    ways: list[dict[str, Any]] = [{"order": order} for order in ORDERS]
    ways += [{"sampler": "confidence", "score": "top"}, {"sampler": "remdm"}]
    runs = [language_teacher(language, 0) for language in LANGUAGES]
    data = [language_data(language) for language in LANGUAGES]
    models = [(f"exact:{language}", language, "exact") for language in LANGUAGES]
    models += [(run.name, language, "mdlm") for run, language in zip(runs, LANGUAGES, strict=True)]
    cells = [
        language_cell(model, language, n, label, 0, **way)
        for model, language, label in models
        for way in ways
        for n in STEPS
    ]
    return Experiment(data + runs, cells)


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """A row for each (language, model, way, steps)."""
    rows = over_seeds(lab.measure(plan(scale).cells))
    return {"protocol": {"samples": NUM, "length": LENGTH, "seeds": [0]}, "rows": rows}
