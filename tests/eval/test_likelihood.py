"""The validation bound against cases whose value is known."""

import math

import pytest
import torch

from mcd.data.loader import Batch
from mcd.eval.equal_entropy import temperature_of_entropy
from mcd.eval.likelihood import nelbo, nelbo_means, nelbo_rows
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig

V = 16


def untrained() -> Denoiser:
    """A fresh network: its head is zero, so it is uniform over the V real tokens."""
    config = DiTConfig(rows=V + 1, hidden=16, layers=1, heads=1, length=32, cond_dim=8)
    return Denoiser(DenoiserConfig(config, mask_id=V)).eval()


def test_a_uniform_model_scores_log_v():
    x0 = torch.randint(0, V, (512, 32), generator=torch.Generator().manual_seed(0))
    measured = nelbo(untrained(), [x0, x0], seed=1)
    # E[mask / t] = 1 - eps for every t, so the bound is (1 - eps) log V on (t_min, 1].
    expected = (1 - 1e-3) * math.log(V)
    assert abs(measured["valid_nelbo"] - expected) < 4 * measured["valid_nelbo_se"]
    assert measured["valid_nelbo_se"] < 0.2
    assert measured["valid_ppl"] == math.exp(measured["valid_nelbo"])


def test_a_uniform_state_model_without_knowledge_scores_the_information_of_the_noise():
    """x_theta = 1/V: the bound is KL(q(z | x0) || 1/V) at t_min less that at t = 1, near log V."""
    config = DiTConfig(rows=V, hidden=16, layers=1, heads=1, length=32, cond_dim=8)
    model = Denoiser(DenoiserConfig(config, mask_id=None, time_conditioned=True)).eval()
    x0 = torch.randint(0, V, (512, 32), generator=torch.Generator().manual_seed(0))
    measured = nelbo(model, [x0, x0, x0, x0], seed=1)

    def information(alpha: float) -> float:
        keep, other = alpha + (1 - alpha) / V, (1 - alpha) / V
        return keep * math.log(V * keep) + (V - 1) * other * math.log(V * other)

    expected = information(1 - (1 - 1e-3) * 1e-3) - information(1e-3)
    assert abs(measured["valid_nelbo"] - expected / (1 - 1e-3)) < 4 * measured["valid_nelbo_se"]
    assert measured["valid_nelbo_se"] < 0.05 and expected > 0.99 * math.log(V)


def test_rows_are_scored_apart():
    model = untrained()
    with torch.no_grad():
        model.backbone.head.linear.bias[:V].copy_(torch.linspace(0, 6, V))
    x0 = torch.stack((torch.full((32,), 0), torch.full((32,), V - 1))).repeat(256, 1)
    draws = nelbo_rows(model, x0, torch.Generator().manual_seed(0))
    log_p = torch.linspace(0, 6, V).log_softmax(0)
    for row, token in ((0, 0), (1, V - 1)):
        mine = draws[row::2]
        error = mine.std().item() / math.sqrt(len(mine))
        assert abs(mine.mean().item() + (1 - 1e-3) * log_p[token].item()) < 4 * error


def test_draws_of_a_row_are_averaged_and_the_error_is_of_rows():
    x0 = torch.randint(0, V, (256, 32), generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(1)
    slow = [sum(nelbo_rows(untrained(), part, generator) for _ in range(3)) / 3 for part in (x0[:100], x0[100:])]
    means = nelbo_means(untrained(), [x0[:100], x0[100:]], draws=3, seed=1)
    torch.testing.assert_close(means, torch.cat(slow))
    measured = nelbo(untrained(), [x0[:100], x0[100:]], seed=1, draws=3)
    assert abs(measured["valid_nelbo_se"] - means.std().item() / 16) < 1e-6
    assert abs(measured["valid_nelbo"] - (1 - 1e-3) * math.log(V)) < 4 * measured["valid_nelbo_se"]


def test_temperature_of_entropy_finds_the_crossing():
    logits = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3

    def entropy_at(temperature: float) -> float:
        return torch.distributions.Categorical(logits=logits / temperature).entropy().item()

    found = temperature_of_entropy(entropy_at, entropy_at(0.73), halvings=20)
    assert abs(found - 0.73) < 1e-5
    assert temperature_of_entropy(entropy_at, -1.0, halvings=20) < 0.5 + 1e-5


@pytest.mark.parametrize("process", ["masked", "uniform", "autoregressive"])
def test_the_bound_of_an_answer_does_not_judge_its_prompt(tiny_denoiser, seeded, process):
    """With the prompt's own tokens always shown, the answer's losses alone are averaged: against a plain sum."""
    model, L = tiny_denoiser(process=process), 16
    x0 = torch.randint(0, 23, (6, L), generator=seeded(0))
    diffused = torch.arange(L) >= torch.arange(1, 7)[:, None]
    seen, hidden = [], model.hidden
    model.hidden = lambda z, *args, **kwargs: seen.append(z) or hidden(z, *args, **kwargs)
    found = nelbo_means(model, [Batch(x0, diffused)], seed=5)
    assert nelbo_means(model, Batch(x0, diffused).split(6), seed=5).equal(found)
    if process != "autoregressive":
        assert all(torch.equal(z[~diffused], x0[~diffused]) for z in seen) and not torch.equal(seen[0], x0)
    changed = torch.where(diffused, x0, (x0 + 1) % 23)
    if process == "autoregressive":
        start = torch.full((6, 1), model.mask_id)
        nll = -model.log_x_theta(hidden(torch.cat((start, x0[:, :-1]), 1), torch.zeros(6))).gather(1, x0.view(-1, 1))
        expected = torch.stack([nll.view(6, L)[b, b + 1 :].mean() for b in range(6)])
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(nelbo_means(model, [Batch(changed, diffused)], seed=5), found)  # the prompt does matter
    assert nelbo_means(model, [x0], seed=5).shape == found.shape == (6,)
    counted = torch.arange(2, 8)  # the rest is padding, whose nats are in the sum
    fewer = nelbo_means(model, [Batch(x0, diffused, counted)], seed=5)
    torch.testing.assert_close(fewer * counted, found * diffused.sum(1))
