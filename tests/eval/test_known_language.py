"""Measures against the truth, and the perfect teacher: what is known of both without any training."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mcd.data.languages.hidden_markov import stationary_law
from mcd.data.languages.known import LANGUAGES
from mcd.eval.exact_denoiser import exact_denoiser
from mcd.eval.known_language import ngrams, sampling_floor, truth_metrics
from mcd.eval.likelihood import nelbo_rows
from mcd.objective import OBJECTIVES
from mcd.objective.base import Clock
from mcd.sampler import SAMPLERS, sample
from mcd.sampler.ancestral import Ancestral

LENGTH, ROWS = 16, 500


@pytest.fixture(params=["markov", "hmm", "grammar"])
def language(request):
    return LANGUAGES[request.param]()


def truth(language, num=ROWS, length=LENGTH, seed=0):
    return language.sample_rows(num, length, torch.Generator().manual_seed(100 + seed))


def drawn(language, steps, **options):
    """Rows of the perfect teacher."""
    sampler = Ancestral(steps, order="stratified", rows_per_call=250, **options)
    return sample(sampler, exact_denoiser(language, LENGTH), ROWS, LENGTH)[0]


@pytest.mark.heavy
def test_metrics_against_counting(language):
    ids = truth(language, 40)
    measured = truth_metrics(ids, language)
    assert measured["nll"] == pytest.approx(-language.log_likelihood(ids).mean().item() / LENGTH)
    assert measured["nll_lo"] < measured["nll"] < measured["nll_hi"]
    assert (measured["entropy_true"], measured["entropy_true_se"]) == language.entropy(LENGTH)
    for n, name in ((1, "tv_unigram"), (2, "tv_bigram"), (3, "tv_trigram")):
        grams = Counter(tuple(row[i : i + n]) for row in ids.tolist() for i in range(LENGTH - n + 1))
        law = language.ngram(n)
        excess = sum(max(0.0, count / grams.total() - law[gram].item()) for gram, count in grams.items())
        assert measured[name] == pytest.approx(excess)  # TV is what one law has in excess of the other
    pairs = Counter(pair for row in ids.tolist() for pair in pairwise(row))
    first = Counter(a for a, _ in pairs.elements())
    entropy = -sum(count / pairs.total() * math.log(count / first[a]) for (a, _), count in pairs.items())
    assert measured["bigram_entropy"] == pytest.approx(entropy)
    single, double = (torch.special.entr(language.ngram(n)).sum().item() for n in (1, 2))
    assert measured["bigram_entropy_true"] == pytest.approx(double - single)
    assert (measured["grammatical"] is None) == (language.name != "grammar")
    json.dumps(measured, allow_nan=False)


@pytest.mark.heavy
def test_classes_against_counting(language):
    """Total variation of the n-grams of classes is that from the law of n symbols, added up over their classes."""
    ids, classes = truth(language, 40), torch.arange(language.vocab_size) % 5
    measured = truth_metrics(ids, replace(language, classes=classes))
    for n, name in ((2, "tv_class_bigram"), (3, "tv_class_trigram")):
        law = language.ngram(n)
        for axis in range(n):
            law = torch.zeros(*law.shape[:axis], 5, *law.shape[axis + 1 :]).double().index_add_(axis, classes, law)
        grams = Counter(tuple(row[i : i + n]) for row in classes[ids].tolist() for i in range(LENGTH - n + 1))
        excess = sum(max(0.0, count / grams.total() - law[gram].item()) for gram, count in grams.items())
        assert measured[name] == pytest.approx(excess)
    assert truth_metrics(ids, language)["tv_class_bigram"] is None


@pytest.mark.heavy
def test_the_truth_is_at_its_floor(language):
    measured, floor = truth_metrics(truth(language), language), sampling_floor(language, ROWS, LENGTH)
    assert floor.keys() - {"entropy"} <= measured.keys()
    assert 1.0 < floor["entropy"] < math.log(language.vocab_size)
    assert measured["nll_lo"] - 0.03 < measured["entropy_true"] < measured["nll_hi"] + 0.03
    for name in ("tv_unigram", "tv_bigram", "tv_trigram"):
        assert floor[name] > 0 and measured[name] == pytest.approx(floor[name], rel=0.25)
    assert measured["bigram_entropy"] == pytest.approx(measured["bigram_entropy_true"], abs=0.08)
    assert measured["coverage"] > 0.99 < floor["coverage"]
    assert sampling_floor(language, 4 * ROWS, LENGTH, draws=1)["tv_bigram"] < 0.7 * floor["tv_bigram"]


@pytest.mark.heavy
def test_the_bound_is_tight_at_the_truth(language):
    """NELBO of the exact posterior = entropy: summed over a random order of reveal it is the chain rule."""
    x0 = truth(language, 3000)
    draws = nelbo_rows(exact_denoiser(language, LENGTH), x0, torch.Generator().manual_seed(0)).double()
    entropy, error = language.entropy(LENGTH)
    error = math.hypot(error, draws.std().item() / math.sqrt(len(draws)))
    assert abs(draws.mean().item() - entropy) < 4.5 * error and error < 0.05

    flat = replace(language, emission=0.7 * language.emission + 0.3 / 32)  # a teacher that is not the truth: above it
    wrong = nelbo_rows(exact_denoiser(flat, LENGTH), x0, torch.Generator().manual_seed(0)).double()
    gap = wrong - draws  # the same masks
    assert gap.mean().item() > 4.5 * gap.std().item() / math.sqrt(len(gap))


@pytest.mark.heavy
def test_one_token_a_step_reaches_the_floor_and_one_step_does_not(language):
    """With the truth as teacher, token by token is exact in any order; tokens drawn side by side do not agree."""
    floor = sampling_floor(language, ROWS, LENGTH)
    fine, coarse = (truth_metrics(drawn(language, steps), language) for steps in (LENGTH, 1))
    for name in ("tv_unigram", "tv_bigram", "tv_trigram"):
        assert fine[name] == pytest.approx(floor[name], rel=0.25)
    assert coarse["tv_unigram"] == pytest.approx(floor["tv_unigram"], rel=0.35)  # each token alone is right
    assert coarse["tv_bigram"] > 1.5 * floor["tv_bigram"]
    assert fine["nll_lo"] - 0.03 < fine["entropy_true"] < fine["nll_hi"] + 0.03
    assert coarse["nll_lo"] > fine["nll_hi"] + 0.3
    assert coarse["bigram_entropy"] > fine["bigram_entropy"] + 0.2
    if language.name == "grammar":
        assert abs(fine["grammatical"] - floor["grammatical"]) < 0.04
        assert coarse["grammatical"] < 0.5 * floor["grammatical"]


@pytest.mark.heavy
def test_sharpening_lowers_nll_and_leaves_the_truth(language):
    plain, sharp = (truth_metrics(drawn(language, LENGTH, temperature=tau), language) for tau in (1.0, 0.5))
    assert sharp["nll_hi"] < plain["nll_lo"] - 0.1  # better than the truth, by likelihood
    assert sharp["tv_bigram"] > 1.3 * plain["tv_bigram"] and sharp["tv_unigram"] > 2 * plain["tv_unigram"]
    assert sharp["bigram_entropy"] < sharp["bigram_entropy_true"] - 0.2
    assert sharp["coverage"] < plain["coverage"]
    if language.name == "grammar":
        assert sharp["grammatical"] >= plain["grammatical"]


def test_coverage_is_the_share_of_rules_in_use():
    """A source that lost some rules: coverage falls by their share, whatever else it does well."""
    language = LANGUAGES["hmm"]()
    N, L = 400, 32
    expected = N * (L - 1) * language.start[:, None] * language.transition
    ring = torch.zeros(8, 8, dtype=torch.bool)
    ring[torch.arange(8), (torch.arange(8) + 1) % 8] = True
    lost = (expected >= 20) & ~ring
    transition = language.transition.masked_fill(lost, 0.0)
    transition /= transition.sum(1, keepdim=True)
    poorer = replace(language, transition=transition, start=stationary_law(transition))
    whole = truth_metrics(truth(language, N, L), language)
    reduced = truth_metrics(truth(poorer, N, L), language)
    assert whole["coverage"] == 1.0
    assert reduced["coverage"] == pytest.approx(8 / (8 + int(lost.sum())), abs=0.1)
    assert reduced["nll"] < whole["nll"]
    assert truth_metrics(truth(language, 1, 8), language)["coverage"] is None  # too few tokens to ask of any rule


def test_the_exact_denoiser_answers_as_a_denoiser(language, seeded):
    model = exact_denoiser(language, LENGTH)
    z = truth(language, 5)
    z = torch.where(torch.rand(z.shape, generator=seeded(1)) < 0.6, model.mask_id, z)
    rows = (z == model.mask_id).flatten().nonzero()[:, 0]
    t = torch.full((5,), 0.5)
    hidden = model.hidden(z, t, rows=rows)
    posterior = language.posterior(z, 32).flatten(0, 1)
    torch.testing.assert_close(model.log_x_theta(hidden).double().exp(), posterior[rows], rtol=1e-5, atol=1e-7)
    tempered = posterior[rows] ** 2 / (posterior[rows] ** 2).sum(1, keepdim=True)
    torch.testing.assert_close(model.log_x_theta(hidden, tau=0.5).double().exp(), tempered, rtol=1e-5, atol=1e-7)
    everywhere = model.hidden(z, t)
    torch.testing.assert_close(everywhere[rows], hidden)
    assert everywhere.isfinite().all()
    torch.testing.assert_close(model.log_x_theta(everywhere, z=z.flatten()).exp().double(), posterior)
    assert model.config.vocab_size == language.vocab_size and not list(model.parameters())


@pytest.mark.parametrize(
    "name", [name for name, kind in SAMPLERS.items() if getattr(kind, "process", "masked") == "masked"]
)
def test_every_masked_sampler_takes_it(name):
    language = LANGUAGES["hmm"]()
    ids, nfe = sample(SAMPLERS[name](4), exact_denoiser(language, 12), 3, 12)
    assert ids.shape == (3, 12) and (nfe > 0).all()
    assert language.log_likelihood(ids).isfinite().all()


def test_it_can_teach(tiny_denoiser, draws_of):
    """As the teacher of MCD: the loss is finite and its gradient reaches the student."""
    language = LANGUAGES["markov"]()
    student = tiny_denoiser(V=32, length=LENGTH)
    x0 = truth(language, 4)
    loss = OBJECTIVES["mcd"](delta0=0.25).loss(student, exact_denoiser(language, LENGTH), x0, Clock(), draws_of(x0))
    loss.total.backward()
    assert loss.total.isfinite() and loss.terms["distillation"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_what_has_no_posterior_is_refused():
    language = LANGUAGES["hmm"]()
    model = exact_denoiser(language, LENGTH)
    t = torch.ones(1)
    with pytest.raises(ValueError, match="no soft tokens"):
        model.hidden(torch.full((1, 4, 33), 1 / 33), t)
    with pytest.raises(ValueError, match="no noise"):
        model.hidden(torch.full((1, 4), 32), t, noise=torch.ones(1, 4, 33))
    with pytest.raises(ValueError, match="beyond the model's 16"):
        model.hidden(torch.full((1, 17), 32), t)
    with pytest.raises(ValueError, match="ids must lie in"):
        truth_metrics(torch.full((2, 8), 32), language)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_are_numbered_in_order(seeded, n):
    """By hand: each window of n, and the sorted list of the different ones."""
    ids = torch.randint(0, 5, (7, 9), generator=seeded(0))
    grams, which = ngrams(ids, n, 5)
    windows = [[tuple(row[i : i + n]) for i in range(10 - n)] for row in ids.tolist()]
    assert [tuple(gram) for gram in grams.tolist()] == sorted({gram for row in windows for gram in row})
    assert [[tuple(grams[i].tolist()) for i in row] for row in which.tolist()] == windows


@pytest.mark.heavy
def test_a_vocabulary_as_large_as_that_of_text_is_measured():
    """The truth of `english` at its floor, and unigrams drawn one by one far above its entropy."""
    language = LANGUAGES["english"]()
    rows, floor = truth(language, 60, 12), sampling_floor(language, 60, 12, draws=1)
    measured = truth_metrics(rows, language)
    assert measured["nll_lo"] - 0.1 < measured["entropy_true"] < measured["nll_hi"] + 0.1
    for name in ("tv_unigram", "tv_bigram", "tv_trigram"):
        assert measured[name] == pytest.approx(floor[name], rel=0.15)
    flat = torch.multinomial(language.ngram(1), 720, replacement=True).view(60, 12)
    assert truth_metrics(flat, language)["nll_lo"] > measured["nll_hi"] + 0.5
