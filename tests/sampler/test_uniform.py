"""The uniform sampler: the law of what it makes for an exact network, greedy tails, templates, and a slow twin."""

import itertools
import math

import pytest
import torch
from scipy import stats

from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.process.categorical import sample_inverse_cdf
from mcd.process.schedule import Linear, LogLinear
from mcd.process.uniform import posterior_zs
from mcd.sampler import sample
from mcd.sampler.base import row_generator
from mcd.sampler.uniform import Uniform

V, L = 3, 2


class Exact(Denoiser):
    """x_theta_i = p(x0_i | z_t without its token i) for rows of two tokens of a known law p (V, V)."""

    def __init__(self, p, schedule):
        backbone = DiTConfig(rows=V, hidden=2, layers=1, heads=1, length=L, cond_dim=2)
        super().__init__(DenoiserConfig(backbone, None, schedule))
        self.p = p

    def prediction(self, z_t, t):
        """(B, 2, V)."""
        alpha = self.config.schedule.alpha(t.double())[:, None, None]
        likelihood = alpha * torch.nn.functional.one_hot(z_t, V) + (1 - alpha) / V
        x = torch.stack((likelihood[:, 1] @ self.p.T, likelihood[:, 0] @ self.p), 1)
        return x / x.sum(-1, keepdim=True)

    def hidden(self, z_t, t, noise=None, rows=None, group=None):
        return self.prediction(z_t, t).flatten(0, 1)[rows]

    def logits(self, hidden, first=None):
        return hidden[:first].clamp(min=1e-300).log()


@pytest.fixture(params=[LogLinear(), Linear()], ids=repr)
def exact(request, seeded):
    p = torch.softmax(1.7 * torch.randn(V * V, dtype=torch.float64, generator=seeded(0)), 0).view(V, V)
    return Exact(p, request.param)


def law_of(exact, steps, tail="sampled"):
    """The exact law (V, V) of the sampler's rows: one transition matrix over the V^2 states per step."""
    z = torch.tensor(list(itertools.product(range(V), repeat=2)))
    now = torch.full((len(z),), 1 / len(z), dtype=torch.float64)
    end = 1e-5 if tail == "greedy" else 0.0
    times = [1 - (1 - end) * n / steps for n in range(steps + 1)] + [0.0] * (tail == "greedy")
    for n, (t, s) in enumerate(itertools.pairwise(torch.tensor(times, dtype=torch.float64))):
        alpha_t = exact.config.schedule.alpha(t) if n else torch.zeros_like(t)
        alpha_s = exact.config.schedule.alpha(s) if n < len(times) - 2 else torch.ones_like(s)
        x = exact.prediction(z, t.expand(len(z)))
        q = posterior_zs(z, x, alpha_t.expand(z.shape), alpha_s.expand(z.shape))
        if tail == "greedy" and n == steps:
            q = torch.nn.functional.one_hot(x.argmax(-1), V).double()
        now = now @ (q[:, 0][:, z[:, 0]] * q[:, 1][:, z[:, 1]])
    return now


@pytest.mark.heavy
@pytest.mark.parametrize("tail", ["sampled", "greedy"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_rows_have_the_law_of_the_reverse_process(exact, steps, tail):
    n, p = 4000, law_of(exact, steps, tail)
    ids, nfe = sample(Uniform(steps, tail=tail, rows_per_call=500), exact, n, L, seed=2)
    counts = torch.bincount(ids @ torch.tensor([V, 1]), minlength=V * V)
    assert (counts[p < 1e-12] == 0).all()
    seen = p > 1e-12
    if seen.sum() > 1:
        assert stats.chisquare(counts[seen].numpy(), n * p[seen].numpy(), sum_check=False).pvalue > 1e-4
    assert (nfe == steps + (tail == "greedy")).all()


def test_rows_tend_to_the_data_as_steps_grow(exact):
    distance = [(law_of(exact, n) - exact.p.flatten()).abs().sum().item() / 2 for n in (1, 2, 4, 16, 64)]
    assert all(b < a for a, b in itertools.pairwise(distance))
    assert distance[0] > 0.1 and distance[-1] < 0.01


@pytest.mark.slow
def test_predictor_corrector_rows_tend_to_the_data_too(exact):
    n = 3000
    ids, _ = sample(Uniform(32, kappa=0.8, rows_per_call=500), exact, n, L, seed=5)
    frequency = torch.bincount(ids @ torch.tensor([V, 1]), minlength=V * V) / n
    assert (frequency - exact.p.flatten()).abs().sum() / 2 < 0.05


def test_agrees_with_a_slow_twin(tiny_denoiser):
    """One row, one token at a time, from the posterior and the row's own stream."""
    model = tiny_denoiser(V=11, length=8, process="uniform", time_conditioned=True).requires_grad_(False)
    steps, schedule = 5, model.config.schedule
    template = torch.full((8,), 11)
    template[2] = 7
    fast, _ = sample(Uniform(steps), model, 3, 8, seed=3, template=template)
    for row in range(3):
        stream = row_generator(3, row)
        z = (torch.rand(8, dtype=torch.float64, generator=stream) * 11).long()
        z[2] = 7
        for n in range(steps):
            t, s = 1 - n / steps, 1 - (n + 1) / steps
            alpha_t, alpha_s = (schedule.alpha(torch.tensor(time, dtype=torch.float64)) for time in (t, s))
            v = torch.rand(8, dtype=torch.float64, generator=stream)
            x = model.log_x_theta(model.hidden(z[None], torch.tensor([t]))).double().softmax(-1)
            after = z.clone()
            for i in range(8):
                level_t = alpha_t if n else torch.zeros_like(alpha_t)
                level_s = alpha_s if n < steps - 1 else torch.ones_like(alpha_s)
                q = posterior_zs(z[i : i + 1], x[i : i + 1], level_t[None], level_s[None])
                after[i] = 7 if i == 2 else sample_inverse_cdf(q.log(), v[i : i + 1])[0]
            z = after
        assert torch.equal(z, fast[row])


def test_one_step_draws_from_the_prediction_at_noise(tiny_denoiser):
    model = tiny_denoiser(V=11, length=1, process="uniform").requires_grad_(False)
    n = 6000
    ids, _ = sample(Uniform(1, rows_per_call=500), model, n, 1, seed=1)
    start = torch.stack(
        [(torch.rand(1, dtype=torch.float64, generator=row_generator(1, r)) * 11).long() for r in range(n)]
    )
    p = model.log_x_theta(model.hidden(start, torch.ones(n))).exp().mean(0)
    assert (
        stats.chisquare(torch.bincount(ids[:, 0], minlength=11).numpy(), n * p.numpy(), sum_check=False).pvalue > 1e-4
    )


def test_greedy_tail_is_the_argmax_of_one_more_call(tiny_denoiser):
    model = tiny_denoiser(V=11, length=8, process="uniform", time_conditioned=True).requires_grad_(False)
    z = torch.full((4, 8), 11)
    *_, before, last = Uniform(6, tail="greedy").trajectory(model, z, range(4), 0)
    prediction = model.log_x_theta(model.hidden(before.z, torch.full((4,), 1e-5)))
    assert torch.equal(last.z, prediction.argmax(-1).view(4, 8))
    assert before.t == pytest.approx(1e-5) and last.t == 0.0 and (last.nfe == 7).all()
    *_, sampled = Uniform(6).trajectory(model, z, range(4), 0)
    assert (before.z == sampled.z).double().mean() > 0.9  # the same steps but for the shift of the grid


def test_given_tokens_are_shown_at_every_step(tiny_denoiser):
    model = tiny_denoiser(V=11, length=8, process="uniform").requires_grad_(False)
    z = torch.full((3, 8), 11)
    z[:, 4] = 6
    for step in Uniform(5, kappa=0.5).trajectory(model, z, range(3), 0):
        assert (step.z[:, 4] == 6).all() and (step.z < 11).all()
    assert (z[:, 0] == 11).all()  # the request is not written on


def test_low_temperature_sharpens_the_prediction(seeded):
    """One step at temperature 1/2 squares the marginals (alpha_1 = 0: the prediction at t = 1 is the marginal)."""
    p = torch.softmax(1.7 * torch.randn(V * V, dtype=torch.float64, generator=seeded(0)), 0).view(V, V)
    ids, _ = sample(Uniform(1, temperature=0.5, rows_per_call=500), Exact(p, Linear()), 4000, L, seed=3)
    squared = p.sum(1) ** 2 / (p.sum(1) ** 2).sum()
    counts = torch.bincount(ids[:, 0], minlength=V).numpy()
    assert stats.chisquare(counts, 4000 * squared.numpy(), sum_check=False).pvalue > 1e-4


@pytest.mark.parametrize(
    "options, option",
    [({"kappa": -0.1}, "--kappa -0.1"), ({"kappa": 1.1}, "--kappa 1.1"), ({"kappa": math.nan}, "--kappa")],
)
def test_bad_options_are_named(options, option):
    with pytest.raises(ValueError, match=option):
        Uniform(**options)


def test_the_protocol_tells_tail_and_kappa():
    stamp = Uniform(4, tail="greedy", kappa=0.9).protocol()
    assert stamp["tail"] == "greedy" and stamp["kappa"] == 0.9
