"""Left to right: the law of whole rows against exact likelihood, a slow twin, and what a template's tokens do."""

from itertools import product

import pytest
import torch

from mcd.eval.likelihood import nelbo_rows
from mcd.process.categorical import sample_inverse_cdf, temper
from mcd.process.transfer import flat_rows
from mcd.sampler import sample
from mcd.sampler.base import row_generator
from mcd.sampler.causal import Causal


def slow_twin(model, z, rows, seed, temperature=1.0, top_p=1.0):
    """One token at a time, each by the network over its whole prefix."""
    z = z.clone()
    for n, row in enumerate(rows):
        v = torch.rand(z.shape[1], dtype=torch.float64, generator=row_generator(seed, row))
        for i in flat_rows(z[n] == model.blank_id).tolist():
            prefix = torch.cat((torch.tensor([model.mask_id]), z[n, :i]))[None]
            log_p = model.log_x_theta(model.hidden(prefix, torch.zeros(1)))[-1:]
            z[n, i] = sample_inverse_cdf(temper(log_p, temperature, top_p), v[i : i + 1])
    return z


def test_rows_agree_with_one_token_at_a_time_on_prefixes_alone(tiny_denoiser):
    model = tiny_denoiser(process="autoregressive").requires_grad_(False)
    z = torch.full((4, 12), model.blank_id)
    ids, nfe = sample(Causal(3, temperature=0.8, top_p=0.9), model, 4, 12, seed=5)
    assert (nfe == 12).all()
    assert torch.equal(ids, slow_twin(model, z, range(4), 5, 0.8, 0.9))


@pytest.mark.parametrize("rows_per_call", [0, 2])
def test_given_tokens_are_read_and_rows_follow_in_groups(tiny_denoiser, rows_per_call):
    """Rows in which other tokens are wanted, more than a call takes; and each state is what is known by then."""
    model = tiny_denoiser(process="autoregressive").requires_grad_(False)
    z = torch.full((7, 16), model.blank_id)
    z[::2, :5] = 3
    z[::2, 9:12] = 4
    z[3] = 5
    *_, before, last = states = list(Causal(rows_per_call=rows_per_call).trajectory(model, z, range(7), 1))
    assert torch.equal(last.z, slow_twin(model, z, range(7), 1))
    assert last.nfe.tolist() == (z == model.blank_id).sum(1).tolist()
    assert (before.z[:, 15] == model.blank_id).tolist() == (z[:, 15] == model.blank_id).tolist()
    assert len(states) == 17 and torch.equal(states[0].z, z)


def test_rows_that_are_longer_than_the_model(tiny_denoiser):
    """In windows; the first is as of a row of its length, and a later one reads what the one before has written."""
    model = tiny_denoiser(process="autoregressive").requires_grad_(False)
    ids, nfe = sample(Causal(), model, 3, 24, seed=2)
    first, _ = sample(Causal(), model, 3, 16, seed=2)
    assert torch.equal(ids[:, :16], first) and (nfe == 24).all() and (ids != model.blank_id).all()


def test_rows_follow_the_likelihood(tiny_denoiser):
    model = tiny_denoiser(V=3, process="autoregressive").requires_grad_(False)
    everything = torch.tensor(list(product(range(3), repeat=3)))
    p = (-3 * nelbo_rows(model, everything, torch.Generator()).double()).exp()
    n = 4000
    ids, _ = sample(Causal(rows_per_call=500), model, n, 3, seed=2)
    counts = torch.bincount((ids * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    kept = p * n > 1
    chi_square = ((counts - n * p) ** 2 / (n * p))[kept].sum().item()
    assert chi_square < 65.0  # at most 26 degrees of freedom: beyond the 1 - 3e-5 quantile


def test_steps_mean_nothing_and_given_tokens_take_no_call(tiny_denoiser):
    model = tiny_denoiser(process="autoregressive").requires_grad_(False)
    assert torch.equal(sample(Causal(1), model, 3, 10)[0], sample(Causal(64), model, 3, 10)[0])
    template = torch.full((10,), model.blank_id)
    template[[2, 9]] = torch.tensor([7, 8])
    ids, nfe = sample(Causal(), model, 3, 10, template=template)
    free, _ = sample(Causal(), model, 3, 10)
    assert (nfe == 8).all() and (ids[:, [2, 9]] == torch.tensor([7, 8])).all()
    assert torch.equal(ids[:, :2], free[:, :2])  # what is given further right is not seen
