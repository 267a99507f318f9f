"""The sampler of models that are shown their noise, against a loop that draws one row at a time, token by token."""

import pytest
import torch

from mcd.model.prior import prior
from mcd.process.categorical import sample_inverse_cdf
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.base import row_generator
from mcd.sampler.locked import Locked

V, L = 23, 16


@pytest.fixture
def model(tiny_denoiser):
    return tiny_denoiser(V=V, length=L, time_conditioned=True, process="locked").requires_grad_(False)


def numbers(sampler, wanted, row, seed):
    """u, v and what fresh draws are made of, (L,) each, of a row whose `wanted` tokens are drawn."""
    stream, alpha_1 = row_generator(seed, row), 1e-3
    u = sampler.thresholds(wanted[None], [stream], alpha_1)[0]
    return u, *(torch.rand(L, dtype=torch.float64, generator=stream) for _ in range(2))


def slow_row(model, sampler, template, row, seed):
    """The tokens of a row and its calls, by a loop over all steps."""
    z, calls, N = template.clone(), 0, sampler.steps
    u, v, fresh = numbers(sampler, template == V, row, seed)
    draft = [int((model.locked.prior.double().exp().cumsum(0) > x).nonzero()[0]) for x in v]
    for k in range(N):
        t, s = 1 - k / N, 1 - (k + 1) / N
        alpha_s = 1.0 if k + 1 == N else 1 - 0.999 * s
        due = [i for i in range(L) if z[i] == V and u[i] <= alpha_s]
        if not due:
            continue
        calls += 1
        masked = (z == V)[None]
        noise = model.noise(masked, torch.tensor([draft]), u[None], v[None])
        logits = model.logits(model.hidden(z[None], torch.tensor([t]), noise))
        for i in range(L):
            if z[i] == V:
                likeliest = sampler.greedy or i not in due
                draft[i] = int(logits[i].argmax() if likeliest else sample_inverse_cdf(logits[i][None], fresh[i][None]))
        for i in due:
            z[i] = draft[i]
    return z, calls


@pytest.mark.parametrize("order", ["iid", "low-discrepancy"])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
def test_agrees_with_rows_one_at_a_time(model, steps, greedy, order):
    template = torch.full((L,), V)
    for given in (template, template.index_fill(0, torch.tensor([0, 5, 6]), 7)):
        sampler = Locked(steps, rows_per_call=3, greedy=greedy, order=order)
        ids, nfe = sample(sampler, model, 7, L, seed=3, template=given)
        for row in range(7):
            slow, calls = slow_row(model, sampler, given, row, 3)
            assert torch.equal(ids[row], slow) and nfe[row] == calls


def test_a_student_that_has_learnt_nothing_yet_draws_as_its_teacher_does(tiny_denoiser):
    """Its noise adds nothing: what is drawn anew, not locked, has the teacher's law, here of one certain token."""
    teacher, student = tiny_denoiser(scale=30.0), tiny_denoiser(scale=30.0)
    student.add_locked(("draft", "when"), prior(student, L))
    of_teacher, _ = sample(Ancestral(4, temperature=1e-4, order="low-discrepancy"), teacher, 5, L)
    for options in ({"greedy": True}, {"temperature": 1e-4}):
        of_student, _ = sample(Locked(4, **options), student, 5, L)
        assert torch.equal(of_student, of_teacher)


def test_the_protocol_says_that_a_greedy_draw_is_cold():
    assert Locked(4, greedy=True, temperature=0.7).protocol()["temperature"] == 0.0
    assert Locked(4, temperature=0.7).protocol()["temperature"] == 0.7


@pytest.mark.parametrize("kind", [Ancestral, Locked])
def test_a_sampler_for_another_kind_is_refused(kind, model, tiny_denoiser):
    other = model if kind is Ancestral else tiny_denoiser(V=V, length=L)
    with pytest.raises(ValueError, match=f"--sampler {kind.name}: draws from .* models, not"):
        sample(kind(2), other, 1, L)
