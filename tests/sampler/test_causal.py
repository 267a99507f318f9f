"""Left to right: the law of whole rows against exact likelihood, a slow twin, and what a template's tokens do."""

from itertools import product

import torch

from mcd.eval.likelihood import nelbo_rows
from mcd.process.categorical import sample_inverse_cdf, temper
from mcd.sampler import sample
from mcd.sampler.base import row_generator
from mcd.sampler.causal import Causal


def test_rows_agree_with_one_token_at_a_time_on_prefixes_alone(tiny_denoiser):
    model = tiny_denoiser(process="autoregressive").requires_grad_(False)
    ids, nfe = sample(Causal(3, temperature=0.8, top_p=0.9), model, 4, 12, seed=5)
    assert (nfe == 12).all()
    for row in range(4):
        v = torch.rand(12, dtype=torch.float64, generator=row_generator(5, row))
        said = [model.mask_id]
        for i in range(12):
            log_p = model.log_x_theta(model.hidden(torch.tensor([said]), torch.zeros(1)))[-1:]
            said.append(int(sample_inverse_cdf(temper(log_p, 0.8, 0.9), v[i : i + 1])))
        assert said[1:] == ids[row].tolist()


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
