"""Confidence-first decoding and its adaptive form against a twin that takes one row and one token at a time."""

import math
from itertools import islice, pairwise

import pytest
import torch

from mcd.process.categorical import temper
from mcd.process.schedule import Cosine, LogLinear
from mcd.sampler import sample
from mcd.sampler.base import row_generator
from mcd.sampler.cad import CAD
from mcd.sampler.confidence import Confidence, score_of_log_p

V, L = 23, 16


def trajectory(sampler, model, rows, length=L, seed=0):
    return list(sampler.trajectory(model, torch.full((len(rows), length), model.mask_id), rows, seed))


def sureness(p, score):
    """By sorting and summing one probability after another."""
    ranked = sorted(p.tolist(), reverse=True)
    if score == "entropy":
        return sum(x * math.log(x) for x in ranked if x > 0)
    return ranked[0] - (ranked[1] if score == "margin" else 0.0)


def slow_row(sampler, model, row, seed, z):
    """One row: full logits of every position at every step; blocks, budgets and counts token by token."""
    length, masked = len(z), (z == V).nonzero()[:, 0].tolist()
    generator = row_generator(seed, row)
    v, chance = (torch.rand(length, dtype=torch.float64, generator=generator) for _ in range(2))
    z, nfe, count = z.clone(), 0, len(masked)
    size = sampler.block or max(1, count)
    for low in range(0, count, size):
        high = min(count, low + size)
        budget = high * sampler.steps // count - low * sampler.steps // count
        for left in range(budget, 0, -1):
            candidates = [i for i in masked[low:high] if z[i] == V]
            if not candidates:
                continue
            visible = torch.tensor((count - int((z == V).sum())) / count, dtype=torch.float64)
            t = min(1.0, model.config.schedule.t_of_alpha(visible).item())
            log_p = model.log_x_theta(model.hidden(z[None], torch.tensor([t])))
            nfe += 1
            if sampler.score == "random":
                sure = [0.0] * length
            else:
                sure = [sureness(row.double().exp(), sampler.score) for row in log_p]
            if isinstance(sampler, CAD):
                k = min(max(sum(sure[i] >= sampler.threshold for i in candidates), 1), sampler.cap)
                k = len(candidates) if left == 1 else k
            else:
                k = math.ceil(len(candidates) / left)
            for _, _, i in sorted((-round(sure[i] * 1e4), chance[i].item(), i) for i in candidates)[:k]:
                cdf = temper(log_p[i : i + 1], sampler.temperature, sampler.top_p)[0].exp().cumsum(0)
                drawn = next(token for token in range(V) if v[i] < cdf[token] or token == V - 1)
                z[i] = int(log_p[i].argmax()) if sampler.greedy else drawn
    return z, nfe


@pytest.mark.parametrize(
    "sampler",
    [
        Confidence(1),
        Confidence(5),
        Confidence(32),
        Confidence(6, score="margin", block=5),
        Confidence(8, score="entropy", temperature=0.7, top_p=0.8),
        Confidence(4, score="random", block=8),
        Confidence(7, greedy=True),
        CAD(16, block=8, threshold=0.4),
        CAD(9, block=4, threshold=0.3, cap=2, score="margin"),
        CAD(10, block=0, threshold=-1.5, cap=16, score="entropy", greedy=True),
        CAD(5, block=8),
    ],
    ids=str,
)
@pytest.mark.parametrize("schedule", [LogLinear(), pytest.param(Cosine(), marks=pytest.mark.slow)], ids=repr)
def test_agrees_with_the_slow_twin(tiny_denoiser, sampler, schedule):
    model = tiny_denoiser(V=V, length=L, schedule=schedule, time_conditioned=True).requires_grad_(False)
    for length in (L, 13):
        z = torch.full((4, length), V)
        z[2, ::2], z[3] = 1, 2  # a template of its own, and nothing to write
        *_, last = sampler.trajectory(model, z, range(4), 3)
        for row in range(4):
            slow_ids, slow_nfe = slow_row(sampler, model, row, 3, z[row])
            assert last.z[row].tolist() == slow_ids.tolist()
            assert last.nfe[row] == slow_nfe


@pytest.mark.parametrize("score", ["top", "margin", "entropy"])
def test_scores(seeded, score):
    log_p = torch.log_softmax(3 * torch.randn(40, V, generator=seeded(0)), -1)
    expected = torch.tensor([sureness(row.double().exp(), score) for row in log_p], dtype=torch.float64)
    torch.testing.assert_close(score_of_log_p(log_p, score), expected, rtol=0, atol=1e-6)
    certain = torch.full((1, V), -torch.inf)
    certain[0, 7] = 0.0
    assert score_of_log_p(certain, score) == (0.0 if score == "entropy" else 1.0)
    even = torch.full((1, V), -math.log(V))
    floor = {"top": 1 / V, "margin": 0.0, "entropy": -math.log(V)}[score]
    assert score_of_log_p(even, score).item() == pytest.approx(floor, abs=1e-6)


def test_the_surest_of_known_predictions_comes_first(oracle):
    """Independent tokens, each surer than its right neighbour: all scores go from left to right."""
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    table = torch.einsum("a,b,c,d->abcd", *p)
    for score in ("top", "margin", "entropy"):
        for n, step in enumerate(trajectory(Confidence(4, score=score), oracle(table), range(5), 4)):
            assert (step.z != 2).tolist() == [[i < n for i in range(4)]] * 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        *(Confidence(3, score=score, rows_per_call=500) for score in ("top", "margin", "entropy", "random")),
        CAD(3, cap=1, rows_per_call=500),
    ],
    ids=lambda sampler: f"{sampler.name}-{sampler.score}",
)
def test_one_token_a_step_of_a_perfect_model_has_the_law_of_its_rows(oracle, seeded, sampler):
    """The choice of the next token looks at nothing that is not drawn yet, so the chain rule holds in any order."""
    table = torch.rand(3, 3, 3, generator=seeded(1)) ** 3
    model, n = oracle(table), 3000
    ids, nfe = sample(sampler, model, n, 3)
    counts = torch.bincount(ids @ torch.tensor([9, 3, 1]), minlength=27).double()
    expected = n * model.table.flatten()
    assert ((counts - expected) ** 2 / expected).sum() < 68.0  # 26 degrees of freedom: the 1 - 1e-5 quantile
    assert (nfe == 3).all()


@pytest.mark.parametrize("block, steps", [(0, 4), (4, 4), (4, 16), (8, 8), (2, 8)])
def test_equal_counts_and_blocks_from_left_to_right(model, block, steps):
    states = trajectory(Confidence(steps, block=block), model, range(4))
    for before, after in pairwise(states):
        revealed = (before.z == V) & (after.z != V)
        assert (revealed.sum(1) == L // steps).all()
        places = revealed.nonzero()[:, 1]
        size = block or L
        assert (places // size == (before.z == V).nonzero()[:, 1].min() // size).all()  # the first with a mask
    assert (states[-1].nfe == steps).all()


def test_fewer_steps_than_blocks_join_blocks(model):
    states = trajectory(Confidence(3, block=2), model, range(2))
    assert [[int(n) for n in (state.z == V).sum(1)] for state in states] == [[16] * 2, [12] * 2, [6] * 2, [0] * 2]
    assert (states[1].z[:, :4] < V).all() and (states[2].z[:, :10] < V).all()


def test_greedy_is_the_limit_of_cold_draws(model):
    greedy, _ = sample(Confidence(4, greedy=True), model, 5, L)
    cold, _ = sample(Confidence(4, temperature=1e-4), model, 5, L)
    assert torch.equal(greedy, cold)
    assert Confidence(4, greedy=True, temperature=0.7).protocol()["temperature"] == 0.0


@pytest.mark.parametrize("score", ["top", "margin", "entropy", "random"])
def test_the_first_token_of_an_empty_row_may_be_any(model, score):
    """Relative positions tell nothing apart there: the choice is random, and the row's own."""
    start = torch.full((400, L), V)
    states = Confidence(L, score=score, rows_per_call=64).trajectory(model, start, range(400), 0)
    first = next(islice(states, 1, None)).z != V
    counts = first.sum(0).double()
    assert first.sum() == 400
    assert ((counts - 400 / L) ** 2 / (400 / L)).sum() < 51.0  # 15 degrees of freedom: the 1 - 1e-5 quantile


def test_calls_go_down_with_the_threshold_and_the_cap_and_stop_where_they_must(model):
    def calls(threshold, cap):
        return sample(CAD(L, block=8, threshold=threshold, cap=cap), model, 6, L)[1]

    assert (calls(1.0, 4) == L).all()  # never sure: one per step
    assert (calls(0.0, 4) == L // 4).all()  # always sure: the cap
    assert (calls(0.0, 100) == 2).all()  # a call a block
    between = calls(0.4, 4)
    assert (between < L).all() and (between > L // 4).all()


def test_the_last_step_of_a_block_completes_it(model):
    """Never sure, 8 steps for 2 blocks of 8: one token each time, then the five that are left."""
    states = trajectory(CAD(8, block=8, threshold=1.0), model, range(3))
    revealed = [(int((a.z == V).sum()) - int((b.z == V).sum())) / 3 for a, b in pairwise(states)]
    assert revealed == [1, 1, 1, 5] * 2


@pytest.mark.parametrize("name", ["confidence", "cad"])
def test_stamps_tell_options_apart(name):
    kind = {"confidence": Confidence, "cad": CAD}[name]
    options = [{}, {"score": "margin"}, {"block": 4}, {"greedy": True}]
    options += [{"threshold": 0.5}, {"cap": 2}] if name == "cad" else [{"score": "random"}]
    assert len({str(kind(**option).protocol()) for option in options}) == len(options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"block": -1}, "--block -1: must be at least 0"),
        ({"threshold": 1.5}, "--threshold 1.5: must be in"),
        ({"threshold": float("nan")}, "--threshold nan"),
        ({"score": "entropy"}, "--threshold 0.95: must be at most 0 for --score entropy"),
        ({"score": "random"}, "--score random: has no threshold"),
        ({"cap": 0}, "--cap 0: must be at least 1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CAD(**options)


def test_random_is_no_score_of_a_prediction():
    with pytest.raises(ValueError, match="random is no score"):
        score_of_log_p(torch.zeros(1, 2), "random")
