"""MCD against Eq. 14 written out, and what each switch of it means."""

import math

import pytest
import torch

from mcd.objective.mcd import MCD
from mcd.process.masked import coupled_pair
from mcd.process.schedule import Cosine, Linear, LogLinear
from mcd.process.timestep import sample_u, stratified_t

V, L, B = 23, 16, 6


def slow_twin(objective, student, teacher, x0, round, seed):
    """Algorithm 1 and Eq. 14: full (B, L, V) log-probs after SUBS with -1e6, one position at a time."""
    generator = torch.Generator().manual_seed(seed)
    delta, tau = objective.delta(round), objective.tau(round)
    t = stratified_t(B, delta, 1.0, generator)
    u = sample_u(B, L, generator)
    alpha_t, alpha_s = (student.config.schedule.alpha(time) for time in (t, t - delta))
    z_t, z_s = x0.clone(), x0.clone()
    for b in range(B):
        for i in range(L):
            if u[b, i] > alpha_t[b]:
                z_t[b, i] = V
            if u[b, i] > alpha_s[b]:
                z_s[b, i] = V

    def log_probs(model, z, time, tau):
        logits = model.backbone.head.linear(model.hidden(z, time)).view(B, L, V + 1) / tau
        logits[..., V] = -1e6
        log_p = logits - torch.logsumexp(logits, -1, keepdim=True)
        visible = z != V
        log_p[visible] = -1e6
        log_p[visible, z[visible]] = 0.0
        return log_p

    p = log_probs(student, z_t, t, 1.0)
    with torch.no_grad():
        q = log_probs(teacher, z_s, t - delta, tau)
    kl = ce = torch.zeros(())
    counts = {"tokens_distilled": 0, "tokens_revealed": 0, "tokens_visible": 0}
    for b in range(B):
        for i in range(L):
            m_t, m_s = z_t[b, i] == V, z_s[b, i] == V
            if m_s:
                counts["tokens_distilled"] += 1
                first, second = (p[b, i], q[b, i]) if objective.kl == "reverse" else (q[b, i], p[b, i])
                kl = kl + (first.exp() * (first - second)).sum()
            elif m_t:
                counts["tokens_revealed"] += 1
                ce = ce - p[b, i, x0[b, i]]
            else:
                counts["tokens_visible"] += 1
    return kl / (B * L), objective.ce_weight * ce / (B * L), counts


@pytest.mark.parametrize("kl", ["reverse", "forward"])
@pytest.mark.parametrize("schedule", [LogLinear(), Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("time_conditioned", [False, True])
def test_agrees_with_equation_14_written_out(tiny_denoiser, x0, kl, schedule, time_conditioned, loss_of):
    options = {"schedule": schedule, "time_conditioned": time_conditioned}
    student, teacher = tiny_denoiser(**options), tiny_denoiser(seed=1, **options)
    objective = MCD(delta0=0.1, kl=kl, ce_weight=0.7)
    for seed in range(2):
        student.zero_grad()
        fast = loss_of(objective, (student, teacher), x0, round=1, seed=seed)
        fast.total.backward()
        gradients = [p.grad.clone() for p in student.parameters()]
        student.zero_grad()
        slow_kl, slow_ce, counts = slow_twin(objective, student, teacher, x0, 1, seed)
        (slow_kl + slow_ce).backward()
        torch.testing.assert_close(fast.terms["distillation"], slow_kl.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(fast.terms["reconstruction"], slow_ce.detach(), rtol=1e-4, atol=1e-6)
        assert {name: int(count) for name, count in fast.counts.items()} == counts
        for fast_grad, (name, p) in zip(gradients, student.named_parameters(), strict=True):
            torch.testing.assert_close(fast_grad, p.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("coupling", ["shared", "independent"])
def test_every_token_is_in_one_of_the_three_regimes(pair_of_models, x0, coupling, loss_of):
    for seed in range(10):
        loss = loss_of(MCD(delta0=0.3, coupling=coupling), pair_of_models, x0, seed=seed)
        assert sum(int(count) for count in loss.counts.values()) == B * L


def test_share_of_revealed_tokens(seeded):
    """P(m_t - m_s = 1) = (1 - eps) delta at every t (method.md 4.2): about delta x NELBO is the weight of the CE."""
    delta, schedule, n = 0.125, LogLinear(), 4000
    t = stratified_t(n, delta, 1.0, seeded(0))
    u = sample_u(n, 64, seeded(1))
    revealed = coupled_pair(torch.zeros(n, 64, dtype=torch.int64), u, t, t - delta, schedule, V).revealed
    p = (1 - schedule.eps) * delta
    for part in (revealed[: n // 4], revealed[n // 4 : n // 2], revealed[-n // 4 :]):  # small, middling, large t
        assert abs(part.sum().item() - part.numel() * p) < 4.5 * math.sqrt(part.numel() * p * (1 - p))


def test_states_given_to_the_networks_nest_when_u_is_shared(pair_of_models, x0, calls_of, loss_of):
    seen = calls_of(*pair_of_models)
    for coupling in ("shared", "independent"):
        loss_of(MCD(delta0=0.3, coupling=coupling), pair_of_models, x0)
    (z_t, t, _), (z_s, s, _) = seen[:2]
    torch.testing.assert_close(t - s, torch.full((B,), 0.3))
    assert ((z_s == V) <= (z_t == V)).all() and ((z_s == V).sum() < (z_t == V).sum())
    (z_t, _, _), (z_s, _, _) = seen[2:]
    assert ((z_s == V) & (z_t != V)).any()


def test_the_temperature_acts_on_the_teachers_raw_logits_only(tiny_denoiser, x0, loss_of):
    """tau = 1/2 equals a teacher whose head is doubled; the student's head is left as it is."""
    student, teacher, doubled = tiny_denoiser(), tiny_denoiser(seed=1), tiny_denoiser(seed=1)
    with torch.no_grad():
        for p in doubled.backbone.head.linear.parameters():
            p *= 2
    half = loss_of(MCD(delta0=0.2, tau0=0.5), (student, teacher), x0)
    plain = loss_of(MCD(delta0=0.2, tau0=1.0), (student, doubled), x0)
    torch.testing.assert_close(half.total, plain.total)
    assert not torch.isclose(half.total, loss_of(MCD(delta0=0.2, tau0=1.0), (student, teacher), x0).total)


@pytest.mark.parametrize("tau", [1.0, 0.8])
def test_forward_kl_over_all_the_student_misses_is_the_hybrid(pair_of_models, x0, tau, loss_of):
    """A teacher that sees x0 is certain of it at any temperature: forward KL over m_t = forward KL over m_s + CE."""
    everywhere = MCD(delta0=0.25, tau0=tau, kl="forward", region="student", ce_weight=0.0)
    hybrid = MCD(delta0=0.25, tau0=tau, kl="forward", region="both", ce_weight=1.0)
    a, b = loss_of(everywhere, pair_of_models, x0), loss_of(hybrid, pair_of_models, x0)
    torch.testing.assert_close(a.total, b.total)
    assert a.terms["reconstruction"] == 0.0


def test_reverse_kl_over_all_the_student_misses_blows_up(pair_of_models, x0, loss_of):
    """The failed row of the paper's Table 2: (1 - p(x0)) 1e6 a revealed token."""
    loss = loss_of(MCD(delta0=0.25, region="student"), pair_of_models, x0)
    both = loss_of(MCD(delta0=0.25), pair_of_models, x0)
    per_revealed = (loss.total - both.total).item() * B * L / int(loss.counts["tokens_revealed"])
    assert 5e5 < per_revealed < 1.01e6


def test_reconstruction_weight_scales_that_term_alone(pair_of_models, x0, loss_of):
    one, half, none = (loss_of(MCD(delta0=0.25, ce_weight=w), pair_of_models, x0) for w in (1.0, 0.5, 0.0))
    distillation = one.terms["distillation"]
    for other in (half.terms["distillation"], none.total):  # calls of other shapes: equal to rounding only
        torch.testing.assert_close(other, distillation, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(half.terms["reconstruction"], one.terms["reconstruction"] / 2)


def test_rounds_are_the_papers():
    method = MCD()
    assert [method.delta(r) for r in range(5)] == [1 / 512, 1 / 256, 1 / 128, 1 / 64, 1 / 32]
    assert [method.tau(r) for r in range(5)] == pytest.approx([0.96, 0.93, 0.90, 0.87, 0.84])
    assert method.schedule_of_round(2) == {"delta": 1 / 128, "tau": method.tau(2)}
    assert method.delta(40) == 1.0 and method.tau(40) == method.tau_min


def test_the_last_gap_reaches_from_noise_to_text(pair_of_models, x0, loss_of):
    loss = loss_of(MCD(), pair_of_models, x0, round=9)  # delta = 1: t = 1, s = 0
    assert loss.counts["tokens_distilled"] == 0 and loss.counts["tokens_revealed"] >= B * L - 3
    assert loss.total.isfinite()


def test_no_gap_leaves_nothing_to_reconstruct(pair_of_models, x0, loss_of):
    loss = loss_of(MCD(delta0=0.0), pair_of_models, x0, round=3)
    assert loss.counts["tokens_revealed"] == 0 and loss.terms["reconstruction"] == 0.0
    assert loss.terms["distillation"] > 0.0


@pytest.mark.parametrize("order", ["stratified"])
def test_structured_thresholds_mask_equal_counts(pair_of_models, x0, order, loss_of):
    """Of 16 stratified thresholds at t = s + delta the number masked is fixed within one, row by row."""
    loss = loss_of(MCD(delta0=0.25, order=order), pair_of_models, x0)
    iid = loss_of(MCD(delta0=0.25), pair_of_models, x0)
    assert loss.total.isfinite() and loss.total != iid.total
    revealed = [loss_of(MCD(delta0=0.25, order=order), pair_of_models, x0, seed=s).counts for s in range(10)]
    assert all(abs(int(c["tokens_revealed"]) - 0.25 * B * L) <= 2 * B for c in revealed)
