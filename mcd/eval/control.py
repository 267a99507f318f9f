"""Controls that nobody would call text, tuned to what a careless reader looks at: text's entropy, a low Gen PPL.

Both are made of held-out tokens without any language model, and one parameter, k, sets how varied a sample is. A period
is copied, and scorers copy well, so that the periodic control reaches the Gen PPL of real text at an entropy a little
below it. A low Gen PPL at an unremarkable entropy therefore proves nothing by itself; the energy distance and MAUVE see
what these are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcd.eval.diversity import sample_entropy

Control = Callable[[NDArray, int, int, int, int], NDArray]


def periodic(tokens: NDArray, k: int, num: int, length: int, seed: int) -> NDArray:
    """k different tokens in the order in which they come up in held-out text from a random place on, over and over.

    tokens: (T,) int64, the stream; returns (num, length) int64. A token's later occurrences in the window are left
    out, so that a row of whole periods has entropy log k: any entropy up to log(length) can be had, of text's own
    words in text's own order. Where the stream has fewer than k different tokens, all of them are the period.
    Row i depends only on (seed, i), and the place does not depend on k.
    """
    rows = []
    for i in range(num):
        start = int(np.random.default_rng([seed, i]).integers(len(tokens)))
        period = _first_different(np.roll(tokens, -start), k)
        rows.append(np.resize(period, length))
    return np.stack(rows)


def top_k(tokens: NDArray, k: int, num: int, length: int, seed: int) -> NDArray:
    """Independent draws from the k most frequent tokens of the stream, as often as there: (num, length) int64.

    Among tokens with the same count the lower id comes first. Row i depends only on (seed, i), and its uniforms do
    not depend on k.
    """
    ids, counts = np.unique(tokens, return_counts=True)
    ranked = np.argsort(-counts, kind="stable")[:k]
    cdf = counts[ranked].cumsum()
    u = np.stack([np.random.default_rng([seed, i]).random(length) for i in range(num)])
    return ids[ranked[np.searchsorted(cdf, u * cdf[-1], side="right")]]


CONTROLS: dict[str, Control] = {"control-periodic": periodic, "control-topk": top_k}
"""The controls by the name their rows carry."""


@dataclass(frozen=True)
class Tuned:
    """Rows of a control (N, L) and the k at which their mean sample entropy, in nats, is nearest to what was asked."""

    ids: NDArray
    k: int
    entropy: float


def tuned(control: Control, tokens: NDArray, target: float, num: int, length: int, seed: int) -> Tuned:
    """The rows of `control` at the k whose mean sample entropy is nearest to `target`, by bisection over whole k.

    Entropy rises with k, the randomness being common. k is at most the number of different tokens; at its ends when
    the target is outside. Raises ValueError for a stream without tokens.
    """
    stream = np.asarray(tokens, dtype=np.int64)
    if not len(stream):
        raise ValueError("a control needs held-out tokens")

    def entropy_at(k: int) -> float:
        return sample_entropy(control(stream, k, num, length, seed))

    low, high = 1, len(np.unique(stream))
    while high - low > 1:
        middle = (low + high) // 2
        if entropy_at(middle) < target:
            low = middle
        else:
            high = middle
    k = min((low, high), key=lambda k: abs(entropy_at(k) - target))
    return Tuned(control(stream, k, num, length, seed), k, entropy_at(k))


def _first_different(tokens: NDArray, k: int) -> NDArray:
    """The first k different values, in order of appearance."""
    window = tokens[: 4 * k]
    values, first = np.unique(window, return_index=True)
    if len(values) < k and len(window) < len(tokens):
        values, first = np.unique(tokens, return_index=True)
    return tokens[np.sort(first)[:k]]
