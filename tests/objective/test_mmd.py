"""MMD: its loss is the definition, its expected gradient that of the expected reward; equal draws are equal."""

from itertools import product

import pytest
import torch

from mcd.errors import UsageError
from mcd.model.targets import RewardTarget
from mcd.objective import Clock
from mcd.objective import mmd as mmd_module
from mcd.objective.mmd import MMD
from mcd.objective.reward import attraction, bandwidth, repulsion
from mcd.process.draws import Draws
from mcd.process.timestep import sample_u, stratified_t

V, L, B = 23, 16, 6


def slow_twin(objective, student, teacher, x0, seed, wanted):
    """The loss with all log-probs, by loops over rows, draws and pairs; and its statistics."""
    g = torch.Generator().manual_seed(seed)
    G, R = objective.groups, objective.rows
    t, u = stratified_t(B, objective.t_min, 1.0, g), sample_u(B, L, g).masked_fill(~wanted, 0.0)
    v = torch.rand(B, L, G * R, dtype=torch.float64, generator=g)
    masked = u > student.config.schedule.alpha(t)[:, None]
    z = torch.where(masked, V, x0)
    log_p = student.log_x_theta(student.hidden(z, t)).view(B, L, V)
    total, stats = torch.zeros(()), {"reward": [], "attraction": [], "repulsion": [], "advantage_spread": []}
    for b in range(B):
        S = masked[b].nonzero()[:, 0].tolist()
        if len(S) < 2:
            continue
        cdf = log_p[b].detach().double().exp().cumsum(-1)
        ids = (cdf[:, None] > v[b][..., None]).float().argmax(-1)  # (L, K)
        x = torch.where(masked[b][:, None], ids, x0[b][:, None]).T
        real, made = teacher.features(x0[b : b + 1], objective.layer)[0], teacher.features(x, objective.layer)
        distances = torch.stack([(real[p] - real[q]).norm() for p in S for q in S if p != q]).sort().values
        h = objective.bandwidth * distances[(len(distances) - 1) // 2]

        def k(f, g, h=h):
            return (-(f - g).square().sum() / (2 * h**2)).exp()

        near = [(p, q) for p in S for q in S if objective.pairs != "same" or p == q]
        att = [sum(k(made[d, p], real[q]) for p, q in near) / len(near) for d in range(G * R)]
        rewards, repelled = [], []
        for group in range(G):
            own = range(group * R, group * R + R)
            pairs = [
                (p, q) for p in S for q in S if objective.pairs == "all" or (p == q) == (objective.pairs == "same")
            ]
            rep = [sum(k(made[d, p], made[e, q]) for p, q in pairs) / len(pairs) for d in own for e in own if d < e]
            rewards.append(2 / R * sum(att[d] for d in own) - 2 / (R * (R - 1)) * sum(rep))
            repelled.append(sum(rep) / len(rep))
        A = [objective.reward_scale * (r - (sum(rewards) - r) / (G - 1)) for r in rewards]
        for d in range(G * R):
            total = total - A[d // R] * sum(log_p[b, i, ids[i, d]] for i in S)
        stats["reward"].append(sum(rewards) / G)
        stats["attraction"].append(sum(att) / (G * R))
        stats["repulsion"].append(sum(repelled) / G)
        stats["advantage_spread"].append((sum(a**2 for a in A) / G) ** 0.5)
    total = total / (G * R * int(wanted.sum()))
    return total, {name: float(sum(values) / len(values)) for name, values in stats.items()}


@pytest.mark.heavy
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"layer": 1},
        {"layer": 1, "pairs": "same"},
        {"layer": 2, "groups": 2, "rows": 3, "bandwidth": 0.5, "pairs": "all"},
    ],
    ids=str,
)
def test_the_loss_is_what_the_definition_says(tiny_denoiser, x0, options, prompt):
    """Its value, its gradients and its statistics."""
    objective = MMD(**options, reward_scale=3.0)
    student, teacher = tiny_denoiser().double(), tiny_denoiser(seed=1).double().requires_grad_(False)
    wanted = torch.ones(B, L, dtype=torch.bool)
    if prompt:
        wanted[0, :7] = False
        wanted[1, 1:] = False  # at most one token is masked: no reward
    draws = Draws(torch.Generator().manual_seed(4), B, L, diffused=wanted if prompt else None)
    found = objective.loss(student, teacher, x0, Clock(), draws)
    expected, stats = slow_twin(objective, student, teacher, x0, 4, wanted)
    torch.testing.assert_close(found.total, expected.to(found.total.dtype), rtol=1e-7, atol=1e-11)
    for a, b in zip(
        torch.autograd.grad(found.total, list(student.parameters())),
        torch.autograd.grad(expected, list(student.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10)
    readings = found.as_floats()
    assert {name: readings[name] for name in stats} == pytest.approx(stats)


@pytest.mark.heavy
def test_the_expected_gradient_is_that_of_the_expected_reward(tiny_denoiser, monkeypatch):
    """By enumeration: tokens of probability 2/3, 1/3 and nearly 0, two positions, and all 3^8 equally likely draws."""
    objective = MMD(groups=2, rows=2, layer=1)
    student, teacher = tiny_denoiser(V=3, length=2), tiny_denoiser(V=3, length=2, seed=1).requires_grad_(False)
    head = student.backbone.head.linear
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([2.0, 1.0, 1e-9, 5.0]).log())
    x0 = torch.tensor([[0, 2]])
    levels = torch.tensor(list(product((1 / 6, 1 / 2, 5 / 6), repeat=8)), dtype=torch.float64).view(-1, 2, 4)
    n = len(levels)
    draws = Draws(torch.Generator(), n, 2)
    monkeypatch.setattr(draws, "uniform", lambda *shape: levels)
    monkeypatch.setattr(draws, "u", lambda order="iid": torch.ones(n, 2))
    found = objective.loss(student, teacher, x0.expand(n, -1), Clock(), draws)
    (gradient,) = torch.autograd.grad(found.total, head.bias)

    every = torch.tensor(list(product(range(3), repeat=2)))
    real, made, where = teacher.features(x0, 1), teacher.features(every, 1), torch.ones(9, 2, dtype=torch.bool)
    a = bandwidth(real, where[:1], 1.0).expand(9)
    att = attraction(made, real.expand(9, -1, -1), where, a)
    rep = torch.stack([repulsion(made, one.expand(9, -1, -1), where, a) for one in made])
    bias = head.bias.detach().clone().requires_grad_()
    p = bias[:3].softmax(-1)
    joint = p[every].prod(-1)
    reward = 2 * joint @ att - joint @ rep @ joint
    (expected,) = torch.autograd.grad(-reward / (objective.rows * 2), bias)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-7)
    assert expected.abs().max() > 1e-3
    assert found.as_floats()["reward"] == pytest.approx(float(reward.detach()), rel=1e-4)


def watched_target(objective, models, x0, monkeypatch, v=None):
    """The target of a step, with the draws at v (b, L, K) if given."""
    seen = []
    draws = Draws(torch.Generator().manual_seed(0), *x0.shape)
    if v is not None:
        monkeypatch.setattr(draws, "uniform", lambda *shape: v)
    monkeypatch.setattr(mmd_module, "RewardTarget", lambda *a: seen.append(RewardTarget(*a)) or seen[-1])
    loss = objective.loss(*models, x0, Clock(), draws)
    return seen[0], loss


def test_the_order_of_draws_in_a_group_changes_nothing(pair_of_models, x0, seeded, monkeypatch):
    v = torch.rand(B, L, 8, dtype=torch.float64, generator=seeded(1))
    target, loss = watched_target(MMD(), pair_of_models, x0, monkeypatch, v)
    order = torch.tensor([1, 0, 2, 3, 5, 4, 7, 6])
    other, same = watched_target(MMD(), pair_of_models, x0, monkeypatch, v[..., order])
    assert torch.equal(other.ids, target.ids[:, order])
    torch.testing.assert_close(other.advantages, target.advantages, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(same.total, loss.total, rtol=1e-4, atol=1e-7)
    grouped, other = watched_target(MMD(), pair_of_models, x0, monkeypatch, v[..., [0, 2, 1, 3, 4, 5, 6, 7]])
    assert not torch.allclose(grouped.advantages, target.advantages, rtol=1e-2)  # the groups are others


def test_advantages_cancel_and_are_of_groups(pair_of_models, x0, monkeypatch):
    target, _ = watched_target(MMD(groups=3, rows=2), pair_of_models, x0, monkeypatch)
    assert target.advantages.shape[1] == 6 and len(target) > 10
    assert (target.advantages.sum(1).abs() < 1e-9).all() and (target.advantages.abs().sum(1) > 0).all()
    assert torch.equal(target.advantages[:, 0::2], target.advantages[:, 1::2])


def test_without_a_reward_there_is_no_gradient(pair_of_models, x0, loss_of):
    student, _ = pair_of_models
    loss = loss_of(MMD(reward_scale=0.0), pair_of_models, x0)
    assert loss.total == 0.0
    assert all(not g.any() for g in torch.autograd.grad(loss.total, list(student.parameters())))
    assert MMD(reward_scale=0.0).nothing_to_learn(1).startswith("--reward-scale 0")
    once, twice = (loss_of(MMD(reward_scale=scale), pair_of_models, x0).total for scale in (1.0, 2.0))
    torch.testing.assert_close(2 * once, twice)


def test_a_row_with_less_than_two_masked_tokens_has_no_reward(pair_of_models, x0):
    """And statistics without any row are left out."""
    diffused = torch.zeros(B, L, dtype=torch.bool)
    diffused[:, 3] = True
    draws = Draws(torch.Generator().manual_seed(0), B, L, diffused=diffused)
    loss = MMD().loss(*pair_of_models, x0, Clock(), draws)
    assert loss.total == 0.0 and loss.counts["tokens_distilled"] == 0 and "reward" not in loss.as_floats()


def test_the_teacher_runs_no_further_than_its_layer(tiny_denoiser, x0, loss_of):
    models = tiny_denoiser(layers=6), tiny_denoiser(layers=6, seed=1)
    calls = []
    for i, block in enumerate(models[1].backbone.blocks):
        block.register_forward_hook(lambda module, args, output, i=i: calls.append((i, len(output))))
    loss_of(MMD(), models, x0)
    assert calls == [(i, rows) for rows in (B, 2 * B, 2 * B, 2 * B, 2 * B) for i in (0, 1)]
    assert MMD().layer_of(tiny_denoiser(layers=2)) == 1 and MMD(layer=5).layer_of(models[0]) == 5
    assert MMD().schedule_of_round(0) == {"forwards": 6.0}
    with pytest.raises(UsageError, match="--layer 7: the teacher has 6 blocks"):
        MMD(layer=7).check(models[0])
