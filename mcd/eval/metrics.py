"""One row of `metrics.json`: all that is measured on one set of samples, with the protocol it was measured by."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from mcd.data.text import Borders, Documents
from mcd.eval.bootstrap import RESAMPLES, mean_interval
from mcd.eval.diversity import Ids, distinct_n, repetition_n, repetitions, sample_entropies, self_bleus
from mcd.eval.gen_ppl import Averaging, GenPPL, gen_ppl
from mcd.eval.mauve import Reference
from mcd.eval.protocol import Protocol
from mcd.eval.scorer import SampleScore, Scorer, Text


@dataclass(frozen=True)
class Scoring:
    """How samples are scored: the averaging of the main Gen PPL, whether the scorer tokenises text anew, what real text
    the samples are compared with, if any, and whether the scorer sees where a document ends."""

    averaging: Averaging = "pooled"
    retokenise: bool = True
    reference: Reference | None = None
    borders: Borders = "kept"


PLAIN = Scoring()
"""MDLM's conventions: the end of text is in the text that its scorer reads, and becomes the scorer's own."""


@dataclass(frozen=True)
class Measured:
    """A row of metrics.json, and the score of each sample it was computed from (None without a scorer)."""

    row: dict[str, Any]
    scores: list[SampleScore] | None


def measure(
    ids: Ids | None,
    texts: Sequence[Text],
    scorer: Scorer | None,
    protocol: Protocol,
    *,
    model: str,
    round: int | None = None,
    steps: int | None = None,
    nfe: float | None = None,
    scoring: Scoring = PLAIN,
    extra: Mapping[str, Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Measured:
    """The row of one model at one number of steps; all of it goes into JSON.

    ids: (N, L) or a list of lists, tokens of the model; None where nobody knows them, then the scorer's own tokens of
    the texts are counted. texts: the same samples decoded. `nfe` is the mean number of denoiser calls a sample took.
    Gen PPL is over the scorer's tokens (`scored_tokens`), by both averagings, of which `scoring` names the main one
    (`gen_ppl`, with its interval); entropy (nats), repetition, distinct-n and self-BLEU are over `tokens`, the model's
    own. A reference and a scorer add the distances of feature clouds. `extra` is merged into the row. Without a scorer
    the keys of Gen PPL are None. What is known here about the scorer and the samples is written into the protocol.
    `seed` is the bootstrap's. `protocol.borders` says how the texts were made. Raises ValueError when there is no
    sample, when ids and texts differ in number, and for texts without ids or scorer.
    """
    counted = None
    if ids is None:
        if scorer is None:
            raise ValueError("texts without ids are measured by a scorer's tokens; there is no scorer")
        ids, counted = scorer.tokens(texts), "scorer"
    entropies = sample_entropies(ids)
    if len(entropies) != len(texts) or not len(texts):
        raise ValueError(f"need as many texts as rows of ids, at least one; got {len(texts)} and {len(entropies)}")
    score: GenPPL | None = None
    if scorer:
        own = (
            None
            if scoring.retokenise
            else [row.tolist() if isinstance(row, Tensor | np.ndarray) else list(row) for row in ids]
        )
        score = gen_ppl(texts, scorer, averaging=scoring.averaging, ids=own, resamples=resamples, seed=seed)
    compared = scoring.reference.row(texts, scorer) if scoring.reference and scorer else {}
    repeated = repetitions(ids, 4)
    repeated = repeated[np.isfinite(repeated)]
    repetition = mean_interval(repeated, resamples=resamples, seed=seed) if len(repeated) else None
    bleu = mean_interval(self_bleus(ids), resamples=resamples, seed=seed) if len(texts) > 1 else None
    entropy = mean_interval(entropies, resamples=resamples, seed=seed)
    protocol = replace(
        protocol,
        scorer=scorer.name if scorer else None,
        scorer_precision=scorer.precision if scorer else None,
        scorer_context=scorer.context if scorer else None,
        retokenised=scoring.retokenise if scorer else None,
        borders=protocol.borders if scorer and scoring.retokenise else None,
        counted=counted,
        averaging=scoring.averaging if scorer else None,
        reference=scoring.reference.name if compared and scoring.reference else None,
        reference_samples=len(scoring.reference.features) if compared and scoring.reference else None,
        samples=len(texts),
    )
    row = {
        "model": model,
        "round": round,
        "steps": steps,
        "nfe": nfe,
        "gen_ppl": score.value if score else None,
        "gen_ppl_lo": score.lo if score else None,
        "gen_ppl_hi": score.hi if score else None,
        "gen_ppl_pooled": score.pooled if score else None,
        "gen_ppl_per_sample": score.per_sample if score else None,
        "entropy": entropy.value,
        "entropy_lo": entropy.lo,
        "entropy_hi": entropy.hi,
        "repetition_2": repetition_n(ids, 2),
        "repetition_4": repetition.value if repetition else 0.0,
        "repetition_4_lo": repetition.lo if repetition else None,
        "repetition_4_hi": repetition.hi if repetition else None,
        "distinct_1": distinct_n(ids, 1),
        "distinct_2": distinct_n(ids, 2),
        "self_bleu": bleu.value if bleu else None,
        "self_bleu_lo": bleu.lo if bleu else None,
        "self_bleu_hi": bleu.hi if bleu else None,
        **compared,
        "samples": len(texts),
        "tokens": sum(len(row) for row in ids),
        "scored_tokens": score.tokens if score else None,
        "truncated": score.truncated if score else None,
        "scorer_tokens_per_second": scorer.tokens_per_second if scorer else None,
        "protocol": {**protocol.as_dict(), "digest": protocol.digest()},
    }
    return Measured(row | dict(extra or {}), score.scores if score else None)


def shuffled(texts: Sequence[Text], seed: int) -> list[Documents]:
    """Each text with its words in random order, parted by single spaces: a control that keeps the unigrams.

    Words move from document to document, and each has as many as before, so that the borders stay. The entropy over
    words is that of the text; only what depends on order is lost. Row i depends on (seed, i) alone.
    """
    mixed = []
    for i, text in enumerate(texts):
        words = [document.split() for document in ([text] if isinstance(text, str) else text)]
        rest = [word for document in words for word in document]
        random.Random(f"{seed}:{i}").shuffle(rest)
        left = iter(rest)
        mixed.append(tuple(" ".join(itertools.islice(left, len(document))) for document in words))
    return mixed
