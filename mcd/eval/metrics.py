"""One row of `metrics.json`: all that is measured on one set of samples, with the protocol it was measured by."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mcd.eval.bootstrap import RESAMPLES, mean_interval
from mcd.eval.diversity import Ids, distinct_n, repetition_n, sample_entropies
from mcd.eval.gen_ppl import gen_ppl
from mcd.eval.protocol import Protocol
from mcd.eval.scorer import Scorer


def measure(
    ids: Ids,
    texts: Sequence[str],
    scorer: Scorer | None,
    protocol: Protocol,
    *,
    model: str,
    round: int | None = None,
    steps: int | None = None,
    nfe: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """The row of one model at one number of steps; all of it goes into JSON.

    ids: (N, L) or a list of lists, tokens of the model; texts: the same samples decoded. `nfe` is the mean number of
    denoiser calls a sample took. Gen PPL is pooled over the scorer's tokens (`scored_tokens`); entropy (nats),
    repetition and distinct-n are over `tokens`, the model's own. Without a scorer the keys of Gen PPL are None.
    What is known here about the scorer and the samples is written into the protocol. `seed` is the bootstrap's.
    Raises ValueError when there is no sample, or when ids and texts differ in number.
    """
    entropies = sample_entropies(ids)
    if len(entropies) != len(texts) or not len(texts):
        raise ValueError(f"need as many texts as rows of ids, at least one; got {len(texts)} and {len(entropies)}")
    score = gen_ppl(list(texts), scorer, resamples=resamples, seed=seed) if scorer else None
    entropy = mean_interval(entropies, resamples=resamples, seed=seed)
    protocol = replace(
        protocol,
        scorer=scorer.name if scorer else None,
        scorer_precision=scorer.precision if scorer else None,
        scorer_context=scorer.context if scorer else None,
        retokenised=True if scorer else None,
        averaging="pooled" if scorer else None,
        samples=len(texts),
    )
    return {
        "model": model,
        "round": round,
        "steps": steps,
        "nfe": nfe,
        "gen_ppl": score.value if score else None,
        "gen_ppl_lo": score.lo if score else None,
        "gen_ppl_hi": score.hi if score else None,
        "entropy": entropy.value,
        "entropy_lo": entropy.lo,
        "entropy_hi": entropy.hi,
        "repetition_2": repetition_n(ids, 2),
        "repetition_4": repetition_n(ids, 4),
        "distinct_1": distinct_n(ids, 1),
        "distinct_2": distinct_n(ids, 2),
        "samples": len(texts),
        "tokens": sum(len(row) for row in ids),
        "scored_tokens": score.tokens if score else None,
        "truncated": score.truncated if score else None,
        "scorer_tokens_per_second": scorer.tokens_per_second if scorer else None,
        "protocol": {**protocol.as_dict(), "digest": protocol.digest()},
    }


def shuffled(texts: Sequence[str], seed: int) -> list[str]:
    """Each text with its words in random order, parted by single spaces: a control that keeps the unigrams.

    Its entropy over words is that of the text; only what depends on order is lost. Row i depends on (seed, i) alone.
    """
    rows = [text.split() for text in texts]
    for i, words in enumerate(rows):
        random.Random(f"{seed}:{i}").shuffle(words)
    return [" ".join(words) for words in rows]
