"""LTD with the truth as teacher: what longer training gives, and what a vocabulary as large as that of text costs.

`truth` has students of 500 steps on languages of 32 symbols. Here are one of 2,000 steps on `hmm`, and one on `english`
(2,048 tokens, 512 hidden states), each beside the exact denoiser in the same order.
"""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.scales import Scale, language_data
from mcd.reproduce.truth import (
    NETWORK,
    ORDER,
    STUDENT_STEPS,
    exact_cells,
    judged,
    start,
    student_cells,
    student_of_the_truth,
)
from mcd.reproduce.truth import TEMPERATURES as EXACT_TEMPERATURES

HMM_STEPS = (STUDENT_STEPS, 2_000)
ENGLISH_STEPS = 300
ENGLISH_NETWORK = ("--hidden", "192", "--layers", "4", "--heads", "4")
TEMPERATURES = {"hmm": EXACT_TEMPERATURES, "english": (0.5, 0.75, 1.0)}
"""Of the exact denoisers; an exact prediction of `english` is expensive."""
DRAWN = (0.6, 0.8, 1.0)


def plan(scale: Scale) -> Experiment:
    """The students of each length of training, and the exact denoisers."""
    trainings, cells = [], []
    for language, lengths, network in (("hmm", HMM_STEPS, NETWORK), ("english", (ENGLISH_STEPS,), ENGLISH_NETWORK)):
        trainings += [language_data(language), start(language, 0, network)]
        cells += exact_cells(language, 0, TEMPERATURES[language])
        for steps in lengths:
            student = student_of_the_truth(language, 0, steps)
            trainings.append(student)
            cells += student_cells(student, language, 0, f"ltd-{steps}", DRAWN)
    return Experiment(trainings, cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """As in `truth`, for each length of training."""
    protocol = {"temperatures": {"exact": TEMPERATURES, "student": DRAWN}, "order": ORDER, "seeds": (0,)}
    return {"protocol": protocol} | judged(measured, out, "truth_longer")
