"""Guidance: the evidence of what is visible is sharpened, and the prior of a token is not."""

import pytest
import torch

from mcd.data.languages.known import LANGUAGES
from mcd.errors import UsageError
from mcd.eval.exact_denoiser import exact_denoiser
from mcd.eval.known_language import truth_metrics
from mcd.model.prior import prior
from mcd.process.categorical import Guide, sample_inverse_cdf, temper
from mcd.sampler import SAMPLERS, sample
from mcd.sampler.choice import sampler_of
from mcd.sampler.masked import MaskedSampler

V, L = 23, 16


@pytest.fixture
def laws():
    """Predictions (7, V) and a prior (V,), as log-probabilities."""
    g = torch.Generator().manual_seed(3)
    return (2.0 * torch.randn(7, V, generator=g)).log_softmax(-1), torch.randn(V, generator=g).double().log_softmax(-1)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("top_p", [0.6, 1.0])
@pytest.mark.parametrize("w", [0.25, 1.0])
def test_the_law_is_that_of_the_docstring(laws, temperature, top_p, w):
    """p (p / prior)^w to the power 1 / T, on the nucleus that a draw without guidance has."""
    log_p, log_prior = laws
    p, q = log_p.double().exp(), log_prior.exp()
    expected = (p * (p / q) ** w) ** (1.0 / temperature) * temper(log_p, temperature, top_p).isfinite()
    found = temper(log_p, temperature, top_p, Guide(log_prior, w)).exp()
    assert torch.allclose(found, expected / expected.sum(-1, keepdim=True), atol=1e-12)


def test_it_sharpens_the_likelihood_and_leaves_the_prior(laws):
    """Bayes: p = prior x likelihood, and the law is prior x likelihood^(1 + w)."""
    log_p, log_prior = laws
    likelihood = log_p.double() - log_prior
    expected = (log_prior + 1.5 * likelihood).log_softmax(-1)
    assert torch.allclose(temper(log_p, guide=Guide(log_prior, 0.5)), expected, atol=1e-12)


def test_a_prediction_that_is_the_prior_stays_as_it_is(laws):
    _, log_prior = laws
    assert torch.allclose(temper(log_prior[None], guide=Guide(log_prior, 2.0))[0], log_prior, atol=1e-12)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_at_the_smallest_temperature_the_likeliest_token_of_the_guided_law_is_left(laws, top_p):
    """Where a prior divided by the temperature is beyond all numbers, too."""
    log_p, log_prior = laws
    guide = Guide(log_prior, 0.5)
    likeliest = temper(log_p, guide=guide).argmax(-1) if top_p == 1.0 else log_p.argmax(-1)
    found = temper(log_p, 1e-310, top_p, guide).exp()
    assert found.equal(torch.nn.functional.one_hot(likeliest, V).double())


def test_draws_follow_the_guided_law(laws):
    log_p, log_prior = laws
    v = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    ids = sample_inverse_cdf(log_p[:1], v[None], guide=Guide(log_prior, 0.5), top_p=0.9)
    share = ids[0].bincount(minlength=V) / v.numel()
    assert torch.allclose(share.double(), temper(log_p[:1], 1.0, 0.9, Guide(log_prior, 0.5)).exp()[0], atol=2e-4)


MASKED = [kind for kind in SAMPLERS.values() if issubclass(kind, MaskedSampler)]


@pytest.mark.parametrize("kind", MASKED, ids=lambda kind: kind.name)
def test_every_masked_sampler_draws_from_it(kind, tiny_denoiser):
    """In as many calls, where the number does not follow from what is drawn."""
    model = tiny_denoiser(V=V, length=L, process=kind.process).requires_grad_(False)
    plain, guided = (sample(kind(steps=4, guidance=w), model, 6, L, seed=1) for w in (0.0, 3.0))
    assert not plain[0].equal(guided[0])
    assert plain[1].equal(guided[1]) or kind.name in ("cad", "klass", "entropy-bounded", "gumbel-race")


def test_one_call_is_as_without_it_where_nothing_is_visible():
    """The first prediction of a perfect model is its prior."""
    language = LANGUAGES["hmm"]()
    model = exact_denoiser(language, 32)
    plain, guided = (sample(SAMPLERS["ancestral"](steps=1, guidance=w), model, 8, 32)[0] for w in (0.0, 1.0))
    assert plain.equal(guided)


def test_it_makes_up_for_drawing_in_parallel():
    """Tokens that are drawn in one call do not see each other; with the evidence sharpened, a perfect model is nearer
    to its own law in few calls, in likelihood and in the total variation of bigrams and trigrams."""
    language = LANGUAGES["hmm"]()
    model = exact_denoiser(language, 64)
    plain, guided = (
        truth_metrics(
            sample(SAMPLERS["ancestral"](steps=4, order="low-discrepancy", guidance=w), model, 256, 64)[0],
            language,
            seed=0,
        )
        for w in (0.0, 0.5)
    )
    for measure in ("nll", "tv_bigram", "tv_trigram"):
        assert guided[measure] < plain[measure], measure


def test_bits_of_a_row_do_not_depend_on_its_company(tiny_denoiser):
    model = tiny_denoiser(V=V, length=L).requires_grad_(False)
    sampler = SAMPLERS["ancestral"](steps=4, guidance=0.5, top_p=0.9)
    together, _ = sample(sampler, model, 6, L, seed=2)
    alone = [sample(sampler, model, 1, L, seed=2, first_row=row)[0] for row in range(6)]
    assert together.equal(torch.cat(alone))


def test_the_stamp_says_it_where_there_is_some():
    assert SAMPLERS["ancestral"](guidance=0.5).protocol()["guidance"] == 0.5
    assert all("guidance" not in kind().protocol() for kind in MASKED)
    assert "guidance" not in SAMPLERS["confidence"](greedy=True, guidance=0.5).protocol()


@pytest.mark.parametrize(
    ("process", "options", "said"),
    [
        ("masked", {"guidance": -0.5}, "--guidance -0.5"),
        ("masked", {"guidance": 1e308}, "--guidance 1e\\+308: must be"),
        ("masked", {"name": "confidence", "greedy": True, "guidance": 0.5}, "--guidance: does nothing here"),
        ("uniform", {"guidance": 0.5}, "--guidance: is no option of --sampler uniform"),
        ("autoregressive", {"guidance": 0.5}, "--guidance: is no option of --sampler causal"),
    ],
)
def test_refusals(process, options, said):
    with pytest.raises(UsageError, match=said):
        sampler_of(process, **options)


def test_the_prior_of_a_model_with_forbidden_ids_is_finite(tiny_denoiser):
    model = tiny_denoiser(V=V, length=L)
    assert prior(model).isfinite().all()
