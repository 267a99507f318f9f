"""The student against its teacher and its controls: which rows may be compared, which is better, what was saved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mcd.report.rows import Estimate, MeasuredRow

PAPER_FACTOR = 16
"""The paper's claim: the student at N steps is as good as the teacher at 16 N."""
MAY_DIFFER = ("seed", "threads", "temperature", "digest")
"""Protocol fields that may differ between rows of one table without a warning (each row shows its temperature)."""

SPREAD = "teacher-spread"
"""The teacher in the order that spreads out what a step reveals (low-discrepancy). Its name says its order."""

Verdict = Literal["better", "worse", "level", "traded"]
Bound = Literal["", "at least", "less than"]
BySteps = dict[int, MeasuredRow]


@dataclass(frozen=True)
class Factor:
    """How many times more steps (or network calls) the teacher needs; exact, or only a bound."""

    value: float
    bound: Bound = ""

    def __str__(self) -> str:
        return f"{sign(self.bound)}{self.value:.{1 if self.value < 9.95 else 0}f}\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Saving:
    """The student's `row` has the Gen PPL of the teacher at `teacher_steps`, read off the teacher's curve.

    bound: "" where it is between two measured points of the teacher, "at least" beyond the last, "less than" before
    the first. low and high are the factors in steps at the ends of the student's interval.
    """

    row: MeasuredRow
    bound: Bound
    teacher_steps: float
    teacher_nfe: float | None
    teacher_entropy: float | None
    low: Factor
    high: Factor

    @property
    def factor(self) -> Factor:
        """Factor in steps."""
        assert self.row.steps is not None
        return Factor(self.teacher_steps / self.row.steps, self.bound)

    @property
    def factor_nfe(self) -> Factor | None:
        """Factor in network calls; None where they were not counted."""
        return Factor(self.teacher_nfe / self.row.nfe, self.bound) if self.teacher_nfe and self.row.nfe else None


@dataclass(frozen=True)
class Comparison:
    """The students of one run, by round and steps, and the rows of the same protocol that they are compared with.

    differing: protocol fields in which the teacher's rows differ, where none can be compared.
    """

    run: str
    rounds: dict[int, BySteps]
    teacher: BySteps
    cooled: BySteps
    tau_only: BySteps
    spread: BySteps
    text: MeasuredRow | None
    shuffled: MeasuredRow | None
    nonsense: MeasuredRow | None
    differing: list[str]

    @property
    def student(self) -> BySteps:
        """The last round's rows by steps, in order."""
        return dict(sorted(self.rounds[max(self.rounds)].items()))

    def savings(self) -> list[Saving]:
        """The teacher's steps that each row of the last round is worth; empty without a teacher."""
        return [saving(row, self.teacher) for row in self.student.values()] if self.teacher else []


def comparisons(rows: Sequence[MeasuredRow]) -> list[Comparison]:
    """One for each run that holds a student with a Gen PPL; rows of the same run are preferred to those of others."""
    scored = [row for row in rows if row.gen_ppl is not None]
    found = []
    for run in dict.fromkeys(row.run for row in scored if row.model == "student" and row.steps):
        students = [row for row in scored if row.model == "student" and row.run == run and row.steps]
        others = sorted(scored, key=lambda row: row.run != run)
        alike = [row for row in others if not differences(students[-1], row, (*MAY_DIFFER, "samples"))]
        first: dict[str, MeasuredRow] = {}
        for row in alike:
            first.setdefault(row.model, row)
        rounds: dict[int, BySteps] = {}
        for row in students:
            rounds.setdefault(row.round or 0, {}).setdefault(row.steps or 0, row)
        teacher = _by_steps(alike, "teacher")
        differing = [name for row in others if row.model == "teacher" for name in differences(students[-1], row)]
        found.append(
            Comparison(
                run,
                rounds,
                teacher,
                _nearest_in_entropy([row for row in alike if row.model == "teacher-cooled"], rounds[max(rounds)]),
                _by_steps(alike, "tau-only"),
                _by_steps(alike, SPREAD),
                first.get("text"),
                first.get("shuffled"),
                first.get("control-periodic"),
                [] if teacher else list(dict.fromkeys(differing)),
            )
        )
    return found


def differences(a: MeasuredRow, b: MeasuredRow, ignore: Sequence[str] = MAY_DIFFER) -> list[str]:
    """Fields in which two protocols differ; a field that does not apply (None) differs from nothing.

    The order of `SPREAD` is what its rows are about, and no difference.
    """
    own = ("order",) if SPREAD in (a.model, b.model) else ()
    names = [name for name in {**a.protocol, **b.protocol} if name not in (*ignore, *own)]
    pairs = ((name, a.protocol.get(name), b.protocol.get(name)) for name in names)
    return [name for name, x, y in pairs if x is not None and y is not None and x != y]


def compare(a: MeasuredRow, b: MeasuredRow) -> Verdict:
    """`a` against `b`: a lower Gen PPL counts only where the 95 % intervals are disjoint and entropy did not pay."""
    order = _order(a.gen_ppl, b.gen_ppl)
    if order == 0:
        return "level"
    if order * entropy_order(a, b) > 0:
        return "traded"
    return "better" if order < 0 else "worse"


def entropy_order(a: MeasuredRow, b: MeasuredRow) -> int:
    """-1 where a's entropy is lower, 1 where it is higher, 0 where the intervals overlap."""
    return _order(a.entropy, b.entropy)


def saving(student: MeasuredRow, teacher: BySteps) -> Saving:
    """The teacher's steps at which its curve first falls below the student's Gen PPL.

    The curve is a straight line between measured points in log steps and log Gen PPL (network calls: log-log; entropy:
    log steps).
    """
    assert student.gen_ppl is not None and student.steps
    points = [row for _, row in sorted(teacher.items())]
    lo, hi = student.gen_ppl.interval
    low, high = (_read_off(end, points) for end in (hi, lo))
    return Saving(
        student,
        *_read_off(student.gen_ppl.value, points),
        Factor(low[1] / student.steps, low[0]),
        Factor(high[1] / student.steps, high[0]),
    )


def best(savings: Sequence[Saving]) -> Saving:
    """The largest factor in steps; one before the teacher's first point only where there is no other."""
    return max(savings, key=lambda one: (one.bound != "less than", one.factor.value))


def sign(bound: Bound) -> str:
    """The sign in front of a number that is only a bound."""
    return {"": "", "at least": "≥ ", "less than": "< "}[bound]


def _by_steps(rows: Sequence[MeasuredRow], model: str) -> BySteps:
    """The rows of a model's last round, drawn at temperature 1."""
    of_model = [row for row in rows if row.model == model]
    last = max((row.round or 0 for row in of_model), default=0)
    found: BySteps = {}
    for row in of_model:
        if row.steps and (row.round or 0) == last and row.temperature in (None, 1.0):
            found.setdefault(row.steps, row)
    return found


def _nearest_in_entropy(cooled: Sequence[MeasuredRow], students: BySteps) -> BySteps:
    """For each student, the cooled teacher at the same number of steps whose entropy is nearest to the student's."""
    found: BySteps = {}
    for steps, student in students.items():
        rows = [row for row in cooled if row.steps == steps and row.entropy]
        if rows and student.entropy:
            wanted = student.entropy.value
            found[steps] = min(rows, key=lambda row: abs(row.entropy.value - wanted) if row.entropy else math.inf)
    return found


def _order(a: Estimate | None, b: Estimate | None) -> int:
    if a is None or b is None:
        return 0
    return -1 if a.interval[1] < b.interval[0] else 1 if a.interval[0] > b.interval[1] else 0


def _read_off(gen_ppl: float, points: list[MeasuredRow]) -> tuple[Bound, float, float | None, float | None]:
    """(bound, steps, network calls, entropy) where the line through `points` first falls below `gen_ppl`."""
    entropies = [row.entropy and row.entropy.value for row in points]
    values = [row.gen_ppl.value for row in points if row.gen_ppl]
    if values[0] < gen_ppl:
        return "less than", points[0].steps or 1, points[0].nfe, entropies[0]
    for i, (a, b) in enumerate(pairwise(points)):
        if values[i + 1] < gen_ppl:
            w = math.log(values[i] / gen_ppl) / math.log(values[i] / values[i + 1])
            nfe = a.nfe ** (1 - w) * b.nfe**w if a.nfe and b.nfe else None
            H_a, H_b = entropies[i : i + 2]
            entropy = None if H_a is None or H_b is None else (1 - w) * H_a + w * H_b
            return "", (a.steps or 1) ** (1 - w) * (b.steps or 1) ** w, nfe, entropy
    return "at least", points[-1].steps or 1, points[-1].nfe, entropies[-1]
