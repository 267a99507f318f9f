"""Generative perplexity: how surprised a strong causal model is by generated text.

Low Gen PPL alone proves nothing: one word said for ever has the lowest of all. It is reported beside the entropy and
the protocol (mcd/eval/metrics.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcd.eval.bootstrap import RESAMPLES, Interval, mean_interval, ratio_interval
from mcd.eval.scorer import SampleScore, Scorer, Text

Averaging = Literal["pooled", "per-sample"]


@dataclass(frozen=True)
class GenPPL:
    """`value` with its 95 % interval over samples, by the averaging asked for; None where nothing was scored.

    `pooled` and `per_sample` are the values of both conventions, `scores` what they were computed from: `tokens` of
    the scorer in all; `truncated` texts were longer than its context.
    """

    value: float | None
    lo: float | None
    hi: float | None
    pooled: float | None
    per_sample: float | None
    scores: list[SampleScore]

    @property
    def samples(self) -> int:
        """Texts."""
        return len(self.scores)

    @property
    def tokens(self) -> int:
        """Tokens of the scorer, of all texts."""
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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> GenPPL:
    """exp of the mean NLL a token, over all texts, by one of two conventions that give other numbers.

    "pooled", MDLM's (diffusion.py, `compute_generative_perplexity`): sum of NLL / sum of tokens, so that each token of
    the scorer weighs the same. "per-sample", SDTT's (run_eval.py): the mean over texts of each text's own mean NLL;
    texts with nothing to score are left out. Both are computed; `averaging` says which has the interval, the
    percentile bootstrap over whole texts.

    Texts are tokenised anew by the scorer, as MDLM does; with `ids`, rows of the scorer's own token ids, those are
    scored as they are, as SDTT does (`Scorer.nll_of_ids`). Raises ValueError when there is no text, or the scorer
    answers NaN.
    """
    if not texts:
        raise ValueError("Gen PPL needs at least one text")
    scores = scorer.nll(texts) if ids is None else scorer.nll_of_ids(ids)
    if any(math.isnan(score.nll) for score in scores):
        raise ValueError(f"scorer {scorer.name} in {scorer.precision} answers NaN; fp32 may mend it")
    both = {
        "pooled": ratio_interval([s.nll for s in scores], [s.tokens for s in scores], resamples=resamples, seed=seed),
        "per-sample": _per_sample(scores, resamples, seed),
    }
    main = both[averaging]
    return GenPPL(
        *(_exp(x) for x in (main.value, main.lo, main.hi)),
        pooled=_exp(both["pooled"].value),
        per_sample=_exp(both["per-sample"].value),
        scores=scores,
    )


def _per_sample(scores: list[SampleScore], resamples: int, seed: int) -> Interval:
    means = [score.nll / score.tokens for score in scores if score.tokens]
    return mean_interval(means, resamples=resamples, seed=seed) if means else Interval(math.nan, None, None)


def _exp(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else math.exp(value)
