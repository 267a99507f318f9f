"""IDLM: its losses are the definition's, each trains one network, and the masks of its two ways have their laws."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mcd.data.languages.known import LANGUAGES
from mcd.eval.exact_denoiser import exact_denoiser
from mcd.objective import Clock
from mcd.objective.idlm import IDLM
from mcd.process.categorical import sample_inverse_cdf
from mcd.process.draws import Draws
from mcd.process.schedule import LogLinear

V, L = 23, 16
METHODS = [
    IDLM(),
    IDLM(renoise="posterior"),
    IDLM(times="independent", max_weight=2.0, t_min=0.1, order="low-discrepancy"),
]
FAKE, STUDENT = 0, 1
"""Steps of the first cycle."""


@pytest.fixture
def three(tiny_denoiser):
    """Student, teacher and fake of different weights, float64."""
    return tuple(tiny_denoiser(seed=seed).double() for seed in (0, 1, 2))


def draws_of(x0, seed=0, diffused=None):
    return Draws(torch.Generator().manual_seed(seed), *x0.shape, diffused=diffused)


def by_definition(method, three, x0, step):
    """The loss token by token, from all log-probs of all networks; all drawn numbers are drawn once more."""
    student, teacher, fake = three
    draws, mask_id, schedule = draws_of(x0), student.mask_id, student.config.schedule
    t, r, masked_t, masked_r = method._masks(draws, schedule)
    v = draws.uniform(L)
    z_t = torch.where(masked_t, mask_id, x0)
    log_p = student.log_x_theta(student.hidden(z_t, t)).view(*x0.shape, V)
    x, z_r = x0.clone(), x0.clone()
    for b, i in masked_t.nonzero().tolist():
        x[b, i] = sample_inverse_cdf(log_p[b, i][None].detach(), v[b, i][None])
    z_r = torch.where(masked_r, mask_id, x)
    log_fake, log_teacher = (m.log_x_theta(m.hidden(z_r, r)).view(*x0.shape, V) for m in (fake, teacher))
    total = torch.zeros((), dtype=torch.float64)
    for b, i in masked_r.nonzero().tolist():
        w = schedule.nelbo_weight(r[b]).clamp(max=method.max_weight).double() / x0.numel()
        p = log_p[b, i].exp()
        if step == FAKE and masked_t[b, i]:
            total = total + w * (p.detach() * (log_p[b, i].detach() - log_fake[b, i])).sum()
        elif step == FAKE:
            total = total + w * F.nll_loss(log_fake[b, i][None], x0[b, i][None])
        elif masked_t[b, i]:
            total = total + w * (p * (log_fake[b, i] - log_teacher[b, i]).detach()).sum()
    return total


@pytest.mark.parametrize("step", [FAKE, STUDENT], ids=["fake", "student"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.renoise}-{m.order}")
def test_loss_and_gradient_are_the_definitions_and_of_one_network(method, three, x0, step):
    student, teacher, fake = three
    found = method.loss(student, teacher, x0, Clock(step), draws_of(x0), fake=fake)
    expected = by_definition(method, three, x0, step)
    torch.testing.assert_close(found.total, expected, check_dtype=False, rtol=1e-6, atol=1e-9)
    learner = (fake, student)[step]
    gradients = torch.autograd.grad(expected, list(learner.parameters()))
    found.total.backward()
    for p, gradient in zip(learner.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-5, atol=1e-9)
    assert all(p.grad is None for model in three if model is not learner for p in model.parameters())


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.renoise}-{m.order}")
def test_a_fake_that_is_the_teacher_teaches_nothing(method, three, x0):
    """Exactly 0, loss and gradient, for any student: as in the first turn of a run."""
    student, teacher, _ = three
    loss = method.loss(student, teacher, x0, Clock(STUDENT), draws_of(x0), fake=copy.deepcopy(teacher))
    loss.total.backward()
    assert loss.total == 0.0 and all(p.grad.abs().max() == 0.0 for p in student.parameters())


def test_a_fake_that_predicts_what_the_student_does_has_only_given_tokens_to_learn(three, x0):
    """At r = t with the same u the fake sees what the student saw: its KL is 0 there, and the rest is none."""
    student, teacher, _ = three

    class Same(IDLM):
        def _masks(self, draws, schedule):
            t, _, masked, _ = super()._masks(draws, schedule)
            return t, t, masked, masked

    loss = Same().loss(student, teacher, x0, Clock(FAKE), draws_of(x0), fake=copy.deepcopy(student))
    assert abs(loss.total) < 1e-12 and loss.counts["tokens_given"] == 0 < loss.counts["tokens_drawn"]


def test_the_loss_may_be_negative(three, x0):
    """Teacher and fake exchanged: the same number with the other sign."""
    student, *others = three
    there, back = (
        IDLM().loss(student, teacher, x0, Clock(STUDENT), draws_of(x0), fake=fake).total
        for teacher, fake in (others, others[::-1])
    )
    assert there == -back != 0.0


def test_posterior_masks_are_those_of_a_sampler_that_goes_on():
    """What is visible at t stays visible, and a masked token stays masked with probability (1-alpha_r)/(1-alpha_t)."""
    schedule, method = LogLinear(), IDLM(renoise="posterior", calls=2)
    kept, expected, n = 0.0, 0.0, 0
    for seed in range(40):
        t, r, masked_t, masked_r = method._masks(Draws(torch.Generator().manual_seed(seed), 64, 50), schedule)
        assert not (masked_r & ~masked_t).any() and (r <= t).all() and (r > t - 0.5 - 1e-6).all()
        kept += float(masked_r.sum())
        expected += float((masked_t.sum(1) * (1 - schedule.alpha(r)) / (1 - schedule.alpha(t))).sum())
        n += int(masked_t.sum())
    assert n > 50_000 and abs(kept - expected) < 5 * (n / 4) ** 0.5


@pytest.mark.parametrize(("times", "share"), [("independent", 1 / 4), ("public", 1 / 3)])
def test_fresh_masks_know_nothing_of_those_before(times, share):
    """Given the times, a token is masked again at random: E[t r], or E[t^2] where both are of one stratum."""
    pairs, both = [], 0.0
    for seed in range(40):
        draws = Draws(torch.Generator().manual_seed(seed), 64, 50)
        t, r, masked_t, masked_r = IDLM(t_min=0.0, times=times)._masks(draws, LogLinear(eps=0.0))
        pairs.append(torch.stack((t, r)))
        both += float((masked_t & masked_r).double().mean()) / 40
    t, r = torch.cat(pairs, dim=1)
    assert (t != r).any() and both == pytest.approx(share, abs=0.01)
    if times == "public":
        assert (t - r).abs().max() <= 1 / 64
    else:
        assert abs(torch.corrcoef(torch.stack((t, r)))[0, 1]) < 0.1


@pytest.mark.heavy
def test_the_loss_of_one_call_is_the_divergence_of_two_laws():
    """A student that draws a row in one call, a teacher that is exact, and a fake that is exact for the student's rows.

    With independent times the mean loss is KL(law of the student || law of the teacher) of a row, over its L tokens:
    the difference of two bounds that are tight. With r = t = 1 it is that of single tokens, which is 0 here.
    """
    language, B, L = LANGUAGES["markov"](), 128, 4
    law = language.start
    alike = replace(language, name="alike", transition=law.expand(len(law), -1).clone())
    student, teacher = exact_denoiser(alike, L), exact_denoiser(language, L)

    class OneCall(IDLM):
        def _masks(self, draws, schedule):
            t, r, masked_t, masked_r = super()._masks(draws, schedule)
            one, everything = torch.ones_like(t), torch.ones_like(masked_t)
            return (one, r, everything, masked_r) if self.times == "independent" else (one, one, everything, everything)

    x0 = torch.zeros(B, L, dtype=torch.int64)
    found = {
        times: sum(
            OneCall(times=times, t_min=0.005)
            .loss(student, teacher, x0, Clock(STUDENT), draws_of(x0, seed), fake=student)
            .total.item()
            for seed in range(20)
        )
        / 20
        for times in ("independent", "public")
    }
    rows = torch.multinomial(law, 20_000 * L, replacement=True, generator=torch.Generator().manual_seed(0)).view(-1, L)
    divergence = (alike.log_likelihood(rows) - language.log_likelihood(rows)).mean().item() / L
    assert found["independent"] == pytest.approx(divergence, rel=0.08) and divergence > 1.0
    assert abs(found["public"]) < 1e-6


def test_turns_and_what_they_cost():
    method = IDLM(fake_turns=2)
    assert [method.turn(step) for step in range(7)] == [
        ("fake", 0), ("fake", 1), ("student", 0), ("fake", 2), ("fake", 3), ("student", 1), ("fake", 4),
    ]  # fmt: skip
    assert IDLM().schedule_of_round(0) == {"forwards": 4.5} and method.schedule_of_round(3) == {"forwards": 13 / 3}


def test_calls_of_the_networks(three, x0, calls_of):
    """A turn calls each network once, and only at rows that it needs."""
    student, teacher, fake = three
    seen = {name: calls_of(model) for name, model in (("student", student), ("teacher", teacher), ("fake", fake))}
    IDLM().loss(student, teacher, x0, Clock(FAKE), draws_of(x0), fake=fake)
    assert [len(calls) for calls in seen.values()] == [1, 0, 1]
    IDLM().loss(student, teacher, x0, Clock(STUDENT), draws_of(x0), fake=fake)
    assert [len(calls) for calls in seen.values()] == [2, 1, 2]
    (z, _, rows), (z_again, _, same) = seen["teacher"][0], seen["fake"][1]
    assert torch.equal(z, z_again) and torch.equal(rows, same) and (z.flatten()[rows] == student.mask_id).all()
