"""What the measured cells say, in words: every sentence of the report's headline is computed here from numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mcd.report.gather import Cell

NONE = "\N{EN DASH}"  # where a table has no value
FACTOR = 16  # the paper's claim: the student at N steps is as good as the teacher at 16 N
VARIED = ("seed", "threads", "temperature", "digest")
"""Protocol fields that may differ between cells of one table without a word (temperature is shown with its row)."""

Tone = Literal["good", "bad", "level", "note"]
Verdict = Literal["better", "worse", "level", "traded"]


@dataclass(frozen=True)
class Finding:
    """One sentence or two, and whether they speak for the student."""

    tone: Tone
    text: str


@dataclass(frozen=True)
class Match:
    """The student at `cell.steps` has the Gen PPL of the teacher at `teacher_steps`, read off the teacher's curve.

    bound: "" where it lies between two measured points, "at least" beyond the teacher's last, "less than" before its
    first. `low` and `high` are the factors at the ends of the student's interval.
    """

    cell: Cell
    bound: Literal["", "at least", "less than"]
    teacher_steps: float
    teacher_nfe: float | None
    teacher_entropy: float | None
    low: str = ""
    high: str = ""

    @property
    def factor(self) -> float:
        """How many times the student's steps the teacher takes."""
        assert self.cell.steps is not None
        return self.teacher_steps / self.cell.steps

    @property
    def sign(self) -> str:
        """What stands before a factor that is only a bound."""
        return {"": "", "at least": "≥ ", "less than": "< "}[self.bound]

    @property
    def factor_nfe(self) -> float | None:
        """The same in network calls; None where they were not counted."""
        return self.teacher_nfe / self.cell.nfe if self.teacher_nfe and self.cell.nfe else None


@dataclass(frozen=True)
class Lineage:
    """The students of one run and the cells they may be compared with: those of a like protocol."""

    run: str
    rounds: dict[int, dict[int, Cell]]
    teacher: dict[int, Cell]
    cooled: dict[int, Cell]
    tau_only: dict[int, Cell]
    text: Cell | None
    shuffled: Cell | None
    nonsense: Cell | None
    unlike: list[str]

    @property
    def student(self) -> dict[int, Cell]:
        """The last round's cells by steps."""
        return self.rounds[max(self.rounds)]


def differences(a: Cell, b: Cell, ignore: Sequence[str] = VARIED) -> list[str]:
    """Fields in which two protocols differ; one that does not apply (None) differs from nothing."""
    names = [name for name in (*a.protocol, *(b.protocol.keys() - a.protocol.keys())) if name not in ignore]
    pairs = ((name, a.protocol.get(name), b.protocol.get(name)) for name in names)
    return [name for name, x, y in pairs if x is not None and y is not None and x != y]


def lineages(cells: Sequence[Cell]) -> list[Lineage]:
    """One for each run that holds cells of a student with a Gen PPL; its own run's cells go before other runs'."""
    found = []
    for run in dict.fromkeys(c.run for c in cells if c.model == "student" and c.gen_ppl is not None):
        students = [c for c in cells if c.model == "student" and c.run == run and c.steps and c.gen_ppl is not None]
        if not students:
            continue
        others = sorted((c for c in cells if c.gen_ppl is not None), key=lambda c: c.run != run)
        like = [c for c in others if not differences(students[-1], c, (*VARIED, "samples"))]
        rounds: dict[int, dict[int, Cell]] = {}
        for cell in students:
            rounds.setdefault(cell.round or 0, {}).setdefault(cell.steps or 0, cell)
        cooled: dict[int, Cell] = {}
        for steps, cell in rounds[max(rounds)].items():
            choice = [c for c in like if c.model == "teacher-cooled" and c.steps == steps and c.entropy is not None]
            if choice and cell.entropy is not None:
                cooled[steps] = min(choice, key=lambda c: abs((c.entropy or 0) - (cell.entropy or 0)))
        unlike = [name for c in others if c.model == "teacher" for name in differences(students[-1], c)]
        teacher = _by_steps(like, "teacher")
        found.append(
            Lineage(
                run,
                rounds,
                teacher,
                cooled,
                _by_steps(like, "tau-only"),
                next((c for c in like if c.model == "text"), None),
                next((c for c in like if c.model == "shuffled"), None),
                next((c for c in like if c.model == "control-periodic"), None),
                [] if teacher else list(dict.fromkeys(unlike)),
            )
        )
    return found


def _by_steps(cells: Sequence[Cell], model: str) -> dict[int, Cell]:
    rows: dict[int, Cell] = {}
    last = max((c.round or 0 for c in cells if c.model == model), default=0)
    for cell in cells:
        if cell.model == model and cell.steps and (cell.round or 0) == last and cell.temperature in (None, 1.0):
            rows.setdefault(cell.steps, cell)
    return dict(sorted(rows.items()))


def compare(a: Cell, b: Cell) -> Verdict:
    """`a` against `b`: lower Gen PPL counts only when the 95 % intervals are apart and entropy did not pay for it."""
    order = _order(a.gen_ppl, a.gen_ppl_lo, a.gen_ppl_hi, b.gen_ppl, b.gen_ppl_lo, b.gen_ppl_hi)
    if order == 0:
        return "level"
    if order * entropy_order(a, b) > 0:
        return "traded"
    return "better" if order < 0 else "worse"


def entropy_order(a: Cell, b: Cell) -> int:
    """-1 where a's entropy is lower with intervals apart, 1 where higher, 0 where they cannot be told apart."""
    return _order(a.entropy, a.entropy_lo, a.entropy_hi, b.entropy, b.entropy_lo, b.entropy_hi)


def _order(a: float | None, a_lo: float | None, a_hi: float | None, b: float | None, b_lo: float | None, b_hi) -> int:
    if a is None or b is None:
        return 0
    a_lo, a_hi = (a if end is None else end for end in (a_lo, a_hi))
    b_lo, b_hi = (b if end is None else end for end in (b_lo, b_hi))
    return -1 if a_hi < b_lo else 1 if a_lo > b_hi else 0


def match(student: Cell, teacher: dict[int, Cell]) -> Match | None:
    """Up to how many teacher steps the student keeps up: where the teacher's curve first falls below its Gen PPL.

    The curve is a straight line between measured points in log steps and log Gen PPL (calls: log-log; entropy: log
    steps). None without a curve.
    """
    points = [teacher[steps] for steps in sorted(teacher)]
    if not points or student.gen_ppl is None or not student.steps:
        return None
    bound, steps, nfe, entropy = _read_off(student.gen_ppl, points)
    ends = []
    for end in (student.gen_ppl_hi, student.gen_ppl_lo):
        end_bound, end_steps, _, _ = _read_off(student.gen_ppl if end is None else end, points)
        ends.append(Match(student, end_bound, end_steps, None, None))
    low, high = (f"{end.sign}{times(end.factor)}" for end in ends)
    return Match(student, bound, steps, nfe, entropy, low, high)


def _read_off(
    gen_ppl: float, points: list[Cell]
) -> tuple[Literal["", "at least", "less than"], float, float | None, float | None]:
    first, last = points[0], points[-1]
    if (first.gen_ppl or 0) < gen_ppl:
        return "less than", first.steps or 1, first.nfe, first.entropy
    for a, b in pairwise(points):
        assert a.gen_ppl and b.gen_ppl and a.steps and b.steps
        if b.gen_ppl < gen_ppl:
            w = math.log(a.gen_ppl / gen_ppl) / math.log(a.gen_ppl / b.gen_ppl)
            nfe = a.nfe ** (1 - w) * b.nfe**w if a.nfe and b.nfe else None
            entropy = None if a.entropy is None or b.entropy is None else (1 - w) * a.entropy + w * b.entropy
            return "", a.steps ** (1 - w) * b.steps**w, nfe, entropy
    return "at least", last.steps or 1, last.nfe, last.entropy


def times(factor: float) -> str:
    """A factor, such as 5.3 or 16, with the sign of multiplication."""
    return f"{factor:.{1 if factor < 9.95 else 0}f}\N{MULTIPLICATION SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """`value` to so many significant digits, without exponents; NONE for None."""
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def ppl(cell: Cell) -> str:
    """Gen PPL with its interval."""
    interval = "" if cell.gen_ppl_lo is None else f" [{number(cell.gen_ppl_lo)}, {number(cell.gen_ppl_hi)}]"
    return number(cell.gen_ppl) + interval


def nats(value: float | None) -> str:
    """An entropy, with its unit."""
    return "unknown entropy" if value is None else f"{value:.2f} nats"
