"""CD4LM's discrete-space consistency distillation: masks by exact counts, the loss written out, the schedule."""

import math
from dataclasses import replace

import pytest
import torch

from mcd.objective.cd4lm import CD4LM

V, L, B = 23, 16, 6


@pytest.fixture
def states(calls_of, loss_of):
    """(z, t) that student and teacher are given."""

    def given(objective, models, x0, seed=0):
        seen = calls_of(*models)
        loss_of(objective, models, x0, seed)
        return [(z, t) for z, t, _ in seen]

    return given


def counts_by_hand(objective, length, a, b):
    """The public rule for one row, from its two uniform draws."""
    r_s = objective.student_min + (objective.student_max - objective.student_min) * a
    r_t = r_s * (objective.share_min + (objective.share_max - objective.share_min) * b)
    r_t = max(objective.teacher_min, min(objective.teacher_max, r_t))
    n_s = min(length, max(int(length * r_s), 2, math.ceil(0.1 * length)))
    return n_s, min(n_s, int(length * r_t))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 64, 1000])
@pytest.mark.parametrize(
    "options", [{}, {"student_min": 0.0, "student_max": 0.1}, {"share_min": 0.0, "share_max": 0.1}]
)
def test_counts_follow_the_rule(seeded, length, options):
    objective = CD4LM(**options)
    a, b = torch.rand(2, 200, dtype=torch.float64, generator=seeded(0))
    n_s, n_t = objective.counts(a, b, torch.full((200,), length))
    a, b = a.tolist(), b.tolist()
    for n in range(200):
        expected_s, expected_t = counts_by_hand(objective, length, a[n], b[n])
        assert n_s[n] == expected_s
        r_s = objective.student_min + (objective.student_max - objective.student_min) * a[n]
        # Below teacher_min the teacher is to see no more than the student: equal masks.
        assert n_t[n] == (expected_t if r_s > objective.teacher_min else expected_s)
    assert ((n_t >= 0) & (n_t <= n_s) & (n_s >= 1) & (n_s <= length)).all()


def test_ratios_have_their_laws(seeded):
    """r_S uniform on (.4, .9) and r_T / r_S uniform on (.3, .7) where r_T is not cut: mean and variance, and range."""
    n, length = 20_000, 100_000
    n_s, n_t = CD4LM().counts(*torch.rand(2, n, dtype=torch.float64, generator=seeded(0)), torch.full((n,), length))
    r_s, share = n_s / length, n_t / n_s
    assert (n_t / length).max() <= 0.6 and (n_t / length).min() >= 0.1
    cut = n_t == 60_000
    assert 0 < cut.sum() < 0.01 * n
    for value, low, high in ((r_s, 0.4, 0.9), (share, 0.3, 0.7)):
        assert low - 1e-4 < value.min() and value.max() < high + 1e-4
        assert abs(value.mean() - (low + high) / 2) < 4.5 * (high - low) / math.sqrt(12 * n) + 1e-3
        assert value.var().item() == pytest.approx((high - low) ** 2 / 12, rel=0.05)
    assert abs(torch.corrcoef(torch.stack((r_s, share)))[0, 1]) < 4.5 / math.sqrt(n) + 0.01


@pytest.mark.heavy
def test_masks_nest_and_have_the_exact_counts(pair_of_models, x0, seeded, states):
    objective = CD4LM()
    for seed in range(20):
        (z_s, _), (z_t, _) = states(objective, pair_of_models, x0, seed)
        n_s, n_t = objective.counts(*torch.rand(2, B, dtype=torch.float64, generator=seeded(seed)), torch.full((B,), L))
        assert torch.equal((z_s == V).sum(1), n_s) and torch.equal((z_t == V).sum(1), n_t)
        assert ((z_t == V) <= (z_s == V)).all()
        for z in (z_s, z_t):
            assert torch.equal(z[z != V], x0[z != V])


def test_every_place_is_masked_as_often(tiny_denoiser, states):
    rows, models = 4000, (tiny_denoiser(V=3, hidden=4, layers=1),) * 2
    one_count = CD4LM(student_min=0.5, student_max=0.5, share_min=0.5, share_max=0.5)
    x0 = torch.zeros(rows, L, dtype=torch.int64)
    (z_s, _), (z_t, _) = states(one_count, (models[0], tiny_denoiser(V=3, hidden=4, layers=1)), x0)
    for z, p in ((z_s, 0.5), (z_t, 0.25)):
        often = (z == 3).sum(0)
        assert (often - rows * p).abs().max() < 5 * math.sqrt(rows * p * (1 - p))


def test_a_time_input_is_told_the_share_masked(tiny_denoiser, x0, states):
    models = (tiny_denoiser(time_conditioned=True), tiny_denoiser(time_conditioned=True, seed=1))
    for z, t in states(CD4LM(), models, x0):
        schedule = models[0].config.schedule
        torch.testing.assert_close(1 - schedule.alpha(t), (z == V).sum(1) / L)
    everything = CD4LM(student_min=1.0, student_max=1.0)
    (_, t), _ = states(everything, models, x0)
    assert (t == 1.0).all()  # the log-linear schedule masks 99.9 % at most


def slow_twin(objective, student, teacher, z_s, z_t, times, x0, weight):
    """Both terms, row by row in float64 from raw logits."""
    T = objective.temperature
    s_logits = student.logits(student.hidden(z_s, times[0])).view(*z_s.shape, V).double()
    with torch.no_grad():
        t_logits = teacher.logits(teacher.hidden(z_t, times[1])).view(*z_s.shape, V).double()
    kl = ce = torch.zeros((), dtype=torch.float64)
    for b in range(z_s.shape[0]):
        for i in range(z_s.shape[1]):
            if z_s[b, i] == V:
                p, q = (torch.softmax(logits[b, i] / T, 0) for logits in (s_logits, t_logits))
                if objective.region == "student" or z_t[b, i] == V:
                    kl = kl + T * T * (q * (q / p).log()).sum()
                ce = ce - torch.softmax(s_logits[b, i], 0)[x0[b, i]].log()
    return weight * kl / z_s.numel(), (1 - weight) * ce / z_s.numel()


@pytest.mark.parametrize("progress", [0.0, 0.6])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("region", ["student", "both"])
def test_agrees_with_the_loss_written_out(tiny_denoiser, x0, progress, temperature, region, loss_of, states):
    student, teacher = (tiny_denoiser(seed=seed, time_conditioned=region == "both") for seed in (0, 1))
    objective = CD4LM(temperature=temperature, region=region)
    (z_s, s_time), (z_t, t_time) = states(objective, (student, teacher), x0, seed=7)
    loss = loss_of(objective, (student, teacher), x0, seed=7, progress=progress)
    weight = objective.at_progress(progress)
    kl, ce = slow_twin(objective, student, teacher, z_s, z_t, (s_time, t_time), x0, weight)
    torch.testing.assert_close(loss.terms["distillation"], kl.detach().float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.terms["reconstruction"], ce.detach().float(), rtol=1e-4, atol=1e-6)
    masked_s, masked_t = z_s == V, z_t == V
    assert {name: int(count) for name, count in loss.counts.items()} == {
        "tokens_distilled": int(masked_t.sum()),
        "tokens_revealed": int((masked_s & ~masked_t).sum()),
        "tokens_visible": int((~masked_s).sum()),
    }
    names, weights = zip(*student.named_parameters(), strict=True)
    fast, slow = (torch.autograd.grad(value, weights) for value in (loss.total, kl + ce))
    for name, a, b in zip(names, fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


def test_the_square_of_the_temperature_keeps_the_gradient(pair_of_models, x0, loss_of, states):
    """At high T, T^2 KL is half the variance over V of the logits' difference (Hinton et al.): T drops out of it."""
    student, teacher = pair_of_models
    hot = replace(CD4LM(), lambda_start=1.0, lambda_end=1.0)
    (z_s, t), (z_t, _) = states(hot, pair_of_models, x0)
    logits = [m.logits(m.hidden(z, t)).view(B, L, V)[z_s == V] for m, z in ((student, z_s), (teacher, z_t))]
    limit = 0.5 * (logits[0] - logits[1].detach()).var(-1, unbiased=False).sum() / (B * L)
    weight = student.backbone.head.linear.weight
    (expected,) = torch.autograd.grad(limit, weight)
    for temperature in (100.0, 400.0):
        loss = loss_of(replace(hot, temperature=temperature), pair_of_models, x0)
        assert loss.total.item() == pytest.approx(limit.item(), rel=0.05)
        (gradient,) = torch.autograd.grad(loss.total, weight)
        assert gradient.norm().item() == pytest.approx(expected.norm().item(), rel=0.05)


def test_the_weight_stays_and_then_follows_a_cosine():
    objective = CD4LM()
    for progress, value in ((0.0, 0.9), (0.0999, 0.9), (0.1, 0.9), (0.55, 0.7), (1.0, 0.5)):
        assert objective.at_progress(progress) == pytest.approx(value, abs=1e-12)
    quarter = 0.1 + 0.9 / 4
    assert objective.at_progress(quarter) == pytest.approx(0.5 + 0.4 * (1 + math.sqrt(0.5)) / 2)
    rising = CD4LM(lambda_start=0.0, lambda_end=0.5, lambda_hold=0.0)
    assert [rising.at_progress(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.25, 0.5])


def test_the_teacher_is_not_certain_where_it_sees(tiny_denoiser, x0, loss_of, states):
    """A teacher that sees all still gives its raw prediction: the KL is finite and far from -log p(x0)."""
    models = (tiny_denoiser(), tiny_denoiser())
    sees_all = CD4LM(share_min=0.0, share_max=0.0, teacher_min=0.0, lambda_start=0.5, lambda_hold=0.5, temperature=1.0)
    _, (z_t, _) = states(sees_all, models, x0)
    assert torch.equal(z_t, x0)
    loss = loss_of(sees_all, models, x0)
    assert loss.counts["tokens_revealed"] > 0 == loss.counts["tokens_distilled"]
    assert not torch.isclose(loss.terms["distillation"], loss.terms["reconstruction"], rtol=0.05)  # SUBS: equal


@pytest.mark.parametrize("clamp", [None, 5.0])
def test_a_teacher_that_sees_all_leaves_the_cross_entropy(pair_of_models, x0, clamp, loss_of):
    """Rows of one or two tokens: the teacher may have no mask, and "both" then nothing to distil."""
    for seed in range(5):
        loss = loss_of(CD4LM(region="both", clamp=clamp), pair_of_models, x0[:, :1], seed=seed)
        assert loss.terms["distillation"] == 0.0 < loss.terms["reconstruction"]


@pytest.mark.heavy
@pytest.mark.parametrize("length", [1, 2, 3, 4, 16])
def test_without_gap_nothing_is_left(tiny_denoiser, x0, length, loss_of):
    objective = CD4LM().without_gap()
    assert isinstance(objective, CD4LM)
    for seed in range(10):
        loss = loss_of(objective, (tiny_denoiser(), tiny_denoiser()), x0[:, :length], seed, progress=0.7)
        assert abs(loss.terms["distillation"].item()) < 1e-7 and loss.terms["reconstruction"] == 0.0
        assert loss.counts["tokens_revealed"] == 0


def test_a_clamp_cuts_both_terms_and_their_gradient(pair_of_models, x0, loss_of):
    plain = loss_of(CD4LM(), pair_of_models, x0)
    share = 1 - int(plain.counts["tokens_visible"]) / (B * L)
    kl, ce = plain.terms["distillation"] / share / 0.9, plain.terms["reconstruction"] / share / 0.1
    torch.testing.assert_close(loss_of(CD4LM(clamp=2 * float(max(kl, ce))), pair_of_models, x0).total, plain.total)
    cut = loss_of(CD4LM(clamp=0.5 * float(min(kl, ce))), pair_of_models, x0)
    assert cut.total.item() == pytest.approx(0.5 * float(min(kl, ce)) * share, rel=1e-5)
    cut.total.backward()
    assert all(not p.grad.any() for p in pair_of_models[0].parameters() if p.grad is not None)
