"""Losses at the head against torch.distributions."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from mcd.model.head import cross_entropy_rows, divergence_rows, tempered


@pytest.fixture
def log_p(seeded):
    return torch.randn(9, 31, generator=seeded(0), dtype=torch.float64).mul(3).log_softmax(-1)


@pytest.fixture
def log_q(seeded):
    return torch.randn(9, 31, generator=seeded(1), dtype=torch.float64).mul(3).log_softmax(-1)


def test_divergences_are_kullback_leibler(log_p, log_q):
    p, q = Categorical(logits=log_p), Categorical(logits=log_q)
    torch.testing.assert_close(divergence_rows(log_p, log_q, "reverse"), kl_divergence(p, q))
    torch.testing.assert_close(divergence_rows(log_p, log_q, "forward"), kl_divergence(q, p))


def test_squared_difference_of_log_probs(log_p, log_q):
    expected = torch.nn.functional.mse_loss(log_p, log_q, reduction="none").sum(-1) / 31
    torch.testing.assert_close(divergence_rows(log_p, log_q, "mse"), expected)


def test_total_variation_is_the_largest_difference_of_an_event(log_p, log_q):
    p, q = log_p.exp(), log_q.exp()
    event = p > q
    torch.testing.assert_close(divergence_rows(log_p, log_q, "tv"), ((p - q) * event).sum(-1))
    apart = torch.tensor([[0.0, -1e6]]), torch.tensor([[-1e6, 0.0]])
    assert divergence_rows(*apart, "tv") == 1.0


@pytest.mark.parametrize("direction", ["reverse", "forward", "mse", "tv"])
def test_divergences_are_nonnegative_and_zero_at_equality(log_p, log_q, direction):
    assert (divergence_rows(log_p, log_q, direction) > 0).all()
    assert divergence_rows(log_p, log_p, direction).abs().max() == 0


def test_unknown_direction_names_the_known(log_p, log_q):
    with pytest.raises(ValueError, match=r"sideways.*reverse, forward, mse, tv"):
        divergence_rows(log_p, log_q, "sideways")


def test_cross_entropy_is_the_log_prob_of_the_token(log_p):
    ids = torch.arange(9) * 3
    torch.testing.assert_close(cross_entropy_rows(log_p, ids), -Categorical(logits=log_p).log_prob(ids))


def test_tempering(seeded):
    logits = torch.randn(4, 11, generator=seeded(2))
    assert torch.equal(tempered(logits, 1.0), logits.log_softmax(-1))
    torch.testing.assert_close(tempered(logits, 0.5).exp(), (logits.exp() ** 2) / (logits.exp() ** 2).sum(-1)[:, None])
    assert tempered(logits.bfloat16(), 0.5).dtype == torch.float32
    assert tempered(logits.double(), 0.5).dtype == torch.float64
