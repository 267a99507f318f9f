"""The moving average against its formula, one number at a time."""

import pytest
import torch

from mcd.model.ema import EMA
from mcd.training.state import Skeleton


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_formula_with_warm_up(decay, seeded):
    module = torch.nn.Linear(3, 2).double()
    ema = EMA(module, decay)
    slow = {name: p.detach().clone() for name, p in module.named_parameters()}
    for n in range(1, 30):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn(p.shape, generator=seeded(n), dtype=p.dtype))
        ema.update(module)
        d = min(decay, (1 + n) / (10 + n))
        for name, p in module.named_parameters():
            slow[name] = d * slow[name] + (1 - d) * p.detach()
    assert ema.updates == 29
    torch.testing.assert_close(ema.shadow, slow)


def test_a_model_of_the_average_overwrites_and_shares_nothing(tiny_denoiser):
    module, name = tiny_denoiser(), "backbone.embedding"
    ema, skeleton = EMA(module, 0.9), Skeleton(module)
    before = {name: p.clone() for name, p in ema.shadow.items()}
    torch.nn.init.zeros_(module.backbone.embedding)
    torch.testing.assert_close(ema.shadow, before, rtol=0, atol=0)
    averaged = skeleton.filled(module, ema.shadow)
    assert torch.equal(averaged.backbone.embedding, before[name])
    torch.nn.init.zeros_(averaged.backbone.embedding)
    assert torch.equal(ema.shadow[name], before[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(torch.nn.Linear(1, 1), decay)
