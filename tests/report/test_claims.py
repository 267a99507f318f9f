"""What the page claims follows from the numbers, either way."""


def test_claims_follows_numbers(rows, said):
    good, bad = said(rows(True), "good"), said(rows(False), "bad")
    assert "reached at 2, 4 and 8 steps" in good and "distillation beats temperature" in good
    assert "consistency adds something" in good and "It falls in every round" in good
    assert "Distillation saved no steps" in bad and "temperature beats distillation" in bad
    assert "consistency costs something" in bad and "does not reach the teacher" in bad
    assert "It does not fall in round 1" in bad and "saved no steps" not in good
    some = [one for one in rows(True) if one["round"] in (None, 3, 5)]
    assert "It falls in every round that was measured." in said(some, "some") and "It falls in every round." in good


def test_student_against_teacher_at_sixteen_times(row, said):
    def verdict(name: str, gen_ppl: float, entropy: float) -> str:
        cells = [row("teacher", 4, 300, 4.5), row("teacher", 64, 100, 4.5), row("student", 4, gen_ppl, entropy, 1)]
        return said(cells, name)

    assert "The student is better" in verdict("better", 80, 4.5)
    assert "clearly lower, but its entropy is too" in verdict("traded", 80, 4.2)
    assert "cannot be distinguished" in verdict("level", 99, 4.5)
    assert "does not reach the teacher there: its interval is above. Its text is less" in verdict("worse", 150, 4.2)
    assert "Gen PPL 80.0 [75.2, 84.8] against 100 [94.0, 106]" in verdict("again", 80, 4.5)


def test_a_better_order_is_compared_with_the_usual_one_and_with_the_student(row, said):
    def spread(gen_ppl: float, entropy: float = 4.5, **protocol) -> dict:
        return row("teacher-spread", 4, gen_ppl, entropy, **{"order": "low-discrepancy", **protocol})

    others = [row("teacher", 4, 300, 4.5), row("student", 4, 100, 4.2, 5)]
    assert "order" not in said(others, "without")
    better = said([*others, spread(200)], "better")
    assert "teacher in the order low-discrepancy 200 [188, 212] at 4.50 nats, teacher in the usual order 300" in better
    assert "the order gains without training" in better
    assert "Does distillation beat a better order? At 4 steps: student 100" in better
    assert "this is not settled" in better
    assert "the order costs" in said([*others, spread(400)], "worse")
    assert "no effect of the order" in said([*others, spread(301)], "level")
    for gen_ppl, words in ((260, "the order gains more than distillation"), (150, "gains more than the order")):
        assert words in said([others[0], row("student", 4, gen_ppl, 4.5, 5), spread(200)], str(gen_ppl))
    other_order = said([*others, row("teacher", 8, 50, 4.5, order="stratified")], "another order")
    assert "teacher 8" not in other_order  # only the name of teacher-spread says its order
    assert "order" not in said([*others, spread(200, scorer="another")], "another scorer")


def test_nonsense_stands_next_to_real_text(row, rows, said):
    """Both numbers of the control are in the claims; without the control nothing is said."""
    assert "Nonsense" not in said(rows(), "without")
    claims = said([*rows(), row("control-periodic", None, 61, 4.41)], "with")
    assert "61.0 [57.3, 64.7] at 4.41 nats" in claims[claims.index("Nonsense") :]
