"""LTD, IDLM and MMD on languages of known law, at equal entropy, in the best order, over three seeds.

As `frontier`, with the exact likelihood and the exact laws of bigrams and trigrams in place of a scorer's opinion. The
low-discrepancy order is the best one of masked models. `nelbo` is the control of more training. `frontier_languages`
has the methods of the paper in the usual order.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mcd.eval.laboratory.curves import point_row
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.reproduce.frontier import BEST, verdicts
from mcd.reproduce.languages import language_cells, matched_by_language
from mcd.reproduce.scales import (
    LANGUAGES,
    SEEDS,
    TEACHER_OF,
    Scale,
    language_data,
    language_student,
    language_teacher,
    more_training_of_language,
)

METHODS = ("ltd", "idlm", "mmd")
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
"""The teacher is cooled, and heated, as far as the entropy of any student; students are drawn as they are."""
STEPS = (1, 2, 4, 8, 16)


def plan(scale: Scale) -> Experiment:
    """The temperature sweep of the teacher of each language and seed, its students, and the control."""
    trainings, cells = [], []
    for language in LANGUAGES:
        trainings.append(language_data(language))
        for seed in SEEDS:
            teacher, more = language_teacher(language, seed), more_training_of_language(language, seed)
            students = {method: language_student(language, seed, method) for method in METHODS} | {"nelbo": more}
            trainings += [teacher, *students.values()]
            cells += language_cells(teacher.name, language, STEPS, "mdlm", seed, TEMPERATURES, **BEST)
            for label, student in students.items():
                cells += language_cells(student.name, language, STEPS, label, seed, **BEST)
            cells += language_cells(students["ltd"].name, language, STEPS, "ltd-greedy", seed, greedy=True, **BEST)
    return Experiment(trainings, cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Points of every curve, then the rows at matched entropy, and their means over seeds."""
    _, matched = matched_by_language(measured, out, "frontier_methods", TEACHER_OF)
    rows = [point_row(one) for one in measured]
    return {
        "protocol": {"temperatures": TEMPERATURES, "order": BEST["order"], "seeds": list(SEEDS)},
        "floors": {row["language"]: row["floor"] for row in rows},
        "rows": [{name: value for name, value in row.items() if name != "floor"} for row in rows],
        "matched": matched,
        "summary": summary(matched, rows),
        "findings": verdicts(matched),
    }


def summary(matched: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each (language, steps, student): means over the seeds in which the teacher reaches its entropy.

    `seeds` of them; of each measure `NAME`, the student's mean, `NAME_teacher`, and `NAME_ahead`, in how many seeds the
    student is below the teacher. `sureness` is the student's H(X2 | X1) minus that of the truth, in nats, over all
    seeds: below 0 it is surer of the next token than the language is.
    """
    groups = defaultdict(lambda: defaultdict(list))
    for row in matched:
        reached = groups[row["language"], row["steps"], row["model"]]
        if row["value"] is not None and row["teacher_value"] is not None:
            reached[row["measure"]].append((row["value"], row["teacher_value"]))
    found = []
    for (language, steps, model), measures in groups.items():
        own = [r for r in rows if (r["language"], r["steps"], r["model"]) == (language, steps, model)]
        one: dict[str, Any] = {"language": language, "steps": steps, "model": model}
        one["seeds"] = max(map(len, measures.values()), default=0)
        one["sureness"] = float(np.mean([row["bigram_entropy"] - row["bigram_entropy_true"] for row in own]))
        for measure, pairs in measures.items():
            student, teacher = np.mean(pairs, axis=0).tolist()
            ahead = sum(a < b for a, b in pairs)
            one |= {measure: student, f"{measure}_teacher": teacher, f"{measure}_ahead": ahead}
        found.append(one)
    return found
