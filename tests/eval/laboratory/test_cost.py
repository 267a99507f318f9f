"""The arithmetic of drawing and scoring, against what PyTorch counts and what a sampler really does."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

import mcd.model.linear
from mcd.checkpoints.folder import from_pretrained
from mcd.eval.laboratory import cost
from mcd.eval.laboratory.experiment import Cell, sampler_options
from mcd.model.sizes import sizes_of
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral


@pytest.mark.parametrize("order", ["iid", "low-discrepancy"])
@pytest.mark.parametrize("steps", [2, 8, 40])
def test_calls_are_those_that_a_sampler_makes(tiny_denoiser, order, steps):
    cell = Cell("m", steps, 400, "m", length=12, options=sampler_options(order=order))
    _, nfe = sample(Ancestral(steps, order=order), tiny_denoiser(length=12), cell.num, 12, 0)
    assert cost.calls_of(cell) == pytest.approx(nfe.double().mean().item(), rel=0.04)


def test_drawing_is_what_pytorch_counts(monkeypatch):
    monkeypatch.setattr(mcd.model.linear, "ONEDNN", False)  # whose products it does not count
    model, cell = from_pretrained("demo"), Cell("demo", 4, 4, "teacher", length=128)
    with FlopCounterMode(display=False) as counter:
        sample(Ancestral(4), model, cell.num, 128, 0)
    assert cost.drawing(sizes_of(model.config.backbone), cell) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_rate_is_that_of_the_fastest_product():
    ticks = iter([0.0, 1.0, 3.0, 3.0, 3.5, 4.0, 6.0])
    rate = cost.rate_of_products(5.0, lambda: next(ticks))
    assert rate == pytest.approx(2 * 256 * 576 * 1536 / 0.5)
    assert cost.seconds(rate, rate) == pytest.approx(1.0 + rate * cost.OTHER)
