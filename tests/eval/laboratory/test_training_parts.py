"""The training part of instruction data, whose rows stand behind the places of what is learnt of them."""

import numpy as np

from mcd.eval.laboratory import held_out


def test_parts_hold_the_rows_without_their_places_and_overlap(monkeypatch, tmp_path):
    rows = np.arange(60).reshape(10, 6)
    stored = np.concatenate((np.full((10, 2), 99), rows), axis=1).reshape(-1)
    monkeypatch.setattr(held_out, "read_manifest", lambda folder: {"packing": "rows", "recipe": {"length": 6}})
    monkeypatch.setattr(held_out, "read_tokens", lambda folder, split: stored)
    monkeypatch.setattr(held_out, "PART", 24)  # three rows
    parts = [part.tolist() for part in held_out.training_parts(tmp_path, 8)]
    assert parts == [[*range(18)], [*range(6, 36)], [*range(24, 54)], [*range(42, 60)]]
