"""What the page claims: sentences about one student, each computed from its numbers and true whatever they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mcd.report.comparison import PAPER_FACTOR, BySteps, Comparison, Saving, Verdict, best, compare, entropy_order
from mcd.report.rows import Estimate, MeasuredRow

NONE = "\N{EN DASH}"
"""Stands in a table where there is no value."""

Tone = Literal["good", "bad", "level", "note"]
TONES: dict[Verdict, Tone] = {"better": "good", "worse": "bad", "level": "level", "traded": "level"}
COOLED: dict[Verdict, str] = {
    "better": "distillation beats temperature: the student's Gen PPL is lower at no lower entropy",
    "worse": "temperature beats distillation: the cooled teacher's Gen PPL is lower at no lower entropy",
    "level": "the intervals of Gen PPL overlap, so distillation and temperature cannot be distinguished",
    "traded": "this is not settled: the lower Gen PPL comes with the lower entropy",
}
TAU_ONLY: dict[Verdict, str] = {
    "better": "consistency adds something: the student's Gen PPL is lower at no lower entropy",
    "worse": "consistency costs something: tau-only has the lower Gen PPL at no lower entropy",
    "level": "the intervals of Gen PPL overlap, so no effect of consistency can be seen",
    "traded": "this is not settled: the lower Gen PPL comes with the lower entropy",
}
ORDER: dict[Verdict, str] = {
    "better": "the order gains without training: Gen PPL is lower at no lower entropy",
    "worse": "the order costs: Gen PPL is higher at no higher entropy",
    "level": "the intervals of Gen PPL overlap, so no effect of the order can be seen",
    "traded": "this is not settled: the lower Gen PPL comes with the lower entropy",
}
STUDENT_OR_ORDER: dict[Verdict, str] = {
    "better": "distillation gains more than the order: the student's Gen PPL is lower at no lower entropy",
    "worse": "the order gains more than distillation: the teacher's Gen PPL is lower at no lower entropy",
    "level": "the intervals of Gen PPL overlap, so distillation and order cannot be distinguished",
    "traded": "this is not settled: the lower Gen PPL comes with the lower entropy",
}


@dataclass(frozen=True)
class Claim:
    """A few sentences, and whether they speak for the student."""

    tone: Tone
    text: str


def claims(one: Comparison) -> list[Claim]:
    """All claims about a student, the most important first."""
    if one.teacher:
        main = [_largest_saving(one.savings()), *_at_sixteen_times(one)]
    else:
        why = "the runs hold no measured teacher"
        if one.differing:
            why = f"the teacher was measured under another protocol (it differs in {', '.join(one.differing)})"
        main = [Claim("note", f"No comparison with the teacher: {why}.")]
    cooled = _against("Does distillation beat temperature?", one.student, one.cooled, "cooled teacher", COOLED)
    tau_only = _against(
        "What does consistency add to sharpening (tau-only)?", one.student, one.tau_only, "tau-only", TAU_ONLY
    )
    spread, order = "teacher in the order low-discrepancy", "teacher in the usual order"
    orders = [
        _against("What does a better order of revealing gain?", one.spread, one.teacher, order, ORDER, spread),
        _against("Does distillation beat a better order?", one.student, one.spread, spread, STUDENT_OR_ORDER),
    ]
    return [
        *main,
        *(claim for claim in orders if claim is not None),
        cooled or Claim("note", "The teacher cooled to the student's entropy was not measured."),
        tau_only or Claim("note", "The tau-only control was not measured (`mcd demo --tau-only` does)."),
        *_round_by_round(one),
        _real_text(one),
    ]


def tiles(one: Comparison) -> list[tuple[str, str]]:
    """A few large numbers, each with what it says."""
    found = []
    if savings := one.savings():
        top = best(savings)
        found.append((str(top.factor), f"saved in steps at equal Gen PPL (student at {top.row.steps})"))
        if top.factor_nfe:
            found.append((str(top.factor_nfe), "saved in network calls at the same point"))
    N = next((N for N in one.student if N in one.teacher), min(one.student))
    student, teacher = one.student[N], one.teacher.get(N)
    other = f"the teacher's is {number(teacher.gen_ppl)}" if teacher else "the teacher was not measured there"
    found.append((number(student.gen_ppl), f"Gen PPL at {N} steps; {other}"))
    if student.entropy:
        other = f"; the teacher's is {teacher.entropy.value:.2f}" if teacher and teacher.entropy else ""
        found.append((f"{student.entropy.value:.2f}", f"nats of entropy at {N} steps{other}"))
    return found


def number(value: float | Estimate | None) -> str:
    """A value to three significant digits, without an exponent."""
    value = value.value if isinstance(value, Estimate) else value
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _largest_saving(savings: list[Saving]) -> Claim:
    top = best(savings)
    steps = number(top.teacher_steps)
    where = {
        "": f"at {steps} steps (read off between its measured points)",
        "at least": f"at {steps} steps, its last measured point, or more",
        "less than": f"at fewer than {steps} steps, its first measured point",
    }[top.bound]
    saved_none = top.bound != "at least" and top.factor.value <= 1
    text = (
        f"The {'best factor' if saved_none else 'largest saving'} is {top.factor} in steps ({_calls(savings)}): at "
        f"{_steps([top.row.steps])} the student has the Gen PPL of the teacher {where}. Entropy there is "
        f"{_nats(top.row.entropy)} for the student and {_nats(top.teacher_entropy)} for the teacher. Over the "
        f"student's 95 % interval the factor runs from {top.low} to {top.high}."
    )
    if saved_none:
        why = "with the same number of steps the teacher's Gen PPL is as low as the student's"
        return Claim("bad", f"Distillation saved no steps: {why}. {text}")
    if top.bound == "less than":
        why = "the teacher was not measured at so few steps"
        return Claim("note", f"Whether steps were saved is not known: {why}. {text}")
    reached = [one.row.steps for one in savings if one.factor.value >= PAPER_FACTOR and one.bound != "less than"]
    paper = f"reached at {_steps(reached)}" if reached else "not reached"
    return Claim("good" if reached else "level", f"{text} The paper's factor of {PAPER_FACTOR} is {paper}.")


def _calls(savings: list[Saving]) -> str:
    top = best(savings)
    if not top.factor_nfe:
        return "network calls were not measured"
    text = f"{top.factor_nfe} in network calls"
    counted = [(one, factor) for one in savings if (factor := one.factor_nfe)]
    most, factor = max(counted, key=lambda pair: (pair[0].bound != "less than", pair[1].value))
    if factor.value > top.factor_nfe.value:
        text += f", where the largest is {factor} at {_steps([most.row.steps])}"
    return text


def _at_sixteen_times(one: Comparison) -> list[Claim]:
    found = []
    for N, student in one.student.items():
        teacher = one.teacher.get(PAPER_FACTOR * N)
        if teacher is None:
            continue
        assert student.gen_ppl and teacher.gen_ppl
        lower = "lower" if student.gen_ppl.value < teacher.gen_ppl.value else "higher"
        verdict = compare(student, teacher)
        outcome = {
            "better": "The student is better: its interval is below the teacher's.",
            "traded": f"The student's Gen PPL is clearly {lower}, but its entropy is too.",
            "level": f"The student's Gen PPL is {lower}, but the intervals overlap: the two cannot be distinguished.",
            "worse": "The student does not reach the teacher there: its interval is above.",
        }[verdict]
        if verdict != "traded" and (order := entropy_order(student, teacher)):
            outcome += f" Its text is {'less' if order < 0 else 'more'} varied than the teacher's."
        calls = ""
        if student.nfe and teacher.nfe:
            calls = f"; network calls {number(student.nfe)} against {number(teacher.nfe)}"
        text = (
            f"Student at {N} steps against teacher at {PAPER_FACTOR * N}: Gen PPL {_interval(student.gen_ppl)} against "
            f"{_interval(teacher.gen_ppl)}; entropy {_nats(student.entropy)} against {_nats(teacher.entropy)}{calls}. "
        )
        found.append(Claim(TONES[verdict], text + outcome))
    return found or [Claim("note", f"No pair of student at N and teacher at {PAPER_FACTOR} N steps was measured.")]


def _against(
    question: str,
    subject: BySteps,
    control: BySteps,
    name: str,
    outcomes: dict[Verdict, str],
    subject_name: str = "student",
) -> Claim | None:
    """A question answered at every number of steps where subject and control were measured; None where nowhere."""
    at: dict[Verdict, list[str]] = {}
    for N, row in subject.items():
        if other := control.get(N):
            warmth = f" (temperature {other.temperature:g})" if other.temperature not in (None, 1.0) else ""
            at.setdefault(compare(row, other), []).append(
                f"{_steps([N])}: {subject_name} {_score(row)}, {name}{warmth} {_score(other)}"
            )
    if not at:
        return None
    sentences = [f"At {'; at '.join(numbers)}: {outcomes[verdict]}." for verdict, numbers in at.items()]
    tones: set[Tone] = {TONES[verdict] for verdict in at}
    return Claim(tones.pop() if len(tones) == 1 else "level", " ".join([question, *sentences]))


def _round_by_round(one: Comparison) -> list[Claim]:
    found = []
    for N in one.student:
        series = [(f"round {round}", rows[N]) for round, rows in sorted(one.rounds.items()) if N in rows]
        if len(series) < 2:
            continue
        measured = "" if len(series) == max(one.rounds) else " that was measured"
        if N in one.teacher:
            series.insert(0, ("teacher", one.teacher[N]))
        values = [f"{name} {number(row.gen_ppl)} ({row.entropy.value:.2f})" for name, row in series if row.entropy]
        rises = [name for (_, a), (name, b) in pairwise(series) if _is_lower(a, b, or_equal=True)]
        outcome = f"It does not fall in {_listed(rises)}." if rises else f"It falls in every round{measured}."
        text = f"Round by round at {_steps([N])}, Gen PPL (entropy): {', '.join(values)}. {outcome}"
        found.append(Claim("level" if rises else "good", text))
    return found


def _real_text(one: Comparison) -> Claim:
    real = one.text
    if real is None:
        return Claim("note", "Held-out text was not measured under this protocol, so there is no reference.")
    text = f"Real held-out text has a Gen PPL of {_score(real)}"
    if one.shuffled:
        text += f"; the same words in random order have {_score(one.shuffled)}"
    if one.nonsense:
        text += (
            f". Nonsense, a window of text repeated again and again, has {_score(one.nonsense)}: Gen PPL and entropy "
            "together do not see everything"
        )
    if below := [N for N, row in one.student.items() if _is_lower(row, real)]:
        text += (
            f". At {_steps(below)} the student's Gen PPL is lower than that of real text: a sign of safer text, not of "
            "better text"
        )
    return Claim("note", text + ".")


def _is_lower(a: MeasuredRow, b: MeasuredRow, or_equal: bool = False) -> bool:
    assert a.gen_ppl and b.gen_ppl
    return a.gen_ppl.value < b.gen_ppl.value or (or_equal and a.gen_ppl.value == b.gen_ppl.value)


def _score(row: MeasuredRow) -> str:
    return f"{_interval(row.gen_ppl)} at {_nats(row.entropy)}"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.lo is None:
        return number(estimate)
    return f"{number(estimate)} [{number(estimate.lo)}, {number(estimate.hi)}]"


def _nats(value: float | Estimate | None) -> str:
    value = value.value if isinstance(value, Estimate) else value
    return "unknown entropy" if value is None else f"{value:.2f} nats"


def _steps(steps: Sequence[int | None]) -> str:
    return f"{_listed([str(N) for N in steps])} step{'' if list(steps) == [1] else 's'}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
