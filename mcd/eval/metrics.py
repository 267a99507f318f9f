"""One row of `metrics.json`: all that is measured on one set of samples, with the protocol it was measured by."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mcd.data.text import Borders, Documents
from mcd.eval.bootstrap import Interval, mean_interval
from mcd.eval.diversity import Ids, distinct_n, duplicates, repetition_n, repetitions, sample_entropies, self_bleus
from mcd.eval.features import kind_of
from mcd.eval.gen_ppl import Averaging, gen_ppl
from mcd.eval.mauve import Reference
from mcd.eval.memorisation import TrainingText
from mcd.eval.protocol import Protocol
from mcd.eval.scorer import SampleScore, Scorer, Text


@dataclass(frozen=True)
class Scoring:
    """How samples are scored: the averaging of the main Gen PPL, whether the scorer tokenises text again, what real
    text the samples are compared with, if any, whether the scorer sees where a document ends, and in what training text
    copies are looked for, if in any."""

    averaging: Averaging = "pooled"
    retokenise: bool = True
    reference: Reference | None = None
    borders: Borders = "kept"
    training: TrainingText | None = None


PLAIN = Scoring()
"""MDLM's conventions: the end of text is in the text that its scorer reads, and becomes the scorer's own."""


@dataclass(frozen=True)
class Measurement:
    """A row of metrics.json, the score of each sample it was computed from (None without a scorer), and the samples, in
    the form that `mcd sample` writes, where a model drew them."""

    row: dict[str, Any]
    scores: list[SampleScore] | None
    samples: Sequence[dict[str, Any]] = ()


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
    seed: int = 0,
) -> Measurement:
    """The row of one model at one number of steps; all of it goes into JSON.

    ids: (N, L) or a list of lists, tokens of the model; None where nobody knows them, then the scorer's own tokens of
    the texts are counted. texts: the same samples decoded. nfe: the mean number of denoiser calls per sample.
    Gen PPL is over the scorer's tokens (`scored_tokens`), by both averagings, of which `scoring` names the main one
    (`gen_ppl`, with its interval); samples without such a token are `unscored`. Entropy (nats), repetition, distinct-n
    self-BLEU and `duplicates` are over `tokens`, the model's own. A reference adds the distances of feature clouds,
    a training text how much of the samples is copied from it.
    extra: further keys of the row. Without a scorer the keys of Gen PPL are None.
    protocol: what is known of how the samples were made; the scorer's fields are filled in here. seed: of the
    bootstrap. Raises ValueError when there is no sample, when ids and texts differ in number, and for texts without ids
    or scorer.
    """
    counted = None
    if ids is None:
        if scorer is None:
            raise ValueError("texts without ids are measured by a scorer's tokens; there is no scorer")
        ids, counted = scorer.tokens(texts), "scorer"
    entropies = sample_entropies(ids)
    if len(entropies) != len(texts) or not len(texts):
        raise ValueError(f"need as many texts as rows of ids, at least one; got {len(texts)} and {len(entropies)}")
    score, reference = None, scoring.reference
    if scorer:
        own = None if scoring.retokenise else [np.asarray(row).tolist() for row in ids]
        score = gen_ppl(texts, scorer, averaging=scoring.averaging, ids=own, seed=seed)
    nothing = Interval(0.0, None, None)
    repeated = repetitions(ids, 4)
    repeated = repeated[np.isfinite(repeated)]
    bleu = mean_interval(self_bleus(ids), seed=seed).keys("self_bleu") if len(texts) > 1 else {}
    protocol = replace(
        protocol,
        scorer=scorer.name if scorer else None,
        scorer_precision=scorer.precision if scorer else None,
        scorer_context=scorer.context if scorer else None,
        retokenised=scoring.retokenise if scorer else None,
        borders=protocol.borders if scorer and scoring.retokenise else None,
        counted=counted,
        averaging=scoring.averaging if scorer else None,
        reference=reference.name if reference else None,
        reference_samples=len(reference.features) if reference else None,
        features=kind_of(reference.by) if reference else None,
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
        **mean_interval(entropies, seed=seed).keys("entropy"),
        "repetition_2": repetition_n(ids, 2),
        **(mean_interval(repeated, seed=seed) if len(repeated) else nothing).keys("repetition_4"),
        "distinct_1": distinct_n(ids, 1),
        "distinct_2": distinct_n(ids, 2),
        **(bleu or dict.fromkeys(("self_bleu", "self_bleu_lo", "self_bleu_hi"))),
        "duplicates": duplicates(ids),
        **(reference.row(texts) if reference else {}),
        **(scoring.training.row(texts) if scoring.training else {}),
        "samples": len(texts),
        "tokens": sum(len(row) for row in ids),
        "scored_tokens": score.tokens if score else None,
        "unscored": sum(not one.tokens for one in score.scores) if score else None,
        "truncated": score.truncated if score else None,
        "scorer_tokens_per_second": scorer.tokens_per_second if scorer else None,
        "protocol": protocol.stamp(),
    }
    return Measurement(row | dict(extra or {}), score.scores if score else None)


def shuffled(texts: Sequence[Text], seed: int) -> list[Documents]:
    """Each text with its words in random order, separated by single spaces: a control that keeps the unigrams.

    Words move from document to document, and each document keeps its number of words, so that the borders stay. The
    entropy over words is that of the text; only what depends on order is lost. Row i depends only on (seed, i).
    """
    mixed = []
    for i, text in enumerate(texts):
        words = [document.split() for document in ([text] if isinstance(text, str) else text)]
        rest = [word for document in words for word in document]
        random.Random(f"{seed}:{i}").shuffle(rest)
        left = iter(rest)
        mixed.append(tuple(" ".join(itertools.islice(left, len(document))) for document in words))
    return mixed
