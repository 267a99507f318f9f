"""Keys of texts, what was seen, and how many copies there are: against sets."""

import random

import numpy as np

from mcd.data.prepare.duplicates import NO_TEXT, Seen, count_copies, key_of


def test_keys_are_of_the_texts_and_their_border():
    texts = [("a",), ("b",), ("a", "b"), ("ab", ""), ("", "ab"), ("a\n", "b"), ("é",)]
    assert len({key_of(record) for record in texts}) == len(texts)
    assert key_of(("a", "b")) == key_of(["a", "b"]) and 0 < key_of(("a",)) < 1 << 64
    assert key_of((" \n",)) == key_of(("", "")) == NO_TEXT


def test_seen_is_a_set():
    rng = random.Random(0)
    distinct = [rng.randrange(1, 1 << 64) for _ in range(4000)] + [1, 1025, (1 << 64) - 1]
    keys = rng.choices(distinct, k=9000)
    known, seen = set(), Seen(keys[:3000])
    known.update(keys[:3000])
    for key in keys[3000:]:
        assert seen.add(key) == (key not in known)
        known.add(key)
    assert seen.count == len(known) and seen.add(NO_TEXT) and seen.add(NO_TEXT)


def test_counts():
    keys = np.array([1, 2, 2, NO_TEXT, 3, 1, 3, NO_TEXT, 4, 4, 2**64 - 1, 1], "<u8")
    held_out = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1], bool)
    # held out: 1 3 3 4 max 1; train: 2 2 1 4
    assert count_copies(keys, held_out) == {"train": 1, "valid": 2, "shared": 3}
    assert count_copies(keys[3:5], held_out[3:5]) == {"train": 0, "valid": 0, "shared": 0}
    assert count_copies(keys[:0], held_out[:0]) == {"train": 0, "valid": 0, "shared": 0}
