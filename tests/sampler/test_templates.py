"""Given tokens take no share of what is for the masked ones: steps, blocks, counts and caps run over these alone."""

from itertools import pairwise

import pytest
import torch

from mcd.process.schedule import Cosine
from mcd.process.unmasking import ORDERS
from mcd.sampler import SAMPLERS, sample
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.cad import CAD
from mcd.sampler.causal import Causal
from mcd.sampler.confidence import Confidence

V, L = 23, 16
PLACES = [
    [],
    [5],
    [0, 15],
    [12, 13, 14, 15],
    [0, 1, 2, 3],
    [1, 6, 7, 14],
    [*range(4, 12)],
    [*range(1, 16, 2)],
    [*range(16)],
]
"""Of each row of a batch where its masks are."""
EQUAL = [
    *(Ancestral(4, order=order) for order in ORDERS if order != "iid"),
    *(Confidence(4, block=block) for block in (0, 1, 2, 3, 8, 100)),
    *(Confidence(4, score=score, block=4) for score in ("margin", "entropy", "random")),
]
"""Samplers that reveal equal counts per step, here in 4 steps."""


def batch(blank, length=L, places=PLACES):
    z = (torch.arange(length) % V).repeat(len(places), 1)
    for row, masked in zip(z, places, strict=True):
        row[masked] = blank
    return z


def revealed(states, blank):
    """Of each step which tokens it reveals: (steps, N, L)."""
    return torch.stack([(a.z == blank) & (b.z != blank) for a, b in pairwise(states)])


@pytest.mark.parametrize("sampler", EQUAL, ids=str)
def test_equal_counts_are_shares_of_what_is_masked_in_each_row(model, sampler):
    states = list(sampler.trajectory(model, batch(V), range(len(PLACES)), 1))
    counts = revealed(states, V).sum(-1)
    for row, masked in enumerate(PLACES):
        if len(masked) % 4 == 0:
            if sampler == Confidence(4, block=3) and len(masked) > 4:
                continue  # blocks of 3, 3 and 2, or six of them, share 4 steps unequally
            assert counts[:, row].tolist() == [len(masked) // 4] * 4
        assert int(states[-1].nfe[row]) == min(4, len(masked)) == int((counts[:, row] > 0).sum())


CASES_OF_128 = [
    *((Ancestral(32, order=order), 1) for order in ORDERS if order != "iid"),
    *((Confidence(32, block=block), 1) for block in (0, 1, 8, 32, 200)),
    *((CAD(32, cap=cap, block=block, threshold=1.0), 1) for cap, block in ((1, 32), (4, 32), (4, 8), (4, 0))),
    (CAD(32, cap=2, threshold=0.0), 2),
]


@pytest.mark.parametrize("sampler, most", CASES_OF_128, ids=str)
def test_32_masks_among_96_given_tokens_take_32_steps(tiny_denoiser, sampler, most):
    """At one end, in the middle and everywhere: one token per step, or as many as the cap allows."""
    model = tiny_denoiser(V=V, length=128, layers=1).requires_grad_(False)
    places = [[*range(96, 128)], [*range(32)], [*range(20, 52)], [*range(0, 128, 4)]]
    states = list(sampler.trajectory(model, batch(V, 128, places), range(4), 1))
    assert (states[-1].nfe == 32 // most).all()
    assert revealed(states, V).sum(-1).max() == most


@pytest.mark.parametrize("sampler", [Confidence(8, block=2), CAD(8, block=2, cap=2, threshold=0.0)], ids=str)
def test_blocks_are_of_consecutive_masked_tokens(model, sampler):
    """The first two masks of a row are done before the next two, however far apart they stand."""
    states = list(sampler.trajectory(model, batch(V), range(len(PLACES)), 2))
    for before, after in pairwise(states):
        for row, masked in enumerate(PLACES):
            left = [i for i in masked if before.z[row, i] == V]
            new = {i for i in left if after.z[row, i] != V}
            block = masked.index(left[0]) // 2 if left else 0
            assert new <= set(masked[2 * block : 2 * block + 2])


@pytest.mark.heavy
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [3, 20])
def test_templates_of_other_rows_change_nothing(tiny_denoiser, name, steps):
    """Rows with masks of their own in one batch are, bit by bit, what they are alone; what is given is kept."""
    kind = SAMPLERS[name]
    model = tiny_denoiser(V=V, length=L, process=kind.process, layers=1, time_conditioned=True)
    z = batch(model.blank_id)
    sampler = kind(steps, rows_per_call=4)
    states = list(sampler.trajectory(model, z, range(len(z)), 3))
    assert states[0].t == 1.0 and states[-1].t == 0.0
    last = states[-1]
    assert torch.equal(last.z[z != model.blank_id], z[z != model.blank_id]) and (last.z < V).all()
    for row, masked in enumerate(PLACES):
        *_, alone = sampler.trajectory(model, z[row : row + 1], [row], 3)
        assert torch.equal(alone.z[0], last.z[row]) and int(alone.nfe[0]) == int(last.nfe[row])
        assert (int(last.nfe[row]) > 0) == bool(masked)
        if not kind.remasks and name != "gumbel-race":  # that asks a timed network at every step
            assert int(last.nfe[row]) <= len(masked)


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_without_a_mask_come_back_with_no_call(tiny_denoiser, name, monkeypatch):
    model = tiny_denoiser(V=V, length=L, process=SAMPLERS[name].process)
    monkeypatch.setattr(model, "hidden", lambda *_, **__: pytest.fail("the network was called"))
    template, told = torch.arange(L), []
    ids, nfe = sample(SAMPLERS[name](4), model, 3, L, template=template, tell=told.append)
    assert torch.equal(ids, template.repeat(3, 1)) and (nfe == 0).all()
    assert told[-1] == 1.0


@pytest.mark.parametrize("name", [name for name, kind in SAMPLERS.items() if kind.process == "masked"])
def test_a_row_starts_at_time_1_whatever_is_given(tiny_denoiser, name, monkeypatch):
    """A network that is told the time is asked at t = 1 first and then at falling times, as where nothing is given."""
    model = tiny_denoiser(V=V, length=L, schedule=Cosine(), time_conditioned=True).requires_grad_(False)
    asked, original = [], model.hidden
    monkeypatch.setattr(model, "hidden", lambda z, t, *a, **k: asked.append(float(t[0])) or original(z, t, *a, **k))
    options = {"order": "stratified"} if name == "ancestral" else {}
    z = batch(V, places=[[3, 4, 9, 15]])
    list(SAMPLERS[name](4, rows_per_call=1, **options).trajectory(model, z, [0], 0))
    assert len(asked) >= 2 and asked == sorted(asked, reverse=True)
    if name != "remdm":
        assert asked[0] == 1.0
    if name == "confidence":  # 0, 1, 2 and 3 of 4 are visible
        shares = torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64)
        assert asked == pytest.approx(Cosine().t_of_alpha(shares).tolist(), abs=1e-6)


def test_left_to_right_takes_a_step_only_where_a_token_is_wanted(tiny_denoiser):
    model = tiny_denoiser(V=V, length=L, process="autoregressive").requires_grad_(False)
    states = list(Causal().trajectory(model, batch(V, places=[[3, 9], [9, 15]]), range(2), 0))
    assert [step.t for step in states] == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
    assert [step.nfe.tolist() for step in states] == [[0, 0], [1, 0], [2, 1], [2, 2]]
