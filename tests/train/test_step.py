"""A step in parts against plain autograd on each part; the update against torch's own clipping."""

import hashlib
from typing import ClassVar

import pytest
import torch
from lightning_fabric import Fabric

from mcd.objective.ar import AR
from mcd.objective.base import Clock, Loss
from mcd.objective.nelbo import NELBO
from mcd.train.config import TrainConfig
from mcd.train.optimizer import make_optimizers
from mcd.train.step import LossOfStudent, add_gradient, mean_of_parts, update

ROWS = torch.arange(8 * 16).view(8, 16) * 7 % 23


class Recording(Fabric):
    """Keeps, of each backward pass, whether gradients were left unsynchronised."""

    skipped: ClassVar[list[bool]] = []

    def no_backward_sync(self, module, enabled=True):
        self.skipped.append(enabled)
        return super().no_backward_sync(module, enabled)


def gradient_of(model, objective, accumulate, step=5, seed=3):
    """The gradient of ROWS as the loop takes it, and the loss."""
    fabric = Recording(accelerator="cpu", devices=1)
    Recording.skipped.clear()
    config = TrainConfig(batch_size=8, accumulate=accumulate, seed=seed)
    model.zero_grad()
    loss = add_gradient(fabric, fabric.setup(LossOfStudent(model)), objective, None, ROWS, Clock(step), config)
    return {name: p.grad.clone() for name, p in model.named_parameters()}, loss


def seeded_by(text):
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_without_randomness_parts_are_the_whole(tiny_denoiser, parts):
    model = tiny_denoiser(process="autoregressive")
    whole, loss = gradient_of(model, AR(), 1)
    assert Recording.skipped == [False]
    cut, loss_of_parts = gradient_of(model, AR(), parts)
    assert Recording.skipped == [True] * (parts - 1) + [False]
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss_of_parts.as_floats(), loss.as_floats())
    assert loss_of_parts.counts["tokens"] == loss.counts["tokens"] == 8 * 16


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_each_part_has_its_own_draws_and_the_gradient_is_their_mean(tiny_denoiser, parts):
    """One part is seeded by (seed, step) alone, as any run before there were parts."""
    model, objective = tiny_denoiser(), NELBO()
    found, loss = gradient_of(model, objective, parts)
    names = ["3/5/loss"] + [f"3/5/loss/{i}" for i in range(1, parts)]
    losses, expected = [], {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for rows, name in zip(ROWS.split(8 // parts), names, strict=True):
        part = objective.loss(model, None, rows, Clock(5), seeded_by(name))
        losses.append(part)
        for p, grad in zip(expected, torch.autograd.grad(part.total, list(model.parameters())), strict=True):
            expected[p] += grad / parts
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert float(loss.total) == pytest.approx(sum(part.as_floats()["loss"] for part in losses) / parts)
    assert loss.counts["tokens_masked"] == sum(part.counts["tokens_masked"] for part in losses)
    if parts == 1:
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.equal(loss.total, losses[0].total)


def test_dropout_differs_between_parts_and_not_between_calls(tiny_denoiser):
    model = tiny_denoiser(process="autoregressive", dropout=0.5).train()
    rows = ROWS[:2].repeat(4, 1)
    seen = []

    class Spy(AR):
        def loss(self, student, teacher, x0, clock, generator) -> Loss:
            loss = super().loss(student, teacher, rows[: len(x0)], clock, generator)
            seen.append(loss.as_floats()["loss"])
            return loss

    for _ in range(2):
        gradient_of(model, Spy(), 2)
    assert seen[:2] == seen[2:] and seen[0] != seen[1]


def test_a_part_that_is_not_finite_ends_the_step(tiny_denoiser):
    class Bad(AR):
        def loss(self, student, teacher, x0, clock, generator) -> Loss:
            loss = super().loss(student, teacher, x0, clock, generator)
            return loss._replace(total=loss.total * float("inf")) if torch.equal(x0, ROWS[4:]) else loss

    with pytest.raises(FloatingPointError, match="the loss of step 6 is not finite"):
        gradient_of(tiny_denoiser(process="autoregressive"), Bad(), 2)


def test_means_and_sums_of_parts():
    parts = [Loss(torch.tensor(a), {"x": torch.tensor(2 * a)}, {"n": torch.tensor(n)}) for a, n in ((1.0, 3), (4.0, 5))]
    assert mean_of_parts(parts).as_floats() == {"loss": 2.5, "x": 5.0, "n": 8}


@pytest.mark.parametrize("share", [0.5, 1.0, 1.0 + 1e-7, 2.0])
def test_an_update_is_torchs_clipping_and_adamw(tiny_denoiser, seeded, share):
    """share: of the largest norm allowed. Where it is not reached, no pass over the gradients is made, to the bit."""
    ours, torchs = tiny_denoiser(), tiny_denoiser()
    for model in (ours, torchs):
        generator = seeded(0)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
    limit = float(torch.nn.utils.get_total_norm([p.grad for p in ours.parameters()])) / share
    config = TrainConfig(lr=1e-2, clip_norm=limit)
    norm = update(ours, make_optimizers("adamw", ours, 1e-2, (0.9, 0.999), 0.0), config, 0.5, 0)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(torchs.parameters(), limit, foreach=True))
    torch.optim.AdamW(torchs.parameters(), lr=5e-3, weight_decay=0.0, fused=True).step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), torchs.parameters(), strict=True))
    assert all(p.grad is None for p in ours.parameters())
