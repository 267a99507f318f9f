"""Products in bfloat16: logits and draws stay wide, and few tokens are others."""

import pytest
import torch

from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.confidence import Confidence

V, L = 23, 16


@pytest.fixture
def models(tiny_denoiser):
    """One model in float32, and the same in bfloat16."""
    wide, narrow = (tiny_denoiser(V=V, length=L, hidden=32).requires_grad_(False) for _ in range(2))
    narrow.dtype = torch.bfloat16
    return wide, narrow


def test_only_the_products_of_the_network_are_narrow(models):
    wide, narrow = models
    z, t = torch.full((2, L), V), torch.ones(2)
    h, g = (model.hidden(z, t) for model in models)
    assert g.dtype == narrow.logits(g).dtype == torch.float32
    assert 0 < (h - g).norm() / h.norm() < 0.03
    assert torch.equal(wide.logits(h), narrow.logits(h))
    assert (wide.dtype_said, narrow.dtype_said) == (None, "bfloat16")


def test_few_tokens_flip(models):
    """With the same u and v a token of one call is another where v falls between two cumulative sums: its probability
    is at most sum_k |F_k - G_k| over the vocabulary, which is bounded by the logits."""
    (one, _), (other, _) = (sample(Ancestral(1, rows_per_call=16), model, 128, L, seed=3) for model in models)
    flips = (one != other).double().mean().item()
    z, t = torch.full((16, L), V), torch.ones(16)
    cdf, rough = (model.log_x_theta(model.hidden(z, t)).double().exp().cumsum(-1) for model in models)
    bound = (cdf - rough).abs().sum(-1).mean().item()
    assert 0 < flips < bound + 4.5 * (bound / one.numel()) ** 0.5 and bound < 0.1


@pytest.mark.parametrize("sampler", [Ancestral(4), Confidence(4)], ids=repr)
def test_a_row_depends_on_no_other(models, sampler):
    _, narrow = models
    together, _ = sample(sampler, narrow, 5, L)
    alone = [sample(sampler, narrow, 1, L, first_row=n)[0] for n in range(5)]
    assert torch.equal(together, torch.cat(alone))
