"""Likelihoods in bits per byte of text: the unit in which models with different tokenizers compare.

    bits per byte = (nats of all scored tokens) / (ln 2 x UTF-8 bytes of the text that they stand for)

A token may be a letter or a word, so that nats per token compare only between models of one tokenizer. A probability of
text, divided by its bytes, compares between any two. The sums are over all rows: longer rows weigh more.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcd.eval.bootstrap import Interval, mean_interval, ratio_interval
from mcd.eval.scorer import Scorer, Text


def bits_per_byte(nats: ArrayLike, bytes: ArrayLike) -> float | None:
    """Of rows, or of all of them together: sum(nats) / (ln 2 sum(bytes)); None where there is no byte."""
    total = float(np.asarray(bytes).sum())
    return float(np.asarray(nats).sum()) / (math.log(2) * total) if total else None


def figures(means: ArrayLike, tokens: ArrayLike, bytes: ArrayLike | None, seed: int = 0) -> dict[str, Any]:
    """What a row of metrics.json holds of the likelihood of rows, all arguments (rows,).

    means: nats per token of each row; tokens: how many these are; bytes: what they stand for, None where that has no
    meaning. `valid_nelbo`, the mean over rows in nats per token, with its standard error and 95 % bootstrap interval
    over rows; `valid_ppl`, its exponential; `valid_bpb`, bits per byte, with its interval over rows.
    """
    means, tokens = np.asarray(means, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    per_token, per_byte = mean_interval(means, seed=seed), Interval(math.nan, None, None)
    if bytes is not None:
        per_byte = ratio_interval(means * tokens, math.log(2) * np.asarray(bytes, dtype=np.float64), seed=seed)
    return {
        **per_token.keys("valid_nelbo"),
        "valid_nelbo_se": means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else None,
        "valid_ppl": math.exp(min(per_token.value, 700.0)),
        **per_byte.keys("valid_bpb"),
        "valid_bpb": None if math.isnan(per_byte.value) else per_byte.value,
        "tokens": int(tokens.sum()),
        "bytes": None if bytes is None else int(np.asarray(bytes).sum()),
    }


def causal_figures(scorer: Scorer, texts: Sequence[Text], seed: int = 0) -> dict[str, Any]:
    """The figures of a causal model on texts, per token of its own tokenizer and per byte; its likelihood is exact.

    All tokens of a text are scored: the first one given the beginning of text, or where the scorer has none the end of
    text. Between the documents of a text the scorer reads its end of text; that is not scored, while a model of rows
    must predict it. Texts longer than the context are left out, and counted in `truncated`.
    Raises ValueError for a scorer that has neither a beginning nor an end of text, and where no text is left.
    """
    rows, truncated = _scored(scorer, texts)
    nats, tokens, bytes = rows.T
    return figures(nats / tokens, tokens, bytes, seed) | {"rows": len(rows), "truncated": truncated}


def _scored(scorer: Scorer, texts: Sequence[Text]) -> tuple[np.ndarray, int]:
    """Nats, tokens and bytes (n, 3) of the texts that have a token and fit the context, and how many do not fit."""
    documents = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    begins = scorer.tokenizer.bos_token_id is not None
    if not begins and scorer.end_id is None:
        raise ValueError(f"scorer {scorer.name} has no token to begin a text with, so that the first is not scored")
    scores = scorer.nll(documents if begins else [("", *text) for text in documents])
    lengths = [sum(len(part.encode()) for part in text) for text in documents]
    pairs = zip(scores, lengths, strict=True)
    rows = [(one.nll, one.tokens, length) for one, length in pairs if one.tokens and not one.truncated]
    if not rows:
        raise ValueError(f"scorer {scorer.name}: no text has a token and fits its context of {scorer.context} tokens")
    return np.array(rows, dtype=np.float64), sum(one.truncated for one in scores)
