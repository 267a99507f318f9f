"""SDTT against its definition written out densely, and the facts that make the fast form right."""

import math

import pytest
import torch

from mcd.model.targets import divergence_rows
from mcd.objective.sdtt import SDTT
from mcd.process.schedule import Cosine, Linear, LogLinear

V, L, B = 23, 16, 6


DIVERGENCES = {
    "reverse": lambda p, q: sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
    "forward": lambda p, q: sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)),
    "mse": lambda p, q: sum(math.log(a / b) ** 2 for a, b in zip(p, q, strict=True)) / len(p),
    "tv": lambda p, q: sum(max(a - b, 0.0) for a, b in zip(p, q, strict=True)),  # where p is above q
}


def draws_of(seed):
    """t by strata of (0, 1], u in (0, 1], v in [0, 1): the random numbers of a batch, in their order."""
    generator = torch.Generator().manual_seed(seed)
    t = (torch.arange(B) + 1.0 - torch.rand(B, generator=generator)) / B
    u = 1.0 - torch.rand(B, L, generator=generator)
    return t, u, torch.rand(B, L, dtype=torch.float64, generator=generator)


def dense_targets(teacher, x0, t, u, v, dt, k, tau):
    """z_t and the targets (B, L, V), as the definition says: k steps, every prediction made everywhere, in a loop."""
    alpha = teacher.config.schedule.alpha
    z_t = torch.where(u > alpha(t)[:, None], V, x0)
    z, targets = z_t.clone(), torch.full((B, L, V), torch.nan)
    revealed = 0
    for step in range(k):
        now, after = (t - step * dt).clamp(min=0.0), (t - (step + 1) * dt).clamp(min=0.0)
        features = teacher.hidden(z, now)
        cold = teacher.log_x_theta(features, tau=tau).view(B, L, V)
        warm = teacher.log_x_theta(features).view(B, L, V).double().softmax(-1)
        before = z.clone()
        for b in range(B):
            for i in range(L):
                if before[b, i] != V:
                    continue
                if after[b] == 0.0 or u[b, i] <= alpha(after[b]):
                    cdf, choice = 0.0, -1
                    while cdf <= v[b, i] and choice < V - 1:
                        choice += 1
                        cdf += warm[b, i, choice].item()
                    z[b, i] = choice
                    targets[b, i] = cold[b, i]
                    revealed += step < k - 1
                elif step == k - 1:
                    targets[b, i] = cold[b, i]
    return z_t, targets, revealed


def slow_twin(objective, student, teacher, x0, round, seed):
    """The loss position by position, in double, without gradient; and the counts."""
    dt = min(1.0, objective.delta0 * objective.delta_growth**round)
    t, u, v = draws_of(seed)
    z_t, targets, revealed = dense_targets(teacher, x0, t, u, v, dt, objective.k, objective.tau0)
    log_p = student.log_x_theta(student.hidden(z_t, t)).view(B, L, V)
    total, masked = 0.0, 0
    for b in range(B):
        for i in range(L):
            if z_t[b, i] == V:
                p, q = (x[b, i].double().exp().tolist() for x in (log_p, targets))
                total += DIVERGENCES[objective.divergence](p, q)
                masked += 1
    total /= masked if objective.reduction == "masked" else B * L
    counts = {
        "tokens_distilled": masked,
        "tokens_revealed_by_teacher": revealed,
        "tokens_visible": B * L - masked,
    }
    return total, counts


@pytest.mark.heavy
@torch.no_grad()
@pytest.mark.parametrize("schedule", [LogLinear(), Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("time_conditioned", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_agrees_with_the_definition_written_out(tiny_denoiser, x0, schedule, time_conditioned, k, loss_of):
    options = {"schedule": schedule, "time_conditioned": time_conditioned}
    student, teacher = tiny_denoiser(**options), tiny_denoiser(seed=1, **options)
    objective = SDTT(delta0=0.07, k=k, tau0=0.8)
    for seed in range(2):
        fast = loss_of(objective, (student, teacher), x0, round=1, seed=seed)
        slow, counts = slow_twin(objective, student, teacher, x0, 1, seed)
        assert fast.total.item() == pytest.approx(slow, rel=1e-4)
        assert {name: int(count) for name, count in fast.counts.items()} == counts
        assert k == 1 or counts["tokens_revealed_by_teacher"] > 0


@torch.no_grad()
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("reduction", ["positions", "masked"])
def test_each_divergence_and_reduction_by_its_formula(pair_of_models, x0, divergence, reduction, loss_of):
    objective = SDTT(delta0=0.2, divergence=divergence, reduction=reduction)
    fast = loss_of(objective, pair_of_models, x0)
    slow, _ = slow_twin(objective, *pair_of_models, x0, 0, 0)
    assert fast.total.item() == pytest.approx(slow, rel=1e-4)
    assert torch.equal(fast.terms["distillation"], fast.total)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_two_steps_are_one_draw_and_two_predictions(pair_of_models, x0, divergence, monkeypatch, loss_of, calls_of):
    """k = 2: teacher(z_t) where the first step reveals, teacher(z_{t-dt}) elsewhere, whatever the second step does."""
    student, teacher = pair_of_models
    calls, dt = calls_of(teacher), 0.2
    loss = loss_of(SDTT(delta0=dt, divergence=divergence), pair_of_models, x0)
    (z_t, t, first), (z_s, s, second) = calls
    torch.testing.assert_close(s, (t - dt).clamp(min=0.0))
    masked, still = z_t == V, z_s == V
    assert (still <= masked).all() and torch.equal(z_s[~masked], x0[~masked])
    assert torch.equal(first, (masked & ~still).flatten().nonzero()[:, 0])
    assert torch.equal(second, still.flatten().nonzero()[:, 0])

    both = [teacher.log_x_theta(teacher.hidden(z, time)).view(B, L, V) for z, time in ((z_t, t), (z_s, s))]
    log_q = torch.where(still[..., None], both[1], both[0])[masked]
    log_p = student.log_x_theta(student.hidden(z_t, t)).view(B, L, V)[masked]
    total = divergence_rows(log_p, log_q, divergence).sum() / (B * L)
    torch.testing.assert_close(loss.total, total, rtol=1e-4, atol=1e-6)
    names, weights = zip(*student.named_parameters(), strict=True)
    fast, slow = (torch.autograd.grad(value, weights, allow_unused=True) for value in (loss.total, total))
    for name, a, b in zip(names, fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


def test_vocabulary_rows_of_the_teacher_are_those_needed(pair_of_models, x0, monkeypatch, loss_of, calls_of):
    student, teacher = pair_of_models
    heads, targets, calls = [], [], calls_of(student)
    original = teacher.logits
    monkeypatch.setattr(teacher, "logits", lambda h: heads.append(len(h)) or original(h), raising=False)
    head_loss = student.head_loss
    monkeypatch.setattr(student, "head_loss", lambda h, *t: targets.extend(t) or head_loss(h, *t), raising=False)
    loss = loss_of(SDTT(delta0=0.2), pair_of_models, x0)
    masked, revealed = (int(loss.counts[name]) for name in ("tokens_distilled", "tokens_revealed_by_teacher"))
    assert heads == [revealed] and [len(target) for target in targets] == [masked]  # to draw; as targets
    ((z_t, _, rows),) = calls  # the student's: every masked token once and no visible one
    assert torch.equal(rows.sort().values, (z_t == V).flatten().nonzero()[:, 0]) and len(rows) == masked


@pytest.mark.heavy
@pytest.mark.parametrize("grid", ["correct", "public"])
@pytest.mark.parametrize("t", [0.15, 0.5, 0.9])
def test_share_revealed_in_the_first_step(tiny_denoiser, monkeypatch, grid, t, loss_of):
    """delta / t on the correct grid; about delta / (t (2 - t)) on the public one, that is half as many at small t."""
    dt, rows, length = 0.01, 1000, 64
    monkeypatch.setattr("mcd.process.draws.stratified_t", lambda n, *_: torch.full((n,), t))
    model = tiny_denoiser(V=3, length=length, hidden=4, layers=1)
    x0 = torch.zeros(rows, length, dtype=torch.int64)
    with torch.no_grad():
        counts = loss_of(SDTT(delta0=dt, time_grid=grid), (model, model), x0).counts
    masked, revealed = int(counts["tokens_distilled"]), int(counts["tokens_revealed_by_teacher"])
    exact = dt / t if grid == "correct" else dt / (t * (2 - t) - 2 * dt * (1 - t))
    about = dt / t if grid == "correct" else dt / (t * (2 - t))
    assert abs(revealed - masked * exact) < 4.5 * math.sqrt(masked * exact * (1 - exact))
    assert about == pytest.approx(exact, rel=2 * dt / t)
    other = dt / (t * (2 - t)) if grid == "correct" else dt / t
    if t < 0.9:  # the two grids can be told apart
        assert abs(revealed - masked * other) > 6 * math.sqrt(masked * exact)


def test_public_grid_has_the_public_times(pair_of_models, x0, monkeypatch, loss_of, calls_of):
    calls, dt = calls_of(pair_of_models[1]), 0.1
    loss_of(SDTT(delta0=dt, time_grid="public"), pair_of_models, x0)
    t, _, _ = draws_of(0)
    for (_, told, _), share in zip(calls, (1.0, 0.0), strict=True):
        expected = (t * share + (1 - t) * (t - 2 * dt)).clamp(min=1e-5)
        torch.testing.assert_close(told, expected)


def test_public_grid_of_many_steps_reveals_step_by_step(tiny_denoiser, monkeypatch, loss_of, calls_of):
    """Each step reveals its own delta / time of what is left."""
    t, dt, k, rows, length = 0.6, 0.05, 3, 600, 64
    monkeypatch.setattr("mcd.process.draws.stratified_t", lambda n, *_: torch.full((n,), t))
    model = tiny_denoiser(V=3, length=length, hidden=4, layers=1)
    calls = calls_of(model)
    with torch.no_grad():
        x0 = torch.zeros(rows, length, dtype=torch.int64)
        loss_of(SDTT(delta0=dt, k=k, time_grid="public"), (model, model), x0)
    left = [int((z == 3).sum()) for z, _, _ in calls[:k]]
    for before, after, share in zip(left, left[1:], (1.0, 0.5), strict=False):
        p = dt / (t * share + (1 - t) * (t - k * dt))
        assert abs(before - after - before * p) < 4.5 * math.sqrt(before * p * (1 - p))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_one_step_of_equal_weights_costs_nothing(tiny_denoiser, x0, divergence, loss_of):
    models = (tiny_denoiser(), tiny_denoiser())
    loss = loss_of(SDTT(delta0=0.3, k=1, divergence=divergence), models, x0)
    assert abs(loss.total.item()) < 1e-7 and loss.counts["tokens_revealed_by_teacher"] == 0
    assert loss_of(SDTT(delta0=0.3, k=2, divergence=divergence), models, x0).total > 1e-3


def test_no_gap_reveals_nothing(tiny_denoiser, x0, loss_of):
    models = (tiny_denoiser(), tiny_denoiser())
    for grid in ("correct", "public"):
        loss = loss_of(SDTT(delta0=0.0, time_grid=grid), models, x0, round=4)
        assert abs(loss.total.item()) < 1e-7 and loss.counts["tokens_revealed_by_teacher"] == 0


def test_a_step_to_the_end_takes_all_targets_from_the_first_pass(pair_of_models, x0, loss_of):
    """delta = 1: everything is revealed at once, so the target is what one step alone has."""
    whole = loss_of(SDTT(), pair_of_models, x0, round=10)
    assert whole.counts["tokens_revealed_by_teacher"] == whole.counts["tokens_distilled"] > 0
    torch.testing.assert_close(whole.total, loss_of(SDTT(k=1), pair_of_models, x0).total)


def test_total_variation_lies_between_0_and_1(pair_of_models, tiny_denoiser, x0, loss_of):
    apart = (tiny_denoiser(scale=8.0), tiny_denoiser(seed=1, scale=8.0))
    objective = SDTT(delta0=0.2, divergence="tv", reduction="masked")
    near, far = (loss_of(objective, models, x0).total.item() for models in (pair_of_models, apart))
    assert 0.0 < near < far <= 1.0


def test_rounds_double_one_step_and_the_look_ahead_with_it():
    objective = SDTT()
    assert [objective.delta(r) for r in range(3)] == [1 / 1024, 1 / 512, 1 / 256]
    assert objective.schedule_of_round(1) == {"delta": 1 / 512, "look_ahead": 1 / 512, "tau": 1.0}
    assert SDTT(k=3).schedule_of_round(0)["look_ahead"] == 2 / 1024
    assert SDTT(k=3).schedule_of_round(40) == {"delta": 1.0, "look_ahead": 1.0, "tau": 1.0}
