"""Generative perplexity: how surprised a strong causal model is by generated text.

A low Gen PPL alone proves nothing: one repeated word has the lowest of all. It is reported next to the entropy and the
protocol (mcd/eval/metrics.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcd.eval.bootstrap import Interval, mean_interval, ratio_interval
from mcd.eval.scorer import SampleScore, Scorer, Text

Averaging = Literal["pooled", "per-sample"]


@dataclass(frozen=True)
class GenPPL:
    """`value` with its 95 % interval over samples, by the averaging asked for; None where nothing was scored.

    `pooled` and `per_sample` are the values of both averagings, and `scores` what they were computed from.
    """

    value: float | None
    lo: float | None
    hi: float | None
    pooled: float | None
    per_sample: float | None
    scores: list[SampleScore]

    @property
    def tokens(self) -> int:
        """Scored tokens of all texts."""
        return sum(score.tokens for score in self.scores)

    @property
    def truncated(self) -> int:
        """Texts longer than the scorer's context."""
        return sum(score.truncated for score in self.scores)


def gen_ppl(
    texts: Sequence[Text],
    scorer: Scorer,
    *,
    averaging: Averaging = "pooled",
    ids: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> GenPPL:
    """exp of the mean NLL per token, over all texts, by one of two conventions that give other numbers.

    "pooled" is MDLM's (diffusion.py, `compute_generative_perplexity`): sum of NLL / sum of tokens, so that each token
    of the scorer weighs the same. "per-sample" is SDTT's (run_eval.py): the mean over texts of each text's own mean
    NLL; texts with nothing to score are left out. Both are computed; `averaging` says which has the interval, the
    percentile bootstrap over whole texts.

    The scorer tokenises the texts again, as MDLM does; with `ids`, rows of the scorer's own token ids, it scores those
    unchanged, as SDTT does (`Scorer.nll_of_ids`). Raises ValueError when there is no text, or the scorer answers NaN.
    """
    if not texts:
        raise ValueError("Gen PPL needs at least one text")
    scores = scorer.nll(texts) if ids is None else scorer.nll_of_ids(ids)
    if any(math.isnan(score.nll) for score in scores):
        raise ValueError(f"scorer {scorer.name} in {scorer.precision} answers NaN; --scorer-precision fp32 may fix it")
    means = [score.nll / score.tokens for score in scores if score.tokens]
    both = {
        "pooled": ratio_interval([score.nll for score in scores], [score.tokens for score in scores], seed=seed),
        "per-sample": mean_interval(means, seed=seed) if means else Interval(math.nan, None, None),
    }
    main = both[averaging]
    numbers = (main.value, main.lo, main.hi, both["pooled"].value, both["per-sample"].value)
    return GenPPL(*(None if x is None or math.isnan(x) else math.exp(x) for x in numbers), scores=scores)
