"""LTD with the truth as teacher: what longer training gives, and what a vocabulary as large as that of text costs.

`truth` has students of 500 steps on languages of 32 symbols. Here are one of 2,000 steps on `hmm`, and one on `english`
(2,048 tokens, 512 hidden states), each beside the exact denoiser in the same order.
"""

from pathlib import Path
from typing import Any

from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce import truth
from mcd.reproduce.scales import SEEDS, Scale, language_data

HMM_STEPS = (truth.STUDENT_STEPS, 2_000)
ENGLISH_STEPS = 300
ENGLISH_NETWORK = ("--hidden", "192", "--layers", "4", "--heads", "4")
TEMPERATURES = {"hmm": truth.TEMPERATURES, "english": (0.5, 0.75, 1.0)}
"""Of the exact denoisers; an exact prediction of `english` is expensive."""
DRAWN = (0.6, 0.8, 1.0)
SEED = SEEDS[0]


def plan(scale: Scale) -> Experiment:
    """The students of each length of training, and the exact denoisers."""
    trainings, cells = [], []
    for language, lengths, network in (
        ("hmm", HMM_STEPS, truth.NETWORK),
        ("english", (ENGLISH_STEPS,), ENGLISH_NETWORK),
    ):
        trainings += [language_data(language), truth.start(language, SEED, network)]
        cells += truth.exact_cells(language, SEED, TEMPERATURES[language])
        for steps in lengths:
            student = truth.student_of_the_truth(language, SEED, steps)
            trainings.append(student)
            cells += truth.student_cells(student, language, SEED, f"ltd-{steps}", DRAWN)
    return Experiment(trainings, cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """As in `truth`, for each length of training."""
    protocol = {"temperatures": {"exact": TEMPERATURES, "student": DRAWN}, "order": truth.ORDER, "seeds": (SEED,)}
    return {"protocol": protocol} | truth.judged(measured, out, "truth_longer")
