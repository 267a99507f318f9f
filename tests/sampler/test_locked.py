"""Rows revealed on locked schedules against a plain loop over steps, one row at a time, and what its calls carry."""

from dataclasses import replace

import pytest
import torch

import mcd.sampler.base
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral

V, L = 23, 16


@pytest.fixture
def model(tiny_denoiser):
    return tiny_denoiser(V=V, length=L, time_conditioned=True).requires_grad_(False)


def request_of(seeded, rows, steps, seed=0):
    """Rows with templates of their own: z, step, v, times. Some rows are given whole, some have nothing given."""
    g = seeded(seed)
    given = torch.rand(rows, L, generator=g) < torch.linspace(0, 1, rows)[:, None].roll(1, 0)
    z = torch.where(given, torch.randint(V, (rows, L), generator=g), V)
    step = torch.randint(steps, (rows, L), generator=g).masked_fill(given, -1)
    v = torch.rand(rows, L, dtype=torch.float64, generator=g)
    return z, step, v, torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


@pytest.fixture
def carried(monkeypatch):
    """Of each call the times of its rows, and the tokens wanted of each."""
    seen = []
    original = Ancestral.hidden

    def watched(self, denoiser, z, t, where):
        seen.append((t.tolist(), [(where[where // L == n] % L).tolist() for n in range(len(z))]))
        return original(self, denoiser, z, t, where)

    monkeypatch.setattr(Ancestral, "hidden", watched)
    return seen


def slow_row(model, z, step, v, times):
    """Every state of one row and its calls, by a loop over all steps that draws token by token."""
    z, nfe = z.clone(), 0
    states = [(z.tolist(), nfe)]
    for k in range(len(times) - 1):
        log_p = model.log_x_theta(model.hidden(z[None], times[k : k + 1].float()))
        due = [i for i in range(L) if step[i] == k]
        for i in due:
            z[i] = int((log_p[i].double().exp().cumsum(0) > v[i]).nonzero()[0])
        nfe += bool(due)
        states.append((z.tolist(), nfe))
    return states


@pytest.mark.parametrize("rows_per_call", [0, 1, 3, 16])
@pytest.mark.parametrize("steps", [1, 6, pytest.param(40, marks=pytest.mark.slow)])
def test_agrees_with_rows_one_at_a_time(model, seeded, rows_per_call, steps):
    z, step, v, times = request_of(seeded, 7, steps)
    before = z.clone()
    states = list(Ancestral(steps, rows_per_call=rows_per_call).reveal_locked(model, z, step, v, times))
    assert [state.t for state in states] == times.tolist()
    assert torch.equal(z, before)
    for n in range(7):
        slow = slow_row(model, z[n], step[n], v[n], times)
        assert [(state.z[n].tolist(), int(state.nfe[n])) for state in states] == slow


@pytest.mark.parametrize("few", [1, 32])
@pytest.mark.parametrize("rows_per_call", [1, 3, 8])
def test_a_call_takes_the_rows_furthest_behind(model, seeded, carried, rows_per_call, few):
    """Held against a plain simulation: of the rows that do not wait for a draw, and full calls while there are enough.

    Rows wait for each other's draw only if the next call is full all the same.
    """
    model.shapes = replace(model.shapes, few_rows=few)
    N, steps = 11, 20
    z, step, v, times = request_of(seeded, N, steps)
    list(Ancestral(steps, rows_per_call=rows_per_call).reveal_locked(model, z, step, v, times))
    left = [sorted({k for k in row if k >= 0}) for row in step.tolist()]
    waiting, tokens = set(), 0
    for t, places in carried:
        ready = sorted((left[n][0], n) for n in range(N) if left[n] and n not in waiting)
        if tokens >= few or len(ready) < rows_per_call:
            waiting, tokens = set(), 0
            ready = sorted((left[n][0], n) for n in range(N) if left[n])
        turn = ready[:rows_per_call]
        assert t == times[[k for k, _ in turn]].float().tolist()
        assert places == [[i for i in range(L) if step[n, i] == k] for k, n in turn]
        tokens += sum(map(len, places))
        for _, n in turn:
            waiting.add(n)
            left[n].pop(0)
    assert not any(left)


def test_a_state_is_shown_before_a_call_that_it_does_not_need(model, seeded, carried):
    """With all rows in one call: each call has some row that the state to come waits for."""
    steps, shown = 20, 0
    z, step, v, times = request_of(seeded, 11, steps)
    for k, _ in enumerate(Ancestral(steps, rows_per_call=11).reveal_locked(model, z, step, v, times)):
        new, shown = carried[shown:], len(carried)
        assert k > 0 or new == []
        assert all(max(t) >= times[k - 1].float().item() for t, _ in new)


def test_calls_are_fewer_than_in_lockstep(model, carried):
    """steps = L leaves about a third of the rows idle at a step; here they continue without the others."""
    rows, steps = 8, L
    sampler = Ancestral(steps, rows_per_call=rows)
    _, nfe = sample(sampler, model, rows, L)
    assert len(carried) == int(nfe.max()) < steps
    carried.clear()
    _, nfe = sample(Ancestral(steps, rows_per_call=4), model, 30, L)
    assert len(carried) <= int(nfe.sum()) / 4 + int(nfe.max()) / 4


def test_bits_of_a_row_do_not_depend_on_its_company(model, seeded, monkeypatch):
    """Its logits and not just its ids: alone, among 5, among 16, and among rows with other templates."""
    original, steps = mcd.sampler.masked.sample_inverse_cdf, 12
    seen = {}

    def watched(logits, v, *options):
        seen.update(zip(v.tolist(), logits.clone(), strict=True))
        return original(logits, v, *options)

    monkeypatch.setattr(mcd.sampler.masked, "sample_inverse_cdf", watched)
    sampler = Ancestral(steps, rows_per_call=4)
    z, step, v, times = request_of(seeded, 16, steps)
    z[0], step[0] = V, torch.randint(steps, (L,), generator=seeded(1))

    def logits_of_row_0(company):
        seen.clear()
        rows = [*company, 0]
        *_, last = sampler.reveal_locked(model, z[rows], step[rows], v[rows], times)
        return torch.stack([seen[one] for one in v[0].tolist()]), last.z[-1], int(last.nfe[-1])

    alone = logits_of_row_0([])
    for company in (range(1, 5), range(1, 16), [7, 9], [3, 3, 3, 3, 3]):
        logits, ids, nfe = logits_of_row_0(company)
        assert torch.equal(logits, alone[0]) and torch.equal(ids, alone[1]) and nfe == alone[2]


def test_nothing_to_do_makes_no_call(model, carried):
    z = torch.zeros(2, L, dtype=torch.int64)
    v, times = torch.zeros(2, L, dtype=torch.float64), torch.linspace(1, 0, 4, dtype=torch.float64)
    states = list(Ancestral(3).reveal_locked(model, z, torch.full((2, L), -1), v, times))
    assert len(states) == 4 and carried == []
    assert all(torch.equal(state.z, z) and state.nfe.tolist() == [0, 0] for state in states)
