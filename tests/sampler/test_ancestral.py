"""Locked trajectories, and the fast path against one that computes everything at every step."""

import math
from itertools import pairwise

import pytest
import torch

from mcd.model.shapes import FEW
from mcd.process.categorical import temper
from mcd.process.schedule import Cosine, LogLinear
from mcd.process.unmasking import ORDERS
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.base import row_generator

V, L = 23, 16


def trajectory(sampler, model, rows, seed=0):
    return list(sampler.trajectory(model, torch.full((len(rows), L), V), rows, seed))


def slow_row(sampler, model, row, seed, z):
    """One row: at every step full logits of every position, then token by token who is due and what is drawn."""
    masked = (z == V).nonzero()[:, 0].tolist()
    schedule = model.config.schedule
    alpha_1 = float(schedule.alpha(torch.tensor(1.0, dtype=torch.float64)))
    generator = row_generator(seed, row)
    if sampler.order == "iid":
        u = alpha_1 + (1 - alpha_1) * (1 - torch.rand(L, dtype=torch.float64, generator=generator))
    else:
        m = len(masked)  # ranks among what is masked
        rank = torch.randperm(m, generator=generator) if m else torch.zeros(0)
        jitter = 1 - torch.rand(m, dtype=torch.float64, generator=generator)
        u = dict(zip(masked, (alpha_1 + (1 - alpha_1) * (rank + jitter) / max(m, 1)).tolist(), strict=True))
    v = torch.rand(L, dtype=torch.float64, generator=generator)
    z, nfe = z.clone(), 0
    for n in range(sampler.steps):
        t, s = 1 - n / sampler.steps, 1 - (n + 1) / sampler.steps
        alpha_t, alpha_s = (float(schedule.alpha(torch.tensor(x, dtype=torch.float64))) for x in (t, s))
        log_p = model.log_x_theta(model.hidden(z[None], torch.tensor([t])))
        p = temper(log_p, sampler.temperature, sampler.top_p).exp()
        before = z.clone()
        for i in range(L):
            if before[i] == V and alpha_t < u[i] and (u[i] <= alpha_s or s == 0.0):
                total = 0.0
                for k in range(V):
                    total += p[i, k].item()
                    if v[i] < total:
                        break
                z[i] = k
        nfe += int((z != before).any())
    return z, nfe


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"steps": 5},
        {"steps": 32},
        {"steps": 8, "order": "stratified"},
        {"steps": 8, "temperature": 0.7, "top_p": 0.8},
    ],
    ids=str,
)
@pytest.mark.parametrize("schedule", [LogLinear(), Cosine()], ids=repr)
def test_agrees_with_the_slow_twin(tiny_denoiser, options, schedule):
    model = tiny_denoiser(V=V, length=L, schedule=schedule, time_conditioned=True).requires_grad_(False)
    sampler = Ancestral(**options)
    z = torch.full((4, L), V)
    z[1, 3:12], z[2, ::2], z[3] = 1, 2, 3  # templates of their own
    *_, last = sampler.trajectory(model, z, range(4), 3)
    for row in range(4):
        slow_ids, slow_nfe = slow_row(sampler, model, row, 3, z[row])
        assert last.z[row].tolist() == slow_ids.tolist()
        assert last.nfe[row] == slow_nfe


@pytest.mark.parametrize("order", ORDERS)
def test_visible_sets_are_locked_across_step_counts(model, order):
    """The same u at N and 2N steps: at equal times the same positions are visible, whatever was drawn."""
    coarse = trajectory(Ancestral(8, order=order), model, range(6))
    fine = trajectory(Ancestral(16, order=order), model, range(6))
    for a, b in zip(coarse, fine[::2], strict=True):
        assert a.t == pytest.approx(b.t)
        assert torch.equal(a.z == V, b.z == V)
    for earlier, later in pairwise(fine):
        assert ((later.z == V) <= (earlier.z == V)).all()


def test_one_token_rows_are_the_same_at_any_step_count(model):
    """With a single token nothing is seen before it is drawn: v alone decides."""
    one, many = (sample(Ancestral(steps), model, 40, 1)[0] for steps in (1, 32))
    assert torch.equal(one, many)


@pytest.mark.parametrize("steps", [4, 16, 64])
def test_mean_calls_of_independent_thresholds(model, steps):
    """A step makes a call for a row with the probability that one of its L tokens is due: N (1 - (1 - 1/N)^L)."""
    rows = 300
    u, _ = Ancestral(steps).locked_scalars(torch.ones(rows, L, dtype=torch.bool), range(rows), 0, 1e-3)
    due = torch.floor((1 - u) / 0.999 * steps)  # which step: t in (n/N, (n+1)/N]
    counted = torch.tensor([len(set(row)) for row in due.tolist()])
    expected = steps * (1 - (1 - 1 / steps) ** L)
    assert abs(counted.float().mean() - expected) < 4.5 * counted.float().std() / math.sqrt(rows) + 1e-6
    _, nfe = sample(Ancestral(steps, rows_per_call=64), model, 40, L)
    assert torch.equal(nfe, counted[:40])


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "iid"])
@pytest.mark.parametrize("steps", [2, 4, 8, 16])
def test_other_orders_reveal_equal_counts(model, steps, order):
    states = trajectory(Ancestral(steps, order=order), model, range(4))
    for before, after in pairwise(states):
        assert ((before.z == V).sum(1) - (after.z == V).sum(1) == L // steps).all()
    assert (states[-1].nfe == steps).all()


def test_a_full_template_of_thresholds_leaves_no_mask_where_alpha_0_rounds_below_one(tiny_denoiser, monkeypatch):
    model = tiny_denoiser(V=V, length=L, schedule=Cosine()).requires_grad_(False)
    assert Cosine().alpha(torch.tensor(0.0, dtype=torch.float64)) < 1.0
    ones = torch.ones(2, L, dtype=torch.float64)
    monkeypatch.setattr(Ancestral, "locked_scalars", lambda *_: (ones, ones / 2))
    ids, nfe = sample(Ancestral(4), model, 2, L)
    assert (ids < V).all() and (nfe == 1).all()


def test_streams_of_seeds_and_rows_are_unrelated():
    keys = [(seed, row) for seed in range(20) for row in range(20)]
    first = [torch.rand(1, dtype=torch.float64, generator=row_generator(*key)).item() for key in keys]
    assert len(set(first)) == 400
    table = torch.tensor(first).view(20, 20)
    assert abs(table.mean().item() - 0.5) < 4.5 / math.sqrt(12 * 400)
    assert not torch.equal(table, table.T)


def test_many_revealed_tokens_go_through_the_head_in_equal_parts(tiny_denoiser, monkeypatch):
    model = tiny_denoiser(V=V, length=40).requires_grad_(False)
    shapes = []
    original = model.logits
    monkeypatch.setattr(model, "logits", lambda h, n=None: shapes.append(tuple(h.shape)) or original(h, n))
    sample(Ancestral(1, rows_per_call=8), model, 8, 40)
    assert shapes == [(FEW, 16)] * -(-8 * 40 // FEW)


def test_an_unknown_order_is_named():
    with pytest.raises(ValueError, match=f"--order zigzag: known are {', '.join(ORDERS)}$"):
        Ancestral(order="zigzag")
