"""Samples of a language whose truth is known (`mcd.data.languages.known`), measured against that truth.

Likelihood alone rewards sharpening. A sampler that says nothing but likely windows has a lower exact NLL than the
language itself, whose NLL is its entropy; so has a cooled one, and both are rarely ungrammatical. NLL above the
entropy shows faults, NLL below it shows that something is missing. Other measures show what is missing: total variation
of n-grams (any shift of frequencies), the conditional entropy against the true one (too little choice), and coverage
(rules that are no longer used). In a grammar, brackets that are far apart must agree, which no n-gram sees. N-gram
measures of finite samples are off even for the truth itself; read them against `sampling_floor` at the same number of
rows. All laws are exact, also where there are far more n-grams than samples: total variation is what the samples have
in excess of the law, and so needs the law of the n-grams that they have.
"""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcd.data.languages.hidden_markov import HiddenMarkov
from mcd.data.languages.known import Language
from mcd.eval.agreement import pairs_of
from mcd.eval.bootstrap import mean_interval, ratio_interval
from mcd.eval.diversity import sample_entropy

RULE_COUNT = 20.0
"""A rule that the truth is expected to use at least so often in as many tokens is one that samples should use."""
RULE_SHARE = 0.25
"""A rule is in use when samples have at least this share of the expected number; the truth hardly ever has less."""


def truth_metrics(ids: Tensor, language: Language, seed: int = 0) -> dict[str, Any]:
    """One set of samples against the truth: ids (N, L), L at least 3; all of it goes into JSON.

    nll, nll_lo, nll_hi: exact -log p, nats per token, with its bootstrap interval over rows; `entropy_true` is what the
        truth itself has, with standard error `entropy_true_se` (0 when exact).
    tv_unigram, tv_bigram, tv_trigram: total variation of the samples' n-grams (all positions) from the exact law.
    tv_class_bigram, tv_class_trigram: the same of the classes of the tokens; None for a language without classes. With
        a vocabulary as large as that of text they say what n-grams of tokens cannot, which hardly ever come twice.
    bigram_entropy: H(X_2 | X_1) of the samples' own bigrams, nats; `bigram_entropy_true` is the language's.
    grammatical: share of rows that are text without noise; None for a language without grammar.
    agree_near, agree_far: share of closing brackets that are of the kind of the bracket they close, where that is fewer
        than 8 tokens away, or more (`mcd.eval.agreement`), with intervals over rows; brackets_far: share of all such
        pairs that are far. None for a language without grammar, and where there is no pair.
    coverage: share of the language's rules (hidden transitions) in use, of those with an expected count of at least
        RULE_COUNT; in use means RULE_SHARE of that count, counted by forward-backward. 1 when no mode is lost.
        None for so few tokens that no rule has that count.
    Total variation and coverage depend on the number of rows: compare at equal numbers. seed: of the bootstrap.
    Raises ValueError for ids that are not of the language, and for rows below 3 tokens.
    """
    if ids.shape[1] < 3:
        raise ValueError(
            f"--length {ids.shape[1]}: a synthetic language is judged by trigrams, which need at least 3 tokens"
        )
    entropy, error = language.entropy(ids.shape[1])
    return {
        **mean_interval(_nll(ids, language).numpy(), seed=seed).keys("nll"),
        "entropy_true": entropy,
        "entropy_true_se": error,
        **_point_metrics(ids, language),
        **_agreement(ids, language, seed),
        "bigram_entropy_true": _bigram_entropy(language),
        "samples": len(ids),
    }


@functools.cache
def sampling_floor(language: Language, num: int, length: int, seed: int = 0, draws: int = 4) -> dict[str, Any]:
    """What `num` rows of the language itself have: the values of `truth_metrics`, and `entropy`, of a row (nats).

    A perfect sampler reaches these values, not zero total variation. They are means over `draws` sets of rows; the
    entropy is that of the first set.
    """
    generator = torch.Generator().manual_seed(seed)
    sets = [language.sample_rows(num, length, generator) for _ in range(draws)]
    measured = [
        {"nll": _nll(ids, language).mean().item(), **_point_metrics(ids, language), **_agreement(ids, language)}
        for ids in sets
    ]
    floor = {
        key: None if None in values else float(np.mean(values))
        for key in measured[0]
        if not key.endswith(("_lo", "_hi"))
        for values in [[metrics[key] for metrics in measured]]
    }
    return floor | {"entropy": sample_entropy(sets[0])}


def _nll(ids: Tensor, language: Language) -> Tensor:
    """-log p of each row, nats per token, (N,)."""
    return -language.log_likelihood(ids) / ids.shape[1]


def _point_metrics(ids: Tensor, language: Language) -> dict[str, float | None]:
    names, metrics, bigram_entropy = {1: "tv_unigram", 2: "tv_bigram", 3: "tv_trigram"}, dict[str, float | None](), 0.0
    for n, name in names.items():
        grams, share, metrics[name] = _against_law(ids, n, language)
        if n == 2:
            first = torch.zeros(language.vocab_size, dtype=torch.float64).index_add_(0, grams[:, 0], share)
            bigram_entropy = (torch.special.entr(share).sum() - torch.special.entr(first).sum()).item()
    coarse = language.in_classes(ids)
    for n, name in {2: "tv_class_bigram", 3: "tv_class_trigram"}.items():
        metrics[name] = None if coarse is None else _against_law(coarse[0], n, coarse[1])[2]
    return {
        **metrics,
        "bigram_entropy": bigram_entropy,
        "grammatical": None if language.noiseless is None else language.grammatical(ids).double().mean().item(),
        "coverage": _coverage(ids, language),
    }


def _against_law(ids: Tensor, n: int, law: HiddenMarkov) -> tuple[Tensor, Tensor, float]:
    """The different n-grams of some rows (M, n), the share of each (M,), and their total variation from the law."""
    grams, which = ngrams(ids, n, law.vocab_size)
    share = which.flatten().bincount().double() / which.numel()
    return grams, share, (share - law.ngram_at(grams)).clamp(min=0.0).sum().item()


def _agreement(ids: Tensor, language: Language, seed: int = 0) -> dict[str, float | None]:
    """The keys of `truth_metrics` about brackets."""
    found = pairs_of(ids, language.brackets())
    keys: dict[str, float | None] = {"brackets_far": None}
    for name, far in (("agree_near", False), ("agree_far", True)):
        agree, pairs = found.counts(len(ids), far)
        some = pairs.sum() > 0
        keys |= (
            ratio_interval(agree, pairs, seed=seed).keys(name)
            if some
            else dict.fromkeys((name, f"{name}_lo", f"{name}_hi"))
        )
        if far and len(found.row):
            keys["brackets_far"] = float(pairs.sum() / len(found.row))
    return keys


def ngrams(ids: Tensor, n: int, V: int) -> tuple[Tensor, Tensor]:
    """The different n-grams of rows (N, L) in lexicographic order, (M, n), and which stand where, (N, L - n + 1)."""
    place = V ** torch.arange(n - 1, -1, -1)
    labels, which = (ids.unfold(1, n, 1) * place).sum(2).unique(return_inverse=True)
    return labels[:, None] // place % V, which


@functools.cache
def _bigram_entropy(language: Language) -> float:
    """H(X_2 | X_1) of the language, nats, exact."""
    law = language.ngram(2)
    return (torch.special.entr(law).sum() - torch.special.entr(law.sum(1)).sum()).item()


def _coverage(ids: Tensor, language: Language) -> float | None:
    N, L = ids.shape
    expected = language.start[:, None] * language.transition * (N * (L - 1))
    rules = expected >= RULE_COUNT
    if not rules.any():
        return None
    used = language.rule_counts(ids)[rules] >= RULE_SHARE * expected[rules]
    return used.double().mean().item()
