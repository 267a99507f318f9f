"""Next-token cross-entropy against one network call a token, and its likelihood against all sequences there are."""

from itertools import product

import pytest
import torch

from mcd.eval.likelihood import nelbo, nelbo_rows
from mcd.objective import Clock
from mcd.objective.ar import AR


def one_at_a_time(model, row):
    """-log p of a row of ids, each token predicted from a row that ends before it."""
    total = 0.0
    for i, token in enumerate(row.tolist()):
        before = torch.cat((torch.tensor([model.mask_id]), row[:i]))[None]
        total -= model.log_x_theta(model.hidden(before, torch.zeros(1)))[-1, token].item()
    return total


@pytest.mark.heavy
def test_the_loss_is_the_mean_over_tokens_of_one_call_each(tiny_denoiser, seeded, draws_of):
    model = tiny_denoiser(process="autoregressive")
    x0 = torch.randint(0, 23, (3, 16), generator=seeded(0))
    loss = AR().loss(model, None, x0, Clock(), draws_of(x0))
    slow = sum(one_at_a_time(model, row) for row in x0) / x0.numel()
    assert abs(loss.total.item() - slow) < 1e-5
    assert loss.as_floats()["cross_entropy"] == loss.total.item() and loss.counts["tokens"] == x0.numel()
    assert torch.allclose(nelbo_rows(model, x0, seeded(0)).mean(), loss.total.detach(), atol=1e-6)


def test_probabilities_of_all_sequences_sum_to_one(tiny_denoiser):
    model = tiny_denoiser(V=4, process="autoregressive")
    everything = torch.tensor(list(product(range(4), repeat=4)))
    p = (-4 * nelbo_rows(model, everything, torch.Generator()).double()).exp()
    assert abs(p.sum().item() - 1.0) < 1e-5
    assert p.max() > 4 / 256  # far from uniform


def test_the_likelihood_is_exact_whatever_the_seed_and_the_draws(tiny_denoiser, seeded, draws_of):
    model = tiny_denoiser(process="autoregressive")
    x0 = torch.randint(0, 23, (6, 16), generator=seeded(1))
    assert nelbo(model, [x0], seed=1) == nelbo(model, [x0[:]], seed=2)
    assert abs(nelbo(model, [x0[:2], x0[2:]], draws=3)["valid_nelbo"] - nelbo(model, [x0])["valid_nelbo"]) < 1e-6


@pytest.mark.heavy
def test_it_learns_which_token_follows_which(tiny_denoiser, seeded, draws_of):
    """A cycle 0, 1, ..., 4 from a random start: after the first token (log 5) nothing is uncertain."""
    model = tiny_denoiser(V=5, length=8, hidden=32, process="autoregressive", scale=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(80):
        x0 = (torch.randint(0, 5, (16, 1), generator=seeded(step)) + torch.arange(8)) % 5
        loss = AR().loss(model, None, x0, Clock(), draws_of(x0)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x0 = (torch.arange(5)[:, None] + torch.arange(8)) % 5
    exact = torch.tensor(5.0).log().item() / 8
    assert exact - 1e-3 < nelbo(model, [x0])["valid_nelbo"] < exact + 0.05
