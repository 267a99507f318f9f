"""A step in parts against plain autograd on each part; the update against torch's own clipping."""

import hashlib
from typing import ClassVar

import pytest
import torch
from lightning_fabric import Fabric

from mcd.data.loader import Batch
from mcd.objective import OBJECTIVES
from mcd.objective.adapt import Adapt
from mcd.objective.ar import AR
from mcd.objective.base import Clock, Loss
from mcd.objective.cd4lm import CD4LM
from mcd.objective.idlm import IDLM
from mcd.objective.mcd import MCD
from mcd.objective.mmd import MMD
from mcd.objective.nelbo import NELBO
from mcd.objective.sdtt import SDTT
from mcd.process.draws import Draws
from mcd.training.config import TrainConfig
from mcd.training.optimizer import make_optimizers
from mcd.training.state import copy_of
from mcd.training.step import LossOfStudent, add_gradient, of_whole_batch, update

ROWS = torch.arange(8 * 16).view(8, 16) * 7 % 23


class Recording(Fabric):
    """Keeps, of each backward pass, whether gradients were left unsynchronised."""

    skipped: ClassVar[list[bool]] = []

    def no_backward_sync(self, module, enabled=True):
        self.skipped.append(enabled)
        return super().no_backward_sync(module, enabled)


def gradient_of(model, objective, accumulate, step=5, seed=3, teacher=None, diffused=None):
    """The gradient of ROWS as the loop takes it, and what is logged of the loss."""
    fabric = Recording(accelerator="cpu", devices=1)
    Recording.skipped.clear()
    config = TrainConfig(batch_size=8, accumulate=accumulate, seed=seed)
    model.zero_grad()
    others = {name: copy_of(model, shared=True) for name in {*objective.turns} - {"student"}}
    module = fabric.setup_module(LossOfStudent(objective, model, teacher, others))
    parts = add_gradient(fabric, module, Batch(ROWS, diffused), Clock(step), config)
    return {name: p.grad.clone() for name, p in model.named_parameters()}, of_whole_batch(parts)


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
    torch.testing.assert_close(loss_of_parts, loss)
    assert loss_of_parts["tokens"] == loss["tokens"] == 8 * 16


OBJECTIVES_OF_PARTS = [
    NELBO(),
    Adapt(),
    Adapt(weights="bound"),
    MCD(delta0=0.2),
    MCD(order="stratified"),
    SDTT(delta0=0.2),
    CD4LM(),
    IDLM(),
    IDLM(renoise="posterior", order="low-discrepancy"),
    MMD(),
]


@pytest.mark.parametrize(
    "objective", OBJECTIVES_OF_PARTS, ids=lambda o: f"{o.name}-{getattr(o, 'order', getattr(o, 'weights', ''))}"
)
@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("prompted", [False, True])
def test_parts_are_the_whole(tiny_denoiser, objective, parts, prompted):
    """Every part meets the draws of its rows in the whole batch, and is divided by the same number."""
    diffused = (torch.arange(16) >= torch.arange(8)[:, None]) if prompted else None
    student, teacher = tiny_denoiser(seed=0).double(), tiny_denoiser(seed=1).double().requires_grad_(False)
    whole, expected = gradient_of(student, objective, 1, teacher=teacher, diffused=diffused)
    cut, found = gradient_of(student, objective, parts, teacher=teacher, diffused=diffused)
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)
    if objective.name == "nelbo":  # that of a masked token is the mean of means
        found.pop("cross_entropy"), expected.pop("cross_entropy")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_step_is_seeded_by_seed_and_step_alone(tiny_denoiser):
    """As in any run before there were parts, to the bit."""
    model, objective = tiny_denoiser(), NELBO()
    found, loss = gradient_of(model, objective, 1)
    expected = objective.loss(model, None, ROWS, Clock(5), Draws(seeded_by("3/5/loss"), *ROWS.shape))
    gradients = torch.autograd.grad(expected.total, list(model.parameters()))
    assert loss == expected.as_floats()
    assert all(torch.equal(a, b) for a, b in zip(found.values(), gradients, strict=True))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "ar"])
def test_a_prompt_is_never_changed_nor_learnt(tiny_denoiser, name, monkeypatch):
    """The student sees it whole at all times, and its loss does not know what stands there as an answer."""
    objective = OBJECTIVES[name]()
    process = objective.process
    student, teacher = (tiny_denoiser(seed=seed, process=process) for seed in (0, 1))
    diffused = torch.arange(16) >= torch.arange(8)[:, None]
    seen, hidden = [], student.hidden
    monkeypatch.setattr(student, "hidden", lambda z, *args, **kwargs: seen.append(z) or hidden(z, *args, **kwargs))
    heads, head_loss = [], student.head_loss
    monkeypatch.setattr(student, "head_loss", lambda h, *targets: heads.append(targets) or head_loss(h, *targets))
    gradient_of(student, objective, 1, teacher=teacher, diffused=diffused)
    z = seen[-1].view(8, -1, 16)  # ltd has several states of a row, after a pass that makes their drafts
    rows, given = ROWS[:, None].expand_as(z), ~diffused[:, None].expand_as(z)
    assert torch.equal(z[given], rows[given]) and not torch.equal(z, rows)
    learnt = sum(int((torch.as_tensor(t.weight).expand(len(t)) != 0).sum()) for t in heads[0])
    assert 0 < learnt <= 2 * z.shape[1] * int(diffused.sum())  # cd4lm has two targets on a token


def test_an_answer_is_all_that_a_causal_model_learns(tiny_denoiser):
    model, diffused = tiny_denoiser(process="autoregressive"), torch.arange(16) >= torch.arange(8)[:, None]
    _, loss = gradient_of(model, AR(), 2, diffused=diffused)
    h = model.hidden(torch.cat((torch.full((8, 1), model.mask_id), ROWS[:, :-1]), 1), torch.zeros(8))
    nll = -model.log_x_theta(h).gather(1, ROWS.view(-1, 1)).view(8, 16)
    torch.testing.assert_close(torch.tensor(loss["loss"]), nll[diffused].mean())


def test_dropout_differs_between_parts_and_not_between_calls(tiny_denoiser):
    model = tiny_denoiser(process="autoregressive", dropout=0.5).train()
    rows = ROWS[:2].repeat(4, 1)
    seen = []

    class Spy(AR):
        def loss(self, student, teacher, x0, clock, draws) -> Loss:
            loss = super().loss(student, teacher, rows[: len(x0)], clock, draws)
            seen.append(loss.as_floats()["loss"])
            return loss

    for _ in range(2):
        gradient_of(model, Spy(), 2)
    assert seen[:2] == seen[2:] and seen[0] != seen[1]


def test_a_part_that_is_not_finite_makes_the_update_change_nothing(tiny_denoiser):
    class Bad(AR):
        def loss(self, student, teacher, x0, clock, draws) -> Loss:
            loss = super().loss(student, teacher, x0, clock, draws)
            return loss._replace(total=loss.total * float("inf")) if torch.equal(x0, ROWS[4:]) else loss

    model = tiny_denoiser(process="autoregressive")
    before = [p.clone() for p in model.parameters()]
    gradient_of(model, Bad(), 2)
    norm = update(model, make_optimizers(model, TrainConfig()), clip_norm=1.0, lr=1e-2)
    assert not norm.isfinite() and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_means_and_sums_of_parts():
    parts = [Loss(torch.tensor(a), {"x": torch.tensor(2 * a)}, {"n": torch.tensor(n)}) for a, n in ((1.0, 3), (4.0, 5))]
    assert of_whole_batch(parts) == {"loss": 2.5, "x": 5.0, "n": 8}


@pytest.mark.parametrize("share", [0.5, 1.0, 1.0 + 1e-7, 2.0])
def test_an_update_is_torchs_clipping_and_adamw(tiny_denoiser, seeded, share):
    """share: of the largest norm allowed. Where it is not reached, no pass over the gradients is made, to the bit."""
    ours, torchs = tiny_denoiser(), tiny_denoiser()
    for model in (ours, torchs):
        generator = seeded(0)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
    limit = float(torch.nn.utils.get_total_norm([p.grad for p in ours.parameters()])) / share
    norm = update(ours, make_optimizers(ours, TrainConfig(lr=1e-2)), limit, lr=5e-3)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(torchs.parameters(), limit, foreach=True))
    torch.optim.AdamW(torchs.parameters(), lr=5e-3, weight_decay=0.0, fused=True).step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), torchs.parameters(), strict=True))
    assert all(p.grad is None for p in ours.parameters())
