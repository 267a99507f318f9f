"""The peers' twin computes what ours computes: losses, gradients, a training step, and the law of its samples."""

import copy
import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from mcd.bench.peers import PeersEMA, mcd_loss, sample_cached, subs
from mcd.bench.peers_dit import peers_dit
from mcd.bench.peers_methods import PEERS_LOSSES
from mcd.model.ema import EMA
from mcd.objective import OBJECTIVES
from mcd.objective.base import Clock
from mcd.objective.mcd import MCD
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral

V, L = 23, 16


def test_the_twin_is_the_same_function(tiny_denoiser, seeded):
    """Logits of the twin against ours; the weights are shared, not copied."""
    denoiser = tiny_denoiser(V=V, length=L)
    network = peers_dit(denoiser)
    z = torch.randint(0, V + 1, (3, L), generator=seeded(0))
    log_p = subs(network(z), z, V)
    expected = denoiser.log_x_theta(denoiser.hidden(z, torch.full((3,), 0.5)), z.flatten())
    masked = (z == V).flatten()
    torch.testing.assert_close(log_p.flatten(0, 1)[masked, :V], expected[masked], rtol=1e-4, atol=1e-4)
    assert (log_p.flatten(0, 1)[~masked].argmax(-1) == z.flatten()[~masked]).all()
    assert network.calls == 1
    assert network.embedding is denoiser.backbone.embedding
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in denoiser.parameters())


def test_the_twin_refuses_what_it_is_not(tiny_denoiser):
    with pytest.raises(ValueError, match="masked"):
        peers_dit(tiny_denoiser(process="autoregressive"))


@pytest.mark.parametrize("round", [0, 2])
def test_losses_and_gradients_agree(tiny_denoiser, seeded, draws_of, round):
    """Both sides draw t and u from the same stream; every weight gets the same gradient."""
    student, teacher = (tiny_denoiser(V=V, length=L, seed=seed) for seed in (0, 1))
    teacher.requires_grad_(False)
    theirs = peers_dit(copy.deepcopy(student)), peers_dit(teacher)
    objective, clock = MCD(delta0=0.1), Clock(round=round)
    x0 = torch.randint(0, V, (4, L), generator=seeded(5))
    loss = objective.loss(student, teacher, x0, clock, draws_of(x0, 6))
    twin = mcd_loss(*theirs, x0, objective, student.config.schedule, V, clock, seeded(6))
    assert twin.total.item() == pytest.approx(loss.total.item(), rel=1e-5)
    assert twin.distillation.item() == pytest.approx(loss.terms["distillation"].item(), rel=1e-5)
    assert twin.reconstruction.item() == pytest.approx(loss.terms["reconstruction"].item(), rel=1e-5)
    assert twin.distillation.item() > 0 < twin.reconstruction.item()
    loss.total.backward()
    twin.total.backward()
    for (name, ours), p in zip(student.backbone.named_parameters(), theirs[0].parameters(), strict=True):
        if "time" not in name:  # sees 0 on both sides; what flows there is rounding
            torch.testing.assert_close(p.grad, ours.grad, rtol=2e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("method", ["mcd", "nelbo", "sdtt", "duo-dcd"])
def test_every_method_is_the_same_function(method, tiny_denoiser, draws_of, seeded):
    """Losses and gradients of the methods of `PEERS_LOSSES` in round 0; a uniform model is told the time."""
    objective = replace(OBJECTIVES[method](), **({"delta0": 0.1} if OBJECTIVES[method].distils else {}))
    uniform = objective.process == "uniform"
    student, teacher = (
        tiny_denoiser(V=V, length=L, seed=seed, process=objective.process, time_conditioned=uniform) for seed in (0, 1)
    )
    theirs = peers_dit(copy.deepcopy(student)), peers_dit(teacher.requires_grad_(False))
    x0 = torch.randint(0, V, (4, L), generator=seeded(5))
    loss = objective.loss(student, teacher, x0, Clock(), draws_of(x0, 6))
    twin = PEERS_LOSSES[method](*theirs, x0, objective, student.config, draws_of(x0, 6))
    assert twin.total.item() == pytest.approx(loss.total.item(), rel=1e-5) != 0.0
    loss.total.backward()
    twin.total.backward()
    for (name, ours), p in zip(student.backbone.named_parameters(), theirs[0].parameters(), strict=True):
        if uniform or "time" not in name:
            torch.testing.assert_close(p.grad, ours.grad, rtol=2e-3, atol=5e-6, msg=name)


def test_averages_agree(tiny_denoiser):
    model = tiny_denoiser()
    ours, theirs = EMA(model, 0.999), PeersEMA(model.parameters(), 0.999)
    for _ in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
        ours.update(model)
        theirs.update(model.parameters())
    for a, b in zip(ours.shadow.values(), theirs.shadow, strict=True):
        torch.testing.assert_close(a, b)


def exact_law(denoiser, length: int, steps: int) -> dict[tuple[int, ...], float]:
    """P(row) of ancestral sampling by enumeration: all ways to spread the tokens over the steps, and all values."""
    real = denoiser.config.vocab_size
    law: Counter = Counter()

    def reveal(z: tuple[int, ...], step: int, p: float, when: tuple[int, ...]) -> None:
        if step == steps:
            law[z] += p
            return
        due = [i for i in range(length) if when[i] == step]
        with torch.no_grad():
            hidden = denoiser.hidden(torch.tensor([z]), torch.zeros(1))
            probs = denoiser.log_x_theta(hidden).double().exp()
        for values in itertools.product(range(real), repeat=len(due)):
            after, q = list(z), p
            for i, value in zip(due, values, strict=True):
                after[i] = value
                q *= float(probs[i, value])
            reveal(tuple(after), step + 1, q, when)

    for when in itertools.product(range(steps), repeat=length):
        reveal((denoiser.mask_id,) * length, 0, steps**-length, when)
    return dict(law)


@pytest.mark.heavy
def test_samples_follow_the_law_of_ours(tiny_denoiser, seeded):
    """Rows of two tokens in two steps: the twin and our ancestral sampler against exact enumeration."""
    num, length, steps = 6000, 2, 2
    denoiser = tiny_denoiser(V=3, length=length, hidden=8, layers=1)
    law = exact_law(denoiser, length, steps)
    assert sum(law.values()) == pytest.approx(1.0)
    *_, last = sample_cached(peers_dit(denoiser), num, length, steps, 3, seeded(0))
    ours, _ = sample(Ancestral(steps, rows_per_call=num), denoiser, num, length)
    for drawn in (last.z, ours):
        seen = Counter(map(tuple, drawn.tolist()))
        assert seen.keys() <= law.keys()
        for outcome, p in law.items():
            assert abs(seen[outcome] / num - p) < 4.5 * (p * (1 - p) / num) ** 0.5 + 1e-4, outcome


def test_calls_are_counted_and_predictions_kept(tiny_denoiser, seeded):
    """A call is made at the first step, after every step that changed a row, and at the end; nothing else."""
    network, length, steps = peers_dit(tiny_denoiser(V=V, length=L)), 4, 24
    states = list(sample_cached(network, 1, length, steps, V, seeded(3)))
    assert len(states) == steps + 1
    assert network.calls == sum(state.called for state in states)
    assert network.calls <= length + 2  # the first and the last, and one after each token
    before = torch.full((1, length), V)
    for state, following in itertools.pairwise(states[:-1]):
        assert following.called == (not torch.equal(state.z, before))
        before = state.z
    assert not (states[-1].z == V).any()
