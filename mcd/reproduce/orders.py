"""Every sampler and reveal order, as network calls against quality, with trained teachers and with the truth itself."""

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
    *({"sampler": "confidence", "score": score} for score in ("top", "margin", "entropy", "random")),
    *({"sampler": "remdm", "remasking": remasking} for remasking in ("cap", "rescale")),
    {"sampler": "gumbel-race"},
]
"""All that takes as many calls as it is told to: every order of `ancestral`, and the other samplers."""
ADAPTIVE: list[dict[str, Any]] = [
    *({"sampler": "entropy-bounded", "gamma": gamma} for gamma in (4.0, 10.0, 20.0)),
    *({"sampler": "cad", "threshold": threshold, "cap": LENGTH, "block": 0} for threshold in (0.4, 0.3)),
    *({"sampler": "klass", "threshold": threshold, "kl_threshold": 0.5, "history": 1} for threshold in (0.3, 0.2)),
]
"""Samplers that choose their calls, with a step for each token. Their papers' settings, made for a model that is sure
of most tokens of an answer, reveal one token a call in languages of two nats a token."""


def plan(scale: Scale) -> Experiment:
    """Every way of revealing, on the exact denoiser and on the teacher; adaptive ones on the exact denoiser."""
    teachers = {language: language_teacher(language, 0) for language in LANGUAGES}
    models = [(f"exact:{language}", language, "exact") for language in LANGUAGES]
    models += [(teacher.name, language, "mdlm") for language, teacher in teachers.items()]
    cells = [
        cell
        for model, language, label in models
        for steps, ways in ((STEPS, WAYS), ((LENGTH,), ADAPTIVE if label == "exact" else []))
        for way in ways
        for cell in language_cells(model, language, steps, label, 0, **way)
    ]
    return Experiment([*map(language_data, LANGUAGES), *teachers.values()], cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """A row for each (language, model, way, steps)."""
    return {"protocol": {"samples": NUM, "length": LENGTH, "seeds": [0]}, "rows": over_seeds(measured)}
