"""How many words a masked model restores in held-out text: a figure that needs no scorer and compares tokenizers."""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mcd.data.token_texts import token_texts
from mcd.eval.bootstrap import ratio_interval
from mcd.model.denoiser import Denoiser

BATCH = 16  # rows of a network call


def words_of(tokenizer: Tokenizer, ids: list[int]) -> list[list[int]]:
    """The positions of each word of a row of text: tokens up to the next one whose text begins with white space.

    Tokens without a letter or digit (punctuation, line breaks, the end of text) are no words and separate words. The
    first word of the row is left out, since the row may begin within it, and so is the last one.
    """
    words: list[list[int]] = []
    inside = False
    for i, share in enumerate(token_texts(tokenizer, ids, blank_id=-1)):
        if not any(letter.isalnum() for letter in share or ""):
            inside = False
        elif inside and not (share or "")[:1].isspace():
            words[-1].append(i)
        else:
            words.append([i])
            inside = True
    return words[1:-1]


def masked_words(tokenizer: Tokenizer, x0: Tensor, rate: float, seed: int) -> list[list[list[int]]]:
    """For each row of x0 (B, L) the words to mask: a share `rate` of them, at least one, drawn without repetition."""
    rng = np.random.default_rng(seed)
    chosen = []
    for row in x0.tolist():
        words = words_of(tokenizer, row)
        count = max(1, round(rate * len(words))) if words else 0
        chosen.append([words[i] for i in sorted(rng.choice(len(words), count, replace=False))] if words else [])
    return chosen


@torch.inference_mode()
def word_accuracy(denoiser: Denoiser, tokenizer: Tokenizer, x0: Tensor, rate: float, seed: int = 0) -> dict[str, Any]:
    """The share of masked words that a masked model restores in one call, taking the likeliest token everywhere.

    x0: (B, L) ids of held-out text. rate: the share of the words of a row that is masked, each with all its tokens, so
    the model is told how many tokens a word has. A word counts as restored if all its tokens are. Returns
    `word_accuracy` with its 95 % bootstrap interval over rows, `token_accuracy`, and the counts `words` and `tokens`.
    Raises ValueError for a model that is not masked, and for text without words.
    """
    if denoiser.config.process != "masked":
        raise ValueError(f"words are filled in by masked models; this one is {denoiser.config.process}")
    chosen = masked_words(tokenizer, x0, rate, seed)
    L, right_tokens, right_words = x0.shape[1], 0, []
    for first in range(0, len(x0), BATCH):
        rows, words = x0[first : first + BATCH], chosen[first : first + BATCH]
        hidden_at = torch.zeros(rows.shape, dtype=torch.bool)
        for row, row_words in zip(hidden_at, words, strict=True):
            row[[i for word in row_words for i in word]] = True
        where = hidden_at.flatten().nonzero(as_tuple=True)[0]
        z = rows.masked_fill(hidden_at, denoiser.mask_id).to(denoiser.device)
        t = hidden_at.float().mean(1).to(denoiser.device)
        hidden = denoiser.hidden(z, t, rows=where.to(denoiser.device))
        best = torch.cat([denoiser.logits(part).argmax(-1).cpu() for part in hidden.split(256)])
        right = torch.zeros(rows.numel(), dtype=torch.bool)
        right[where] = best == rows.flatten()[where]
        right_tokens += int(right.sum())
        right = right.view(-1, L)
        right_words += [sum(bool(row[word].all()) for word in of_row) for row, of_row in zip(right, words, strict=True)]
    counts = np.array([len(words) for words in chosen])
    tokens = sum(len(word) for words in chosen for word in words)
    if not tokens:
        raise ValueError("the text has no words")
    return {
        "rate": rate,
        **ratio_interval(np.array(right_words), counts, seed=seed).keys("word_accuracy"),
        "token_accuracy": right_tokens / tokens,
        "words": int(counts.sum()),
        "tokens": tokens,
    }
