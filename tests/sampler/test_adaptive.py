"""Samplers that choose how many tokens a call reveals: what their bounds promise, and what they are at their limits."""

import math
from dataclasses import fields
from itertools import pairwise

import pytest
import torch

from mcd.data.languages.known import grammar, hmm
from mcd.eval.exact_denoiser import exact_denoiser
from mcd.options import fault
from mcd.process.schedule import Cosine, LogLinear
from mcd.sampler import sample
from mcd.sampler.cad import CAD
from mcd.sampler.confidence import Confidence, score_of_log_p
from mcd.sampler.entropy_bounded import EntropyBounded
from mcd.sampler.klass import KLASS, divergence

V, L = 23, 16
ENDLESS = 1e300


def rows(sampler, model, num=6, length=L):
    return sample(sampler, model, num, length, seed=3)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("score", ["top", "margin", "entropy"])
@pytest.mark.parametrize("steps", [5, L])
def test_a_budget_of_0_is_confidence(model, score, steps):
    """Bit for bit, in its order; and with as many steps as tokens one token a call."""
    found = rows(EntropyBounded(steps, score=score, gamma=0.0), model)
    assert equal(found, rows(Confidence(steps, score=score), model))
    assert (found[1] == steps).all()


def test_a_budget_without_end_is_one_call(model):
    """The draws are then those of one step of any sampler with the same v."""
    ids, nfe = rows(EntropyBounded(L, gamma=ENDLESS), model)
    assert (nfe == 1).all()
    assert torch.equal(ids, rows(Confidence(1), model)[0])


def test_certain_tokens_cost_nothing():
    """Every other token is certain once one is known: two calls at a budget of 0, the first for one token."""
    model = exact_denoiser(hmm(), L)

    def certain(z, t, noise=None, rows=None, group=None):
        log_p = torch.full((*z.shape, 32), -math.inf)
        known = (z < 32).any(1)
        log_p[known, :, 5] = 0.0
        log_p[~known] = -math.log(32)
        return log_p.flatten(0, 1) if rows is None else log_p.flatten(0, 1)[rows]

    model.hidden, model.logits = certain, lambda hidden, first=None: hidden[:first]
    ids, nfe = rows(EntropyBounded(L, gamma=0.0), model)
    assert (nfe == 2).all() and ((ids == 5).sum(1) >= L - 1).all()


@pytest.mark.parametrize("language", [hmm, grammar], ids=["hmm", "grammar"])
@pytest.mark.parametrize("gamma", [0.5, 4.0, 12.0])
def test_what_a_call_loses_is_within_the_budget(language, gamma):
    """On a known language: the KL divergence of the joint law of the tokens of a call from the product of their
    marginals, as log p(x_U | z) - sum log p(x_l | z) averaged over fresh draws from the truth, and the bound itself."""
    truth, length = language(), 10
    model, sampler = exact_denoiser(truth, length), EntropyBounded(length, gamma=gamma)
    x0 = truth.sample_rows(400, length, torch.Generator().manual_seed(0))
    steps = list(sampler.trajectory(model, torch.full((4, length), truth.vocab_size), range(4), 1))
    counted, gaps = 0, []
    for before, after in pairwise(steps):
        for z, z_next in zip(before.z, after.z, strict=True):
            U = ((z == truth.vocab_size) & (z_next != truth.vocab_size)).nonzero()[:, 0]
            if not len(U):
                continue
            log_p = model.log_x_theta(model.hidden(z[None], torch.ones(1)))
            H = -score_of_log_p(log_p, "entropy")[U]
            assert (H.sum() - H.max()).item() <= gamma + 1e-9
            counted += len(U)
            if (z == truth.vocab_size).all():  # the first call of a row: z says nothing, so truth is a fresh draw
                joint = torch.full_like(x0, truth.vocab_size)
                joint[:, U] = x0[:, U]
                marginal = log_p[U].double()[torch.arange(len(U)), x0[:, U]].sum(1)
                gaps.append((log_likelihood_of_visible(truth, joint) - marginal).mean().item())
    assert counted == 4 * length and len(gaps) == 4
    assert max(gaps) <= gamma + 0.1  # the mean of 400 draws
    if gamma == 12.0:
        assert max(gaps) > 0.1  # there is something to lose


def log_likelihood_of_visible(language, z):
    """log p of the visible tokens of rows, the others summed out: by one forward pass, token by token."""
    V, T, E = language.vocab_size, language.transition, language.emission
    state, total = language.start.expand(len(z), -1), torch.zeros(len(z), dtype=torch.float64)
    for i in range(z.shape[1]):
        state = state @ T if i else state
        seen = torch.where(z[:, i, None] == V, torch.ones((), dtype=torch.float64), E.T[z[:, i].clamp(max=V - 1)])
        state = state * seen
        total += state.sum(1).log()
        state = state / state.sum(1, keepdim=True)
    return total


def test_calls_fall_as_the_budget_grows(model):
    calls = [rows(EntropyBounded(L, gamma=gamma), model)[1].double().mean() for gamma in (0.0, 3.0, 9.0, 30.0)]
    assert calls == sorted(calls, reverse=True) and calls[0] == L and calls[-1] < L / 2


@pytest.mark.parametrize("sampler", [EntropyBounded(5, gamma=2.0), KLASS(5, threshold=0.05, history=1)], ids=str)
def test_steps_bound_the_calls(model, sampler):
    _, nfe = rows(sampler, model)
    assert (nfe <= 5).all()


@pytest.mark.parametrize("steps", [5, L])
def test_klass_that_is_never_sure_is_confidence(model, steps):
    assert equal(rows(KLASS(steps, threshold=1.0), model), rows(Confidence(steps), model))
    assert equal(rows(KLASS(steps, threshold=0.0, kl_threshold=1e-300), model), rows(Confidence(steps), model))


@pytest.mark.parametrize("history", [0, 1, 3])
def test_klass_that_is_always_sure_reveals_all_after_its_history(model, history):
    _, nfe = rows(KLASS(L, threshold=0.0, kl_threshold=ENDLESS, history=history), model)
    assert (nfe == history + 1).all()


@pytest.mark.parametrize("options", [{}, {"block": 4, "score": "margin"}, {"greedy": True}])
def test_klass_without_a_history_is_a_threshold_without_a_cap(model, options):
    """That of `cad`, if it has a step for each token. (No score here is the threshold itself.)"""
    found = rows(KLASS(L, threshold=0.06, history=0, **options), model)
    assert equal(found, rows(CAD(L, threshold=0.06, cap=L, **{"block": 0, **options}), model))
    assert (found[1] < L).any()


def slow_row(sampler, model, row, length):
    """One row with all predictions kept, in plain numbers: probabilities, divergences and sums one after another."""
    from mcd.sampler.base import row_generator

    generator = row_generator(3, row)
    v, chance = (torch.rand(length, dtype=torch.float64, generator=generator) for _ in range(2))
    z, nfe, size = torch.full((length,), V), 0, sampler.block or length
    for low in range(0, length, size):
        high = min(length, low + size)
        budget, past = high * sampler.steps // length - low * sampler.steps // length, []
        for left in range(budget, 0, -1):
            candidates = [i for i in range(low, high) if z[i] == V]
            if not candidates:
                continue
            visible = torch.tensor(int((z != V).sum()) / length, dtype=torch.float64)
            t = min(1.0, model.config.schedule.t_of_alpha(visible).item())
            log_p = model.log_x_theta(model.hidden(z[None], torch.tensor([t])))
            p, nfe = log_p.double().exp().tolist(), nfe + 1
            past.append(p)
            sure = {i: of_score(p[i], sampler.score) for i in candidates}
            order = sorted(candidates, key=lambda i: (-round(sure[i] * 1e4), chance[i].item()))
            count = math.ceil(len(candidates) / left)
            if isinstance(sampler, EntropyBounded):
                H = [-of_score(p[i], "entropy") for i in order]
                count = max(count, max(n for n in range(1, len(H) + 1) if sum(H[:n]) - max(H[:n]) <= sampler.gamma))
            else:
                calm = {
                    i
                    for i in candidates
                    if len(past) > sampler.history
                    and all(kl(b[i], a[i]) < sampler.kl_threshold for a, b in list(pairwise(past))[-sampler.history :])
                }
                ready = [i for i in order if i in calm and sure[i] > sampler.threshold]
                order = ready + [i for i in order if i not in ready]
                count = max(count, len(ready))
            for i in order[:count]:
                cdf = log_p[i].double().exp().cumsum(0)
                z[i] = next(token for token in range(V) if v[i] < cdf[token] / cdf[-1] or token == V - 1)
    return z, nfe


def of_score(p, score):
    ranked = sorted(p, reverse=True)
    if score == "entropy":
        return sum(x * math.log(x) for x in ranked if x > 0)
    return ranked[0] - (ranked[1] if score == "margin" else 0.0)


def kl(p, q):
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


@pytest.mark.parametrize(
    "sampler",
    [
        EntropyBounded(L, gamma=6.0),
        EntropyBounded(9, gamma=4.0, score="margin", block=7),
        EntropyBounded(L, gamma=3.0, score="top"),
        KLASS(L, threshold=0.07, kl_threshold=0.01, history=1),
        KLASS(L, threshold=0.065, kl_threshold=0.02, history=2, block=8),
        KLASS(7, threshold=0.02, kl_threshold=0.005, history=1, score="margin"),
    ],
    ids=str,
)
@pytest.mark.parametrize("schedule", [LogLinear(), pytest.param(Cosine(), marks=pytest.mark.slow)], ids=repr)
def test_agrees_with_the_slow_twin(tiny_denoiser, sampler, schedule):
    model = tiny_denoiser(V=V, length=L, schedule=schedule, time_conditioned=True).requires_grad_(False)
    ids, nfe = rows(sampler, model, 4)
    for row in range(4):
        slow_ids, slow_nfe = slow_row(sampler, model, row, L)
        assert ids[row].tolist() == slow_ids.tolist() and nfe[row] == slow_nfe
    assert (nfe < sampler.steps).any() or sampler.steps < L  # the rule was at work


def test_divergence(seeded):
    p, q = (torch.log_softmax(3 * torch.randn(20, V, generator=seeded(i)), -1) for i in range(2))
    expected = torch.tensor(
        [kl(a, b) for a, b in zip(p.double().exp().tolist(), q.double().exp().tolist(), strict=True)]
    )
    torch.testing.assert_close(divergence(p, q).float(), expected.float(), rtol=1e-5, atol=1e-6)
    assert (divergence(p, p) == 0.0).all()
    one, two = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert divergence(one, one) == 0.0 and divergence(one, two) == math.inf


def test_stamps_tell_options_apart():
    bounded = [{}, {"gamma": 1.0}, {"score": "top"}, {"block": 4}, {"greedy": True}]
    assert len({str(EntropyBounded(**options).protocol()) for options in bounded}) == len(bounded)
    stable = [{}, {"threshold": 0.5}, {"kl_threshold": 0.1}, {"history": 1}, {"score": "margin"}]
    assert len({str(KLASS(**options).protocol()) for options in stable}) == len(stable)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (EntropyBounded, {"gamma": -0.1}, "--gamma -0.1: must be at least 0"),
        (EntropyBounded, {"gamma": math.inf}, "--gamma inf: must be at least 0 and finite"),
        (KLASS, {"threshold": 1.5}, "--threshold 1.5: must be in"),
        (KLASS, {"kl_threshold": 0.0}, "--kl-threshold 0.0: must be positive"),
        (KLASS, {"history": -1}, "--history -1: must be at least 0"),
    ],
)
def test_bad_options_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    ("kind", "score", "message"),
    [(EntropyBounded, "random", "entropy, top or margin"), (KLASS, "entropy", "top or margin")],
)
def test_not_every_score_has_a_meaning(kind, score, message):
    (hint,) = [field.type for field in fields(kind) if field.name == "score"]
    assert fault(score, hint) == message
