"""Long-range agreement: whether closing brackets match the brackets that they close, near and far."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

FAR = 8
"""A bracket whose partner is at least so many tokens away is far from it."""


@dataclass(frozen=True)
class Pairs:
    """Every closing bracket of N rows whose opening bracket is in its row: in which `row` it stands, the `distance` to
    its partner in tokens, and whether the two `agree`, (M,) each."""

    row: NDArray
    distance: NDArray
    agree: NDArray

    def counts(self, rows: int, far: bool) -> tuple[NDArray, NDArray]:
        """For each of the rows, how many far (or near) pairs agree, and how many there are, (N,) each."""
        chosen = (self.distance >= FAR) == far
        return (
            np.bincount(self.row[chosen], self.agree[chosen], minlength=rows),
            np.bincount(self.row[chosen], minlength=rows),
        )


def pairs_of(ids: Tensor, kinds: list[tuple[int, int]]) -> Pairs:
    """The pairs of brackets in rows (N, L); kinds: the ids of the opening and the closing bracket of each kind.

    A closing bracket closes the innermost that is open, whether or not it is of its kind. One that finds none open in
    its row closes what was opened before it, so nothing is known of it. This is the test of agreement by distance
    (Linzen et al. 2016, arXiv 1611.01368) on bounded Dyck languages (Hewitt et al. 2020, arXiv 2010.07515).
    """
    opens = {opening: kind for kind, (opening, _) in enumerate(kinds)}
    closes = {closing: kind for kind, (_, closing) in enumerate(kinds)}
    found = []
    for n, row in enumerate(ids.tolist()):
        stack: list[tuple[int, int]] = []
        for i, token in enumerate(row):
            if token in opens:
                stack.append((opens[token], i))
            elif token in closes and stack:
                kind, place = stack.pop()
                found.append((n, i - place, kind == closes[token]))
    row, distance, agree = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return Pairs(row, distance, agree.astype(bool))
