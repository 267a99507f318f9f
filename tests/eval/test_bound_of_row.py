"""The bound of one row: the draws that it averages, its windows, and what it is for one wanted token."""

import math

import pytest
import torch

from mcd.eval.bound_of_row import bound_of_row
from mcd.eval.likelihood import nelbo_rows

V, L = 23, 16


def test_it_averages_draws_of_the_bound_of_a_row(tiny_denoiser):
    model = tiny_denoiser(V=V, length=L).requires_grad_(False)
    ids, wanted = torch.arange(L) % V, torch.arange(L) >= 6
    drawn = nelbo_rows(model, ids.expand(8, -1), torch.Generator().manual_seed(3), diffused=wanted.expand(8, -1)) * 10
    nats, error = bound_of_row(model, ids, wanted, draws=8, seed=3)
    assert nats == pytest.approx(drawn.mean().item(), rel=1e-5)
    assert error == pytest.approx(drawn.std().item() / math.sqrt(8), rel=1e-4)
    assert math.isnan(bound_of_row(model, ids, wanted, draws=1)[1])


def test_one_wanted_token_has_its_own_conditional(tiny_denoiser):
    """The mean over many draws is -log p(token | all others): what the network says of a row with that one mask."""
    model = tiny_denoiser(V=V, length=L).requires_grad_(False)
    ids, wanted = torch.arange(L) % V, torch.arange(L) == 4
    row = ids.masked_fill(wanted, model.mask_id)[None]
    log_p = model.log_x_theta(model.hidden(row, torch.ones(1), rows=torch.tensor([4])))[0, 4].item()
    nats, error = bound_of_row(model, ids, wanted, draws=2048)
    assert nats == pytest.approx(-log_p, abs=4 * error) and error < 0.1 * nats


def test_a_long_row_is_the_sum_of_its_windows_and_a_frame_is_given(tiny_denoiser):
    model = tiny_denoiser(V=V, length=L, process="autoregressive").requires_grad_(False)
    ids = torch.arange(24) % V
    every, late = torch.ones(24, dtype=torch.bool), torch.arange(L) >= 8
    first, _ = bound_of_row(model, ids[:16], every[:16])
    second, _ = bound_of_row(model, ids[8:], late)
    assert bound_of_row(model, ids, every) == (pytest.approx(first + second, rel=1e-6), 0.0)
    masked = tiny_denoiser(V=V, length=L).requires_grad_(False)
    framed = torch.cat((torch.tensor([1]), ids[:14], torch.tensor([2])))
    inside = torch.nn.functional.pad(every[:14], (1, 1))
    one, other = (
        bound_of_row(masked, ids[:14], every[:14], 4, frame=(1, 2)),
        bound_of_row(masked, framed, inside, 4),
    )
    assert one == pytest.approx(other)
