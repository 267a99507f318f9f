"""What is copied from a text, against a search token by token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.eval.memorisation import Hashes, TrainingText, copies, overlapping


def occurs(part, text):
    return any(text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1))


def slow_copies(row, text, n):
    """The share of n-grams that occur, and the longest run of n or more tokens."""
    grams = [row[i : i + n] for i in range(len(row) - n + 1)]
    share = sum(occurs(gram, text) for gram in grams) / len(grams) if grams else 0.0
    runs = [m for m in range(n, len(row) + 1) if any(occurs(row[i : i + m], text) for i in range(len(row) - m + 1))]
    return share, max(runs, default=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_copies_are_those_of_a_slow_search(data):
    """Few kinds of token, so that much is copied; rows with pieces of the text; the text in parts of any size."""
    tokens = st.integers(0, 2)
    text = data.draw(st.lists(tokens, min_size=1, max_size=60))
    rows = data.draw(st.lists(st.lists(tokens, max_size=14), min_size=1, max_size=4))
    start = data.draw(st.integers(0, len(text)))
    rows.append([*rows[0][:2], *text[start : start + 9], 2, 2])
    n, part = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70))
    found = copies(rows, overlapping(np.array(text, np.uint16), max(map(len, rows)), part), 3, n)
    expected = [slow_copies(row, text, n) for row in rows]
    assert found.shares() == pytest.approx([share for share, _ in expected])
    assert found.runs.tolist() == [run for _, run in expected]


def test_by_hand():
    text = [1, 2, 3, 4, 5, 9, 1, 2, 3, 7]
    rows = [[1, 2, 3, 4, 5], [2, 3, 4, 9, 1], [3, 7, 1], [8, 8, 8, 8], [1, 2]]
    found = copies(rows, [np.array(text)], 10, 3)
    assert found.shares() == pytest.approx([1.0, 1 / 3, 0.0, 0.0, 0.0])  # 3 7 1 is no run: the text ends behind 7
    assert found.runs.tolist() == [5, 3, 0, 0, 0]


def test_a_run_does_not_join_places_that_are_apart():
    """Both halves of the row are in the text, side by side once something else between them is left out."""
    text = [*range(8), 20, *range(8, 16)]
    found = copies([[*range(16)]], [np.array(text, np.uint16)], 30, 4)
    assert found.runs.tolist() == [8]


def test_hashes_do_not_depend_on_the_place_and_differ():
    hashes = Hashes(50)
    ids = np.random.default_rng(0).integers(0, 50, 3000)
    ids[2000:2040] = ids[10:50]
    for n in (1, 7, 40):
        found = hashes.of(ids, n)
        windows = {tuple(ids[i : i + n]): h for i, h in enumerate(found.tolist())}
        assert len(found) == len(ids) - n + 1 and len(set(windows.values())) == len(windows)
        assert all(windows[tuple(ids[i : i + n])] == h for i, h in enumerate(found.tolist()))
    assert len(hashes.of(ids[:5], 6)) == 0


def test_parts_overlap_and_cover():
    values = np.arange(100)
    parts = [part.tolist() for part in overlapping(values, 7, 30)]
    assert parts == [[*range(30)], [*range(23, 60)], [*range(53, 90)], [*range(83, 100)]]


def test_a_row_of_metrics():
    text = np.random.default_rng(0).integers(0, 40, 5000)
    training = TrainingText(
        "mine",
        lambda overlap: overlapping(text, overlap, 512),
        lambda words: list(map(int, words.split())),
        40,
        [np.random.default_rng(1).integers(0, 40, 30).tolist() for _ in range(6)],
    )
    copy, new = " ".join(map(str, text[500:530])), " ".join(map(str, np.random.default_rng(2).integers(0, 40, 30)))
    row = training.row([copy, new, new])
    assert row["copied_from"] == "mine" and row["copied_rows_held_out"] == 6
    assert row["copied_8"] == pytest.approx(1 / 3) and row["copied_8_lo"] < 1 / 3 < row["copied_8_hi"]
    assert row["copied_run"] == pytest.approx(10.0) and row["copied_run_max"] == 30
    assert row["copied_8_held_out"] == row["copied_run_held_out"] == row["copied_run_max_held_out"] == 0
