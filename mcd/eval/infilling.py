"""How many words a masked model restores in held-out text: a figure that needs no scorer and compares tokenizers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mcd.data.token_texts import token_texts
from mcd.eval.bootstrap import ratio_interval
from mcd.model.denoiser import Denoiser
from mcd.objective.trajectory import likeliest
from mcd.process.transfer import flat_rows

BATCH = 16  # rows of a network call


def words_of(tokenizer: Tokenizer, ids: list[int]) -> list[list[int]]:
    """The positions of each word of a row of text: tokens up to the next one whose text begins with white space.

    Tokens without a letter or digit (punctuation, line breaks, the end of text) are no words and separate words. The
    first word of the row is left out, since the row may begin within it, and so is the last one.
    """
    words: list[list[int]] = []
    inside = False
    for i, share in enumerate(token_texts(tokenizer, ids, blank_id=-1)):
        share = share or ""  # no id is blank
        if not any(letter.isalnum() for letter in share):
            inside = False
        elif inside and not share[:1].isspace():
            words[-1].append(i)
        else:
            words.append([i])
            inside = True
    return words[1:-1]


def masked_words(words: Sequence[list[list[int]]], rate: float, seed: int) -> list[list[list[int]]]:
    """The words to mask: of those of each row a share `rate`, at least one, drawn without repetition."""
    rng = np.random.default_rng(seed)
    counts = [max(1, round(rate * len(row))) if row else 0 for row in words]
    return [
        [row[i] for i in sorted(rng.choice(len(row), count, replace=False))] if row else []
        for row, count in zip(words, counts, strict=True)
    ]


@torch.inference_mode()
def word_accuracy(
    denoiser: Denoiser, x0: Tensor, words: Sequence[list[list[int]]], rate: float, seed: int = 0
) -> dict[str, Any]:
    """The share of masked words that a masked model restores in one call, taking the likeliest token everywhere.

    x0: (B, L) ids of held-out text; words: those of each row (`words_of`). rate: the share of the words of a row that
    is masked, each with all its tokens, so the model is given the number of tokens of a word. A word counts as restored
    if all its tokens are. Returns `word_accuracy` with its 95 % bootstrap interval over rows, `token_accuracy`, and the
    counts `words` and `tokens`. Raises ValueError for a model that is not masked, and for text without words.
    """
    if denoiser.config.process != "masked":
        raise ValueError(f"words are filled in by masked models; this one is {denoiser.config.process}")
    if not any(words):
        raise ValueError("the text has no words")
    chosen = masked_words(words, rate, seed)
    hidden_at = torch.zeros(x0.shape, dtype=torch.bool)
    for row, of_row in zip(hidden_at, chosen, strict=True):
        row[[i for word in of_row for i in word]] = True
    right = torch.zeros_like(hidden_at)
    for rows, at, found in zip(x0.split(BATCH), hidden_at.split(BATCH), right.split(BATCH), strict=True):
        z = rows.masked_fill(at, denoiser.mask_id).to(denoiser.device)
        t, where = at.float().mean(1).to(denoiser.device), flat_rows(at).to(denoiser.device)
        found[at] = likeliest(denoiser, denoiser.hidden(z, t, rows=where)).cpu() == rows[at]
    restored = [sum(bool(row[word].all()) for word in of_row) for row, of_row in zip(right, chosen, strict=True)]
    counts = [len(of_row) for of_row in chosen]
    return {
        "rate": rate,
        **ratio_interval(restored, counts, seed=seed).keys("word_accuracy"),
        "token_accuracy": int(right.sum()) / int(hidden_at.sum()),
        "words": sum(counts),
        "tokens": int(hidden_at.sum()),
    }
