"""Brackets that agree: by hand, against a search from the closing bracket back, and on the language itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.data.languages.known import grammar, hmm
from mcd.eval.agreement import FAR, pairs_of
from mcd.eval.known_language import sampling_floor, truth_metrics

KINDS = [(1, 2), (3, 4)]


def test_by_hand():
    rows = torch.tensor([[1, 0, 3, 4, 0, 2, 2], [1, 3, 2, 0, 4, 0, 3]])  # ( . [ ] . ) )    ( [ ) . ] . [
    found = pairs_of(rows, KINDS)
    assert found.row.tolist() == [0, 0, 1, 1]
    assert found.distance.tolist() == [1, 5, 1, 4]
    assert found.agree.tolist() == [True, True, False, False]


def partner(row, i):
    """The place of the bracket that the one at i closes: back from it, the first that leaves one more open."""
    depth = 0
    for j in range(i - 1, -1, -1):
        depth += (row[j] in (1, 3)) - (row[j] in (2, 4))
        if depth == 1:
            return j
    return None


@given(st.lists(st.lists(st.integers(0, 4), min_size=12, max_size=12), min_size=1, max_size=4))
def test_pairs_are_those_of_a_search_back(rows):
    expected = []
    for n, row in enumerate(rows):
        for i, token in enumerate(row):
            if token in (2, 4) and (j := partner(row, i)) is not None:
                expected.append((n, i - j, token == row[j] + 1))
    found = pairs_of(torch.tensor(rows), KINDS)
    assert list(zip(found.row.tolist(), found.distance.tolist(), found.agree.tolist(), strict=True)) == expected
    for far in (False, True):
        agree, pairs = found.counts(len(rows), far)
        chosen = [one for one in expected if (one[1] >= FAR) == far]
        assert pairs.tolist() == [sum(one[0] == n for one in chosen) for n in range(len(rows))]
        assert agree.tolist() == [sum(one[0] == n and one[2] for one in chosen) for n in range(len(rows))]


def test_the_language_agrees_and_shuffled_kinds_do_not():
    """Brackets of the truth agree but for its noise; where each closing bracket is of a random kind, a quarter do."""
    language = grammar()
    ids = language.sample_rows(300, 64, torch.Generator().manual_seed(0))
    measured, floor = truth_metrics(ids, language), sampling_floor(language, 100, 64)
    assert measured["agree_near"] > 0.98 and measured["agree_far"] > 0.95 and 0.2 < measured["brackets_far"] < 0.9
    assert measured["agree_far_lo"] <= measured["agree_far"] <= measured["agree_far_hi"]
    assert floor["agree_far"] > 0.95 and "agree_far_lo" not in floor
    closing = torch.tensor([close for _, close in language.brackets()])
    drawn = closing[torch.from_numpy(np.random.default_rng(0).integers(4, size=ids.shape))]
    mixed = torch.where(torch.isin(ids, closing), drawn, ids)
    measured = truth_metrics(mixed, language)
    assert measured["agree_near"] == pytest.approx(0.25, abs=0.05)
    assert measured["agree_far"] == pytest.approx(0.25, abs=0.05)


def test_without_brackets_there_is_nothing_to_say():
    language = hmm()
    measured = truth_metrics(language.sample_rows(10, 16, torch.Generator().manual_seed(0)), language)
    assert language.brackets() == [] and measured["agree_far"] is measured["brackets_far"] is None
    words = truth_metrics(torch.zeros(5, 16, dtype=torch.int64), grammar())
    assert words["agree_near"] is words["agree_far_lo"] is None
