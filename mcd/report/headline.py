"""The report's headline: sentences about one student, each a function of its numbers and true of them either way."""

from collections.abc import Sequence
from itertools import pairwise

from mcd.report.findings import (
    FACTOR,
    Finding,
    Lineage,
    Match,
    Tone,
    Verdict,
    compare,
    entropy_order,
    match,
    nats,
    number,
    ppl,
    times,
)
from mcd.report.gather import Cell


def headline(lineage: Lineage) -> list[Finding]:
    """All there is to say about a student, the main thing first."""
    if not lineage.teacher:
        why = "the runs hold no measured teacher"
        if lineage.unlike:
            why = f"the teacher was measured under another protocol (it differs in {', '.join(lineage.unlike)})"
        main = [Finding("note", f"No comparison with the teacher: {why}.")]
    else:
        main = [_factor(matches(lineage)), *_sixteen(lineage)]
    return [*main, *_controls(lineage), *_rounds(lineage), *_references(lineage)]


def matches(lineage: Lineage) -> list[Match]:
    """For each number of steps of the last round, the teacher's steps it keeps up with."""
    found = (match(cell, lineage.teacher) for _, cell in sorted(lineage.student.items()))
    return [one for one in found if one is not None]


def best_match(found: Sequence[Match]) -> Match:
    """The largest factor in steps; one beyond the teacher's first point only where there is no other."""
    return max(found, key=lambda m: (m.bound != "less than", m.factor))


def _factor(found: list[Match]) -> Finding:
    best = best_match(found)
    where = {
        "": f"at {number(best.teacher_steps)} steps (read off between its measured points)",
        "at least": f"at {number(best.teacher_steps)} steps, its last measured point, or more",
        "less than": f"at fewer than {number(best.teacher_steps)} steps, its first measured point",
    }[best.bound]
    none = best.bound != "at least" and best.factor <= 1
    what = "best factor" if none else "largest saving"
    text = (
        f"The {what} is {best.sign}{times(best.factor)} in steps ({_calls(found)}): at {_steps([best.cell.steps])} the "
        f"student has the Gen PPL of the teacher {where}. Entropy there is {nats(best.cell.entropy)} for the student "
        f"and {nats(best.teacher_entropy)} for the teacher. Over the student's 95 % interval the factor runs from "
        f"{best.low} to {best.high}."
    )
    reached = [m.cell.steps for m in found if m.factor >= FACTOR and m.bound != "less than"]
    if none:
        why = "with as many steps the teacher's Gen PPL is as low as the student's"
        return Finding("bad", f"Distillation saved no steps: {why}. {text}")
    if best.bound == "less than":
        why = "the teacher was not measured at so few steps"
        return Finding("note", f"Whether steps were saved cannot be told: {why}. {text}")
    paper = f"reached at {_steps(reached)}" if reached else "not reached"
    return Finding("good" if reached else "level", f"{text} The paper's factor of {FACTOR} is {paper}.")


def _calls(found: list[Match]) -> str:
    best, counted = best_match(found), [m for m in found if m.factor_nfe]
    if not best.factor_nfe:
        return "network calls were not measured"
    said = f"{best.sign}{times(best.factor_nfe)} in network calls"
    fewest = max(counted, key=lambda m: (m.bound != "less than", m.factor_nfe))
    if fewest.factor_nfe and fewest.factor_nfe > best.factor_nfe:
        said += f", where the largest is {fewest.sign}{times(fewest.factor_nfe)} at {_steps([fewest.cell.steps])}"
    return said


def _sixteen(lineage: Lineage) -> list[Finding]:
    findings = []
    for N, student in sorted(lineage.student.items()):
        teacher = lineage.teacher.get(FACTOR * N)
        if teacher is None:
            continue
        assert student.gen_ppl is not None and teacher.gen_ppl is not None
        lower = "lower" if student.gen_ppl < teacher.gen_ppl else "higher"
        verdict = compare(student, teacher)
        said = {
            "better": "The student is better: its interval lies below the teacher's.",
            "traded": f"The student's Gen PPL is clearly {lower}, but its entropy is too.",
            "level": f"The student's figure is {lower}, but the intervals overlap: they cannot be told apart.",
            "worse": "The student does not reach the teacher there: its interval lies above.",
        }[verdict]
        if verdict != "traded" and (order := entropy_order(student, teacher)):
            said += f" Its text is {'less' if order < 0 else 'more'} varied than the teacher's."
        calls = ""
        if student.nfe and teacher.nfe:
            calls = f"; network calls {number(student.nfe)} against {number(teacher.nfe)}"
        text = (
            f"Student at {N} steps against teacher at {FACTOR * N}: Gen PPL {ppl(student)} against {ppl(teacher)}; "
            f"entropy {nats(student.entropy)} against {nats(teacher.entropy)}{calls}. {said}"
        )
        findings.append(Finding(_tone(verdict), text))
    if not findings:
        text = f"No pair of student at N and teacher at {FACTOR} N steps was measured."
        findings.append(Finding("note", text))
    return findings


def _controls(lineage: Lineage) -> list[Finding]:
    cooled = _control(
        lineage,
        lineage.cooled,
        "cooled teacher",
        "Does distillation beat temperature? ",
        {
            "better": "distillation beats temperature: the student's Gen PPL is lower at no lower entropy",
            "worse": "temperature beats distillation: the cooled teacher's Gen PPL is lower at no lower entropy",
            "level": "the intervals of Gen PPL overlap: distillation and temperature cannot be told apart",
            "traded": "not settled: the lower Gen PPL comes with the lower entropy",
        },
    )
    tau_only = _control(
        lineage,
        lineage.tau_only,
        "tau-only",
        "What does consistency add to sharpening (tau-only)? ",
        {
            "better": "consistency adds something: the student's Gen PPL is lower at no lower entropy",
            "worse": "consistency costs something: tau-only has the lower Gen PPL at no lower entropy",
            "level": "the intervals of Gen PPL overlap: consistency adds nothing that can be seen",
            "traded": "not settled: the lower Gen PPL comes with the lower entropy",
        },
    )
    missing = "The teacher cooled to the student's entropy", "The tau-only control"
    found = [
        f or Finding("note", f"{what} was not measured.") for f, what in zip((cooled, tau_only), missing, strict=True)
    ]
    return found


def _control(
    lineage: Lineage, control: dict[int, Cell], name: str, question: str, said: dict[Verdict, str]
) -> Finding | None:
    at: dict[Verdict, list[str]] = {}
    for N, student in sorted(lineage.student.items()):
        other = control.get(N)
        if other is None:
            continue
        warmth = f" (temperature {other.temperature:g})" if other.temperature not in (None, 1.0) else ""
        numbers = (
            f"{_steps([N])}: student {ppl(student)} at {nats(student.entropy)}, "
            f"{name}{warmth} {ppl(other)} at {nats(other.entropy)}"
        )
        at.setdefault(compare(student, other), []).append(numbers)
    if not at:
        return None
    sentences = [f"At {'; at '.join(numbers)}: {said[verdict]}." for verdict, numbers in at.items()]
    tones: set[Tone] = {_tone(verdict) for verdict in at}
    return Finding(tones.pop() if len(tones) == 1 else "level", question + " ".join(sentences))


def _rounds(lineage: Lineage) -> list[Finding]:
    shared = [N for N in lineage.student if sum(N in cells for cells in lineage.rounds.values()) > 1]
    findings = []
    for N in sorted(shared):
        series = [(f"round {r}", cells[N]) for r, cells in sorted(lineage.rounds.items()) if N in cells]
        if N in lineage.teacher:
            series.insert(0, ("teacher", lineage.teacher[N]))
        told = ", ".join(f"{name} {number(c.gen_ppl)} ({c.entropy:.2f})" for name, c in series if c.entropy is not None)
        rises = [name for (_, a), (name, b) in pairwise(series) if (a.gen_ppl or 0) <= (b.gen_ppl or 0)]
        said = f"It does not fall in {_listed(rises)}." if rises else "It falls in every round."
        text = f"Round by round at {_steps([N])}, Gen PPL (entropy): {told}. {said}"
        findings.append(Finding("level" if rises else "good", text))
    return findings


def _references(lineage: Lineage) -> list[Finding]:
    text, shuffled = lineage.text, lineage.shuffled
    if text is None:
        return [Finding("note", "Held-out text was not measured under this protocol, so there is no reference.")]
    said = f"Real held-out text scores {ppl(text)} at {nats(text.entropy)}"
    if shuffled is not None:
        said += f"; the same words in random order score {ppl(shuffled)} at {nats(shuffled.entropy)}"
    if lineage.nonsense is not None:
        said += (
            f". Nonsense, a window of text said again and again, scores {ppl(lineage.nonsense)} at "
            f"{nats(lineage.nonsense.entropy)}: Gen PPL and entropy together do not see everything"
        )
    below = [N for N, c in sorted(lineage.student.items()) if compare_ppl_below(c, text)]
    if below:
        said += (
            f". At {_steps(below)} the student scores lower than real text does, which is not a sign of better text "
            "but of safer text"
        )
    return [Finding("note", said + ".")]


def compare_ppl_below(cell: Cell, text: Cell) -> bool:
    """Gen PPL below that of real text."""
    return cell.gen_ppl is not None and text.gen_ppl is not None and cell.gen_ppl < text.gen_ppl


def _steps(steps: Sequence[int | None]) -> str:
    words = [str(N) for N in steps]
    return f"{_listed(words)} step{'' if words == ['1'] else 's'}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _tone(verdict: Verdict) -> Tone:
    return "good" if verdict == "better" else "bad" if verdict == "worse" else "level"
