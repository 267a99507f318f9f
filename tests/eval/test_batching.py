"""Batches of rows: nothing is lost, and none is larger than it should be."""

from mcd.eval.batching import BATCH_TOKENS, batches, in_batches


def test_batches_hold_every_text_once_and_keep_the_budget():
    lengths = [5, 0, 700, 512, -1, 130, 128, 128, 127, 1]
    found = list(batches(lengths))
    assert sorted(i for batch in found for i in batch) == [0, 2, 3, 5, 6, 7, 8, 9]
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= BATCH_TOKENS for b in found)


def test_each_row_gets_its_own_result():
    rows = [[i] * length for i, length in enumerate((3, 1, 300, 0, 2, 150))]
    found = dict(in_batches(rows, 1, lambda part: [(row[0], len(row)) for row in part], "cpu"))
    assert found == {0: (0, 3), 2: (2, 300), 4: (4, 2), 5: (5, 150)}
