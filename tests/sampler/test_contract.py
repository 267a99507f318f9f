"""What every sampler must satisfy, whichever files are in mcd/sampler."""

from itertools import pairwise

import pytest
import torch

from mcd.model.shapes import CALL_SIZE, CALL_TOKENS
from mcd.process.schedule import Cosine, Linear, LogLinear
from mcd.sampler import SAMPLERS, sample

V, L = 23, 16


@pytest.fixture(params=SAMPLERS)
def kind(request):
    return SAMPLERS[request.param]


@pytest.fixture
def model(kind, tiny_denoiser):
    return tiny_denoiser(V=V, length=L, process=kind.process).requires_grad_(False)


@pytest.fixture
def one_token(kind, model):
    """Log-probs of a row of one token, (1, V): for these processes the first prediction is the law of the draw."""
    if kind.process == "uniform":
        pytest.skip("a token is redrawn at every step")
    if kind.process == "locked":
        pytest.skip("the first prediction depends on the noise of the row")
    return model.log_x_theta(model.hidden(torch.full((1, 1), V), torch.ones(1)))


def blanks(model, num, length=L):
    """Rows of nothing but wanted text."""
    return torch.full((num, length), model.blank_id)


@pytest.fixture
def calls(model, monkeypatch):
    """Every network call: the states it was given, (rows, L), or what it read of them, (rows, 1, D)."""
    seen = []

    def watched(original):
        return lambda z, *a, **k: seen.append(z.clone()) or original(z, *a, **k)

    monkeypatch.setattr(model, "hidden", watched(model.hidden))
    monkeypatch.setattr(model.backbone, "read", watched(model.backbone.read))
    return seen


def trajectory(sampler, model, rows=range(5), seed=0):
    return list(sampler.trajectory(model, blanks(model, len(rows)), rows, seed))


def test_the_samplers_are_found():
    assert {"ancestral", "gumbel-race"} <= SAMPLERS.keys()
    assert all(kind.name == name for name, kind in SAMPLERS.items())


@pytest.mark.heavy
def test_a_function_of_seed_and_row(kind, model):
    ids, nfe = sample(kind(8), model, 6, L, seed=1)
    torch.manual_seed(123)
    again, nfe_again = sample(kind(8), model, 6, L, seed=1)
    assert torch.equal(ids, again) and torch.equal(nfe, nfe_again)
    other, _ = sample(kind(8), model, 6, L, seed=2)
    assert (ids != other).any(dim=1).all()  # each row of another seed is another
    assert len({tuple(row) for row in ids.tolist()}) == 6


@pytest.mark.parametrize(
    "rows_per_call", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)]
)
def test_what_shares_a_batch_never_changes_a_row(kind, model, rows_per_call):
    """Bit for bit, with rows_per_call fixed. (Another rows_per_call is another shape of matrix products.)"""
    sampler = kind(8, rows_per_call=rows_per_call)
    ids, nfe = sample(sampler, model, 11, L, seed=1)
    for row in (0, 4, 10):
        one, nfe_one = sample(sampler, model, 1, L, seed=1, first_row=row)
        assert torch.equal(one[0], ids[row]) and nfe_one[0] == nfe[row]
    part, _ = sample(sampler, model, 4, L, seed=1, first_row=5)
    assert torch.equal(part, ids[5:9])


def test_hidden_states_of_a_row_have_the_same_bits_wherever_it_stands(model, seeded):
    """What the batch independence above rests on: padded calls of one shape."""
    z = torch.randint(0, model.config.backbone.rows, (8, L), generator=seeded(0))
    noise = torch.randn(8, L, 16, generator=seeded(1))
    whole = model.hidden(z, torch.ones(8), noise).view(8, L, -1)
    for row in range(8):
        padded = (torch.cat((x[row : row + 1], x[:1].expand(7, *x.shape[1:]))) for x in (z, torch.ones(8), noise))
        assert torch.equal(model.hidden(*padded).view(8, L, -1)[0], whole[row])


@pytest.mark.parametrize("schedule", [LogLinear(), Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("steps", [1, 7, pytest.param(64, marks=pytest.mark.slow)])
def test_no_mask_is_left(kind, tiny_denoiser, schedule, steps):
    model = tiny_denoiser(V=V, length=L, schedule=schedule, process=kind.process).requires_grad_(False)
    ids, _ = sample(kind(steps), model, 4, L)
    assert ids.shape == (4, L) and ids.dtype == torch.int64
    assert ((ids >= 0) & (ids < V)).all()


def test_a_template_is_kept(kind, model):
    template = torch.full((10,), V)
    template[[0, 3, 9]] = torch.tensor([5, 6, 7])
    ids, nfe = sample(kind(4), model, 3, 10, template=template)
    assert (ids[:, [0, 3, 9]] == torch.tensor([5, 6, 7])).all()
    assert (ids < V).all() and (nfe >= 1).all()
    ids, nfe = sample(kind(4), model, 2, 10, template=torch.arange(10))
    assert (ids == torch.arange(10)).all() and (nfe == 0).all()


@pytest.mark.heavy
def test_nfe_is_the_number_of_network_calls_made_for_a_row(kind, model, calls):
    """One row a call and no padding: each call is some row's, and the counts must add up, step by step."""
    sampler = kind(16, rows_per_call=1)
    for row in range(2):
        calls.clear()
        for step in sampler.trajectory(model, blanks(model, 1), [row], 0):
            assert int(step.nfe[0]) == len(calls)
    calls.clear()
    _, nfe = sample(sampler, model, 3, L)
    assert int(nfe.sum()) == len(calls)


@pytest.mark.heavy
def test_a_call_carries_as_many_rows_as_it_is_told_to(kind, model, calls):
    _, nfe = sample(kind(8, rows_per_call=3), model, 7, L)
    assert {tuple(z.shape[:2]) for z in calls} == {(3, 1 if kind.process == "autoregressive" else L)}
    assert len(calls) * 3 >= int(nfe.sum()) > len(calls)


@pytest.mark.parametrize("hidden", [16, 512])
@pytest.mark.parametrize("length", [1, 3, 512, 1024])
def test_a_call_carries_as_many_tokens_when_not_told(kind, tiny_denoiser, length, hidden):
    """A function of the model and the length: at least one row, and no more tokens than a call should have."""
    model = tiny_denoiser(V=V, length=1024, hidden=hidden, layers=1, process=kind.process)
    rows, most = kind(8).rows_for(model, length), min(CALL_TOKENS, CALL_SIZE // hidden)
    if kind.process == "autoregressive":  # it computes a token of a row at a time
        most = model.shapes.few_rows * length
    assert rows == 1 or rows * length <= most
    assert (rows + 1) * length > most
    assert kind(8, rows_per_call=5).rows_for(model, length) == 5


def test_how_far_it_is(kind, model):
    told = []
    sample(kind(8), model, 3, L, tell=told.append)
    assert told == sorted(told) and told[-1] == 1.0 and 8 <= len(told) <= L


@pytest.mark.heavy
@pytest.mark.parametrize("steps", [1, 2, 8, 64])
def test_calls_are_at_most_steps_and_at_most_tokens(kind, model, steps):
    _, nfe = sample(kind(steps), model, 6, L)
    extra = kind.name == "gumbel-race"  # its noise removal
    most = steps if kind.remasks else min(steps + extra, L)
    if kind.process == "autoregressive":  # left to right: steps mean nothing
        most = L
    assert (nfe >= 1).all() and (nfe <= most).all()


def test_steps_go_down_in_time_and_only_ever_reveal(kind, model):
    states = trajectory(kind(8), model)
    assert states[0].t == 1.0 and (states[0].nfe == 0).all()
    assert kind.process == "uniform" or (states[0].z == V).all()
    assert states[-1].t == 0.0
    for before, after in pairwise(states):
        assert after.t < before.t
        assert (after.nfe - before.nfe <= 1).all() and (after.nfe >= before.nfe).all()
        if kind.process == "uniform":
            continue
        visible = before.z != V
        kept = visible & (after.z != V) if kind.remasks else visible
        assert torch.equal(after.z[kept], before.z[kept])
        revealed = ((after.z != V) & visible.logical_not()).any(dim=1)
        if kind.name == "ancestral":
            assert torch.equal(after.nfe - before.nfe == 1, revealed)
    states[1].z.fill_(0)  # states are copies: keeping or changing one does no harm
    assert not torch.equal(states[1].z, states[2].z)


def test_low_temperature_is_the_argmax(kind, model, one_token):
    """One token a row: the most probable one at every seed."""
    ids, _ = sample(kind(1, temperature=1e-3), model, 50, 1)
    assert (ids == one_token.argmax()).all()


def test_the_nucleus_is_all_that_is_drawn(kind, model, one_token):
    p = one_token[0].exp()
    order = p.argsort(descending=True)
    size = int((p[order].cumsum(0) < 0.5).sum()) + 1
    ids, _ = sample(kind(1, top_p=0.5), model, 200, 1)
    assert set(ids.flatten().tolist()) <= set(order[:size].tolist())
    assert len(set(ids.flatten().tolist())) > 1 or size == 1


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_one_token_is_drawn_from_the_softmax(kind, model, one_token, steps):
    n, p = 3000, one_token[0].exp()
    ids, _ = sample(kind(steps, rows_per_call=256), model, n, 1, seed=4)
    counts = torch.bincount(ids[:, 0], minlength=V)
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum().item()
    assert chi_square < 60.0  # 22 degrees of freedom: the 1 - 2e-5 quantile


@pytest.mark.parametrize(
    "options, option",
    [
        ({"steps": 0}, "--steps 0"),
        ({"steps": -3}, "--steps -3"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"temperature": -1.0}, "--temperature -1.0"),
        ({"temperature": float("inf")}, "--temperature inf"),
        ({"top_p": 0.0}, "--top-p 0.0"),
        ({"top_p": 1.1}, "--top-p 1.1"),
        ({"rows_per_call": -1}, "--rows-per-call -1"),
    ],
)
def test_bad_options_are_named(kind, options, option):
    with pytest.raises(ValueError, match=option):
        kind(**options)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"num": 0, "length": 4}, "--num 0"),
        ({"num": 1, "length": 4, "seed": -1}, "--seed -1"),
        ({"num": 1, "length": 0}, "--length 0"),
        ({"num": 1, "length": 65537}, "--length 65537: must be 1 to 65,536"),
        ({"num": 1, "length": 4, "first_row": -1}, "--first-row -1"),
        ({"num": 1, "length": 4, "template": torch.zeros(5, dtype=torch.int64)}, "--template of 5 tokens"),
        ({"num": 1, "length": 2, "template": torch.tensor([0, 24])}, "--template: holds ids outside"),
    ],
)
def test_bad_requests_are_named(kind, model, options, match):
    with pytest.raises(ValueError, match=match):
        sample(kind(2), model, **options)


def test_the_protocol_tells_what_decides_the_samples(kind):
    stamp = kind(4, temperature=0.7, top_p=0.9).protocol()
    assert stamp["sampler"] == kind.name and stamp["temperature"] == 0.7 and stamp["top_p"] == 0.9
    assert {"order", "precision", "grid"} <= stamp.keys()
