"""Exact copies among documents, by 8 bytes of a hash of each one's text.

Two different texts of a hundred million have one hash with a probability of 3e-4 (n^2 / 2^65).
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

NO_TEXT = 0
"""The key of what is blank, and so a copy of nothing."""
_FIRST = 1 << 10


def key_of(texts: Sequence[str]) -> int:
    """The key of a record's texts, from 1 to 2^64 - 1; NO_TEXT where all are blank."""
    if not any(text.strip() for text in texts):
        return NO_TEXT
    joined = b"\xff".join(text.encode() for text in texts)  # no byte of UTF-8
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little") or 1


class Seen:
    """Keys that came before, in 16 to 32 bytes each: a table that is at most half full (open addressing)."""

    def __init__(self, keys: Iterable[int] = ()):
        self.slots = array("Q", bytes(8 * _FIRST))
        self.count = 0
        for key in keys:
            self.add(key)

    def add(self, key: int) -> bool:
        """Take a key; is it new? NO_TEXT always is."""
        if key == NO_TEXT:
            return True
        slots, mask = self.slots, len(self.slots) - 1
        i = key & mask
        while there := slots[i]:
            if there == key:
                return False
            i = (i + 1) & mask
        slots[i] = key
        self.count += 1
        if 2 * self.count > len(slots):
            self._grow()
        return True

    def _grow(self) -> None:
        old, self.count = self.slots, 0
        self.slots = array("Q", bytes(16 * len(old)))
        for key in old:
            self.add(key)


def count_copies(keys: np.ndarray, held_out: np.ndarray) -> dict[str, int]:
    """How many documents are copies of an earlier one of their split, and how many held-out ones are in train too.

    keys (N,): of the documents in order. held_out (N,): is it held out? Memory: some 20 bytes a document.
    """
    text = keys != NO_TEXT
    train, valid = keys[text & ~held_out], keys[text & held_out]
    train.sort()
    valid.sort()
    there = train[np.minimum(np.searchsorted(train, valid), len(train) - 1)] if len(train) else valid[:0]
    return {
        "train": _repeats(train),
        "valid": _repeats(valid),
        "shared": int(np.count_nonzero(there == valid[: len(there)])),
    }


def _repeats(ordered: np.ndarray) -> int:
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
