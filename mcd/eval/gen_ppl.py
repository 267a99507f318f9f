"""Generative perplexity: how surprised a strong causal model is by generated text.

Low Gen PPL alone proves nothing: one word said for ever has the lowest of all. It is reported beside the entropy and
the protocol (mcd/eval/metrics.py).
"""

import math
from dataclasses import dataclass

from mcd.eval.bootstrap import RESAMPLES, ratio_interval
from mcd.eval.scorer import Scorer


@dataclass(frozen=True)
class GenPPL:
    """`value` with its 95 % interval over samples; None where there is nothing to tell it from.

    `tokens` of the scorer were scored; `truncated` texts were longer than its context.
    """

    value: float | None
    lo: float | None
    hi: float | None
    samples: int
    tokens: int
    truncated: int


def gen_ppl(texts: list[str], scorer: Scorer, *, resamples: int = RESAMPLES, seed: int = 0) -> GenPPL:
    """exp(sum of NLL / sum of tokens) over all texts: pooled, each token of the scorer weighs the same.

    MDLM's convention (diffusion.py, `compute_generative_perplexity`): decode, tokenise again by the scorer, then pool.
    SDTT's (mean per text, then exp) gives other numbers; the protocol's `averaging` tells which. The interval is the
    percentile bootstrap over whole texts. Raises ValueError when there is no text, or the scorer answers NaN.
    """
    if not texts:
        raise ValueError("Gen PPL needs at least one text")
    scores = scorer.nll(texts)
    if any(math.isnan(score.nll) for score in scores):
        raise ValueError(f"scorer {scorer.name} in {scorer.precision} answers NaN; fp32 may mend it")
    tokens = [score.tokens for score in scores]
    mean = ratio_interval([score.nll for score in scores], tokens, resamples=resamples, seed=seed)
    value, lo, hi = (None if x is None or math.isnan(x) else math.exp(x) for x in (mean.value, mean.lo, mean.hi))
    return GenPPL(value, lo, hi, len(texts), sum(tokens), sum(score.truncated for score in scores))
