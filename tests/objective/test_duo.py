"""Duo's bound and curriculum, and its distillation, against slow twins and cases whose value is known."""

import math

import pytest
import torch

from mcd.objective import Clock
from mcd.objective.duo import Duo
from mcd.objective.duo_dcd import DuoDCD
from mcd.process.draws import Draws
from mcd.process.duality import latent_of_noise, vp_of_snr_root
from mcd.process.schedule import Cosine, Linear, LogLinear
from mcd.process.timestep import sample_u, stratified_t
from mcd.process.uniform import keep_probability, sample_rival, tabled_snr_root

K, L, B = 11, 16, 6


@pytest.fixture
def x0(seeded):
    return torch.randint(0, K, (B, L), generator=seeded(3))


@pytest.fixture
def uniform(tiny_denoiser):
    return lambda **options: tiny_denoiser(**{"V": K, "process": "uniform", "time_conditioned": True} | options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LogLinear(), Linear(), Cosine()], ids=repr)
def test_bound_is_the_kl_rate_of_the_jumps_position_by_position(uniform, x0, schedule, calls_of):
    """Each token's reverse jump rates, of the truth and of the model, written out in float64."""
    model = uniform(schedule=schedule)
    seen = calls_of(model)
    loss = Duo(t_min=0.05).loss(model, None, x0, Clock(), Draws(generator(), *x0.shape))
    z_t, t, _ = seen[0]
    x_theta = model.log_x_theta(model.hidden(z_t, t)).detach().view(B, L, K).double().exp()
    t = t.double()
    alpha, rate = schedule.alpha(t), -schedule.alpha_dot(t) / schedule.alpha(t) / K
    total = ce = corrupted = 0.0
    for b in range(B):
        q_theta = alpha[b] * x_theta[b] + (1 - alpha[b]) / K
        for i in range(L):
            z, x = int(z_t[b, i]), int(x0[b, i])
            q = torch.full((K,), float(1 - alpha[b]) / K, dtype=torch.float64)
            q[x] += alpha[b]
            for j in set(range(K)) - {z}:
                back, back_theta = rate[b] * q[j] / q[z], rate[b] * q_theta[i, j] / q_theta[i, z]
                total += float(back_theta - back + back * (back / back_theta).log())
            if z != x:
                corrupted += 1
                ce -= math.log(x_theta[b, i, x])
    assert loss.total.item() == pytest.approx(total / (B * L), rel=1e-4)
    assert loss.terms["nelbo"].item() == pytest.approx(loss.total.item())
    assert loss.terms["cross_entropy"].item() == pytest.approx(ce / corrupted, rel=1e-4)
    assert int(loss.counts["tokens_corrupted"]) == corrupted


def information_of_one_token(alpha):
    """KL(q(z_t | x0) || 1 / K), what z_t tells of x0 when all tokens are equally likely, in nats."""
    keep = keep_probability(alpha, K)
    return float(keep * (K * keep).log() + (1 - keep) * (K * (1 - keep) / (K - 1)).log())


@pytest.mark.heavy
def test_a_uniform_model_pays_all_the_information(uniform, seeded):
    """x_theta = 1/K is the exact network of random text, so the bound is I(t_min) - I(1), near log K."""
    model = uniform()
    with torch.no_grad():
        for p in model.backbone.head.linear.parameters():
            p.zero_()
    x0 = torch.randint(0, K, (2048, 16), generator=seeded(0))
    with torch.no_grad():
        losses = torch.stack(
            [Duo(t_min=1e-2).loss(model, None, x0, Clock(), Draws(seeded(n), *x0.shape)).total for n in range(8)]
        )
    low, high = (information_of_one_token(LogLinear().alpha(torch.tensor(t).double())) for t in (1e-2, 1.0))
    error = losses.std().item() / math.sqrt(8)
    assert abs(losses.mean().item() - (low - high) / (1 - 1e-2)) < 5 * error
    assert error < 0.02 and low - high > 0.9 * math.log(K)


@pytest.mark.heavy
def test_max_weight_scales_early_times_down_and_is_left_out_of_the_reading(uniform, x0):
    free, capped = (
        Duo(max_weight=w).loss(uniform(), None, x0, Clock(), Draws(generator(), *x0.shape)) for w in (math.inf, 2.0)
    )
    for nelbo in (capped.terms["nelbo"], free.terms["nelbo"]):  # summed in another way than the total
        torch.testing.assert_close(nelbo, free.total.detach(), rtol=1e-5, atol=1e-7)
    assert capped.total < free.total
    one = x0[:1, :1]
    for seed in range(20):  # one time a loss
        t = stratified_t(1, 1e-3, 1.0, generator(seed)).double()
        free, capped = (
            Duo(max_weight=w).loss(uniform(), None, one, Clock(), Draws(generator(seed), *one.shape))
            for w in (math.inf, 2.0)
        )
        factor = min(1.0, 2.0 / LogLinear().nelbo_weight(t).item())
        assert capped.total.item() == pytest.approx(free.total.item() * factor, rel=1e-4, abs=1e-7)


# --- the curriculum --------------------------------------------------------------------------------------------------


def test_the_curriculum_shows_soft_tokens_of_the_latent_at_alpha(uniform, x0, calls_of):
    model, method = uniform(), Duo(curriculum=0.5, tau_start=0.3, tau_end=0.3)
    seen = calls_of(model)
    loss = method.loss(model, None, x0, Clock(progress=0.2), Draws(generator(4), *x0.shape))
    soft, t, _ = seen[0]
    same = Draws(generator(4), B, L)
    expected_t = same.t(*method.window(LogLinear()))
    alpha_t = LogLinear().alpha(expected_t.double())[:, None]
    w_t = latent_of_noise(x0, same.normal(K), *vp_of_snr_root(tabled_snr_root(alpha_t, K)))
    assert torch.equal(t, expected_t)
    torch.testing.assert_close(soft, torch.softmax(w_t / 0.3, -1))
    assert int(loss.counts["tokens_corrupted"]) == int((w_t.argmax(-1) != x0).sum())
    cold = Duo(curriculum=0.5, tau_start=1e-9, tau_end=1e-9)
    hard = cold.loss(model, None, x0, Clock(progress=0.2), Draws(generator(4), B, L))
    one_hot = torch.nn.functional.one_hot(w_t.argmax(-1), K)
    assert torch.equal(seen[1][0], one_hot.float())  # tau -> 0 shows the state itself
    assert torch.equal(hard.counts["tokens_corrupted"], loss.counts["tokens_corrupted"])


def test_states_of_the_curriculum_follow_the_process(uniform, seeded):
    """P(z_t = x0) = alpha_t + (1 - alpha_t) / K, averaged over the window."""
    method, x0 = Duo(curriculum=1.0), torch.zeros(4000, 16, dtype=torch.int64)
    with torch.no_grad():
        loss = method.loss(uniform(layers=1, hidden=4), None, x0, Clock(), Draws(seeded(5), *x0.shape))
    mean_alpha = torch.tensor((method.alpha_min + method.alpha_max) / 2)  # of the log-linear schedule, linear in t
    p = 1.0 - keep_probability(mean_alpha, K).item()
    assert abs(int(loss.counts["tokens_corrupted"]) / x0.numel() - p) < 4.5 * math.sqrt(p * (1 - p) / x0.numel())


def test_the_window_and_the_temperature(uniform, x0, calls_of):
    method = Duo(curriculum=0.5, tau_start=0.1, tau_end=0.001)
    low, high = method.window(LogLinear())
    alphas = LogLinear().alpha(torch.tensor([low, high], dtype=torch.float64)).tolist()
    assert alphas == pytest.approx([0.945, 0.049])
    assert [method.at_progress(p) for p in (0.0, 0.25)] == pytest.approx([0.1, 0.01])
    assert method.at_progress(0.5) is None and Duo().at_progress(0.0) is None
    model = uniform()
    seen = calls_of(model)
    for seed in range(20):
        method.loss(model, None, x0, Clock(progress=0.49), Draws(generator(seed), *x0.shape))
        method.loss(model, None, x0, Clock(progress=0.5), Draws(generator(seed), *x0.shape))
    guided, after = seen[::2], seen[1::2]
    assert all(z.is_floating_point() and ((t > low) & (t <= high)).all() for z, t, _ in guided)
    assert all(not z.is_floating_point() for z, _, _ in after)
    assert max(float(t.max()) for _, t, _ in after) > high and min(float(t.min()) for _, t, _ in after) < low


@pytest.mark.heavy
def test_a_short_training_learns_the_unigrams_and_beats_them(uniform, seeded):
    """A cycle of K tokens: NELBO far below log K, with the curriculum on in the first half."""
    model = uniform(hidden=32, scale=0.3).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    method = Duo(curriculum=0.5, t_min=0.02)
    start = torch.randint(0, K, (4096, 1), generator=seeded(0))
    rows = (start + torch.arange(L)) % K
    for step in range(120):
        loss = method.loss(
            model,
            None,
            rows[32 * step % 4096 :][:32],
            Clock(progress=step / 120),
            Draws(seeded(step), 32, rows.shape[1]),
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    with torch.no_grad():
        found = Duo(t_min=0.02).loss(model.eval(), None, rows[:512], Clock(), Draws(seeded(1), 512, rows.shape[1]))
    assert found.terms["nelbo"] < 0.8 * math.log(K)


# --- distillation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl", ["reverse", "forward"])
@pytest.mark.parametrize("schedule", [LogLinear(), Cosine()], ids=repr)
def test_dcd_is_the_mean_kl_over_all_positions(uniform, x0, kl, schedule):
    student, teacher = uniform(schedule=schedule), uniform(schedule=schedule, seed=1)
    method = DuoDCD(delta0=0.1, kl=kl, tau0=0.9, tau_step=0.1)
    loss = method.loss(student, teacher, x0, Clock(round=1), Draws(generator(6), *x0.shape))

    same = generator(6)
    t = stratified_t(B, 0.2, 1.0, same)
    u, rival = sample_u(B, L, same), sample_rival(x0, K, same)
    z_t, z_s, counts = x0.clone(), x0.clone(), {"tokens_kept": 0, "tokens_corrupted": 0, "tokens_restored": 0}
    for b in range(B):
        keep_t, keep_s = (float(keep_probability(schedule.alpha(time[b]), K)) for time in (t, t - 0.2))
        for i in range(L):
            if u[b, i] > keep_t:
                z_t[b, i] = rival[b, i]
            if u[b, i] > keep_s:
                z_s[b, i] = rival[b, i]
            regime = "corrupted" if u[b, i] > keep_s else "restored" if u[b, i] > keep_t else "kept"
            counts[f"tokens_{regime}"] += 1
    log_p = student.log_x_theta(student.hidden(z_t, t)).detach()
    log_q = torch.log_softmax(teacher.logits(teacher.hidden(z_s, t - 0.2)).detach() / 0.8, -1)
    first, second = (log_p, log_q) if kl == "reverse" else (log_q, log_p)
    assert loss.total.item() == pytest.approx((first.exp() * (first - second)).sum().item() / (B * L), rel=1e-4)
    assert {name: int(count) for name, count in loss.counts.items()} == counts


def test_dcd_states_share_their_noise(uniform, x0, calls_of):
    student, teacher = uniform(), uniform(seed=1)
    seen_t, seen_s = calls_of(student), calls_of(teacher)
    DuoDCD(delta0=0.3).loss(student, teacher, x0, Clock(), Draws(generator(), *x0.shape))
    (z_t, t, _), (z_s, s, _) = seen_t[0], seen_s[0]
    torch.testing.assert_close(t - s, torch.full((B,), 0.3))
    both = (z_s != x0) & (z_t != x0)
    assert both.any() and torch.equal(z_t[both], z_s[both])  # one rival
    assert ((z_s != x0) <= (z_t != x0)).all() and ((z_t != x0) & (z_s == x0)).any()


def test_dcd_rounds_are_duos():
    method = DuoDCD()
    assert [method.delta(r) for r in range(5)] == [1 / 512, 1 / 256, 1 / 128, 1 / 64, 1 / 32]
    assert [method.tau(r) for r in range(5)] == [1.0] * 5
    assert DuoDCD(tau_step=0.03).schedule_of_round(2) == {"delta": 1 / 128, "tau": pytest.approx(0.94)}
    assert method.delta(40) == 1.0


def test_the_last_gap_reaches_from_noise_to_text(uniform, x0):
    loss = DuoDCD().loss(uniform(), uniform(seed=1), x0, Clock(round=9), Draws(generator(), *x0.shape))
    assert loss.counts["tokens_corrupted"] == 0 and loss.total.isfinite()
