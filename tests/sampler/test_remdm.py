"""Remasking: the law of what is visible, the law of the text, and plain ancestral sampling at eta = 0."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.process.categorical import temper
from mcd.process.masked import reveal_probability
from mcd.process.schedule import Cosine, Linear, LogLinear
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.base import row_generator
from mcd.sampler.remdm import ReMDM

V, L = 23, 16
KINDS = ["cap", "rescale"]


def trajectory(sampler, model, rows, length=L, seed=0):
    return list(sampler.trajectory(model, torch.full((len(rows), length), model.mask_id), rows, seed))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.sampled_from(KINDS))
def test_what_is_visible_stays_what_the_schedule_says(a: float, b: float, eta: float, kind: str):
    """alpha_t (1 - sigma) + (1 - alpha_t) reveal = alpha_s, both are probabilities, and sigma is what the name says."""
    alpha_t, alpha_s = sorted((a, b))
    if alpha_t == 1.0:
        return
    sigma, reveal = ReMDM(remasking=kind, eta=eta).probabilities(alpha_t, alpha_s)
    assert alpha_t * (1 - sigma) + (1 - alpha_t) * reveal == pytest.approx(alpha_s, abs=1e-12)
    assert 0.0 <= sigma <= 1.0 and -1e-9 <= reveal <= 1 + 1e-9
    most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t else 1.0
    assert sigma == pytest.approx({"cap": min(eta, most), "rescale": eta * most}[kind])
    nothing, plain = ReMDM(remasking=kind, eta=0.0).probabilities(alpha_t, alpha_s)
    assert nothing == 0.0
    assert plain == pytest.approx(float(reveal_probability(torch.tensor(alpha_t), torch.tensor(alpha_s))), abs=1e-6)


def test_a_schedule_that_rounds_to_one_is_no_fault():
    assert ReMDM().probabilities(1.0, 1.0) == (0.0, 1.0)


@pytest.mark.parametrize("schedule", [LogLinear(), LogLinear(0.2), Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_at_eta_0_rows_are_those_of_ancestral(tiny_denoiser, schedule, kind):
    model = tiny_denoiser(V=V, length=L, schedule=schedule, time_conditioned=True).requires_grad_(False)
    plain = trajectory(Ancestral(9, temperature=0.8), model, range(6))
    states = trajectory(ReMDM(9, temperature=0.8, remasking=kind, eta=0.0), model, range(6))
    for a, b in zip(plain, states, strict=True):
        assert a.t == b.t
        assert torch.equal(a.z, b.z) and torch.equal(a.nfe, b.nfe)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [LogLinear(0.2), Cosine()], ids=repr)
@pytest.mark.parametrize("kind, eta", [("cap", 0.3), ("rescale", 0.6), ("rescale", 1.0)])
def test_visible_shares_and_moves_are_those_of_the_process(tiny_denoiser, schedule, kind, eta):
    """At every time the share that the schedule says; from step to step the two probabilities of the paper."""
    model = tiny_denoiser(V=V, length=L, schedule=schedule, layers=1).requires_grad_(False)
    sampler = ReMDM(6, remasking=kind, eta=eta, rows_per_call=400)
    states = trajectory(sampler, model, range(400))
    alpha_1 = float(schedule.alpha(torch.tensor(1.0, dtype=torch.float64)))

    def alpha(t):
        value = float(schedule.alpha(torch.tensor(t, dtype=torch.float64))) if t else 1.0
        return (value - alpha_1) / (1 - alpha_1)

    def close(hits, p):
        n = hits.numel()
        return abs(int(hits.sum()) - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-6

    for before, after in pairwise(states):
        was, now = before.z != V, after.z != V
        alpha_t, alpha_s = alpha(before.t), alpha(after.t)
        most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t else 1.0
        sigma = min(eta, most) if kind == "cap" else eta * most
        assert close(now, alpha_s)
        assert close(~now[was], sigma)
        assert close(now[~was], (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t))
    assert (states[-1].z < V).all()


def test_independent_tokens_keep_their_law_and_are_redrawn(oracle):
    """A perfect model of independent tokens: the text has their law however often it is masked again."""
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    model, n = oracle(torch.einsum("a,b->ab", *p)), 2000
    states = trajectory(ReMDM(8, remasking="rescale", eta=0.9, rows_per_call=500), model, range(n), 2)
    counts = torch.bincount(states[-1].z @ torch.tensor([3, 1]), minlength=9).double()
    expected = n * model.table.flatten()
    assert ((counts - expected) ** 2 / expected).sum() < 37.4  # 8 degrees of freedom: the 1 - 1e-5 quantile
    again = sum(((a.z != 3) & (b.z == 3)).double().mean().item() for a, b in pairwise(states))
    assert again > 0.5  # a token is masked again this often


def slow_row(sampler, model, row, seed):
    """One row, token by token, with full logits at every step."""
    generator = row_generator(seed, row)
    schedule = model.config.schedule
    w = (1 - torch.rand(L, dtype=torch.float64, generator=generator)).tolist()
    v = torch.rand(L, dtype=torch.float64, generator=generator).tolist()
    alpha = [float(schedule.alpha(torch.tensor(1 - n / sampler.steps, dtype=torch.float64))) for n in range(99)]
    alpha = [(a - alpha[0]) / (1 - alpha[0]) for a in alpha[: sampler.steps]] + [1.0]
    z, nfe = [V] * L, 0
    for n in range(sampler.steps):
        alpha_t, alpha_s = alpha[n], alpha[n + 1]
        sigma = min(sampler.eta, (1 - alpha_s) / alpha_t) if alpha_t else sampler.eta
        chance = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        log_p = model.log_x_theta(model.hidden(torch.tensor([z]), torch.tensor([1 - n / sampler.steps])))
        p = temper(log_p, sampler.temperature, sampler.top_p).exp()
        if sigma > 0:
            coin, new_w, new_v = (torch.rand(L, dtype=torch.float64, generator=generator).tolist() for _ in range(3))
        before = list(z)
        for i in range(L):
            if before[i] == V and w[i] <= chance:
                cdf = p[i].cumsum(0)
                z[i] = next(token for token in range(V) if v[i] < cdf[token] or token == V - 1)
            elif before[i] == V:
                w[i] = (w[i] - chance) / (1 - chance)
            elif sigma > 0 and 1 - coin[i] <= sigma:
                z[i], w[i], v[i] = V, 1 - new_w[i], 1 - new_v[i]
        nfe += any(a == V != b for a, b in zip(before, z, strict=True))
    return z, nfe


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine()], ids=repr)
@pytest.mark.parametrize("options", [{"eta": 0.2}, {"eta": 0.5, "temperature": 0.7, "top_p": 0.8}], ids=str)
def test_agrees_with_the_slow_twin(tiny_denoiser, schedule, options):
    model = tiny_denoiser(V=V, length=L, schedule=schedule, time_conditioned=True).requires_grad_(False)
    sampler = ReMDM(10, **options)
    ids, nfe = sample(sampler, model, 4, L, seed=5)
    for row in range(4):
        slow_ids, slow_nfe = slow_row(sampler, model, row, 5)
        assert ids[row].tolist() == slow_ids
        assert nfe[row] == slow_nfe


def test_given_tokens_are_never_masked(model):
    template = torch.full((L,), V)
    template[::3] = torch.arange(len(template[::3]))
    states = list(ReMDM(8, remasking="rescale", eta=1.0).trajectory(model, template.repeat(3, 1), range(3), 0))
    assert all(torch.equal(step.z[:, ::3], template[::3].expand(3, -1)) for step in states)
    assert any(((a.z != V) & (b.z == V)).any() for a, b in pairwise(states))


def test_stamps_tell_options_apart():
    stamps = {str(ReMDM(remasking=kind, eta=eta).protocol()) for kind in KINDS for eta in (0.0, 0.1)}
    assert len(stamps) == 4


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_bad_eta_is_named(eta):
    with pytest.raises(ValueError, match=f"--eta {eta}: must be in"):
        ReMDM(eta=eta)
