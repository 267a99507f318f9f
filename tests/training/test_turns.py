"""Auxiliary networks: each step trains one network, with its own optimiser, and everything else is frozen."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from mcd.errors import Diverged, UsageError
from mcd.objective import Loss
from mcd.objective.idlm import IDLM
from mcd.training.config import Budget, TrainConfig, check_method
from mcd.training.run_folder import read_stats
from mcd.training.state import copy_of, turn_of

CYCLE = ("fake", "fake", "student")


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a, b):
    return all(torch.equal(p, b[name]) for name, p in a.items())


@dataclass(frozen=True)
class Spy(IDLM):
    """Notes at every call the weights of all networks, and which of them are frozen or in evaluation mode."""

    fake_turns: int = 2
    seen: ClassVar[list] = []
    bad: ClassVar[frozenset[int]] = frozenset()

    def loss(self, student, teacher, x0, clock, draws, fake=None) -> Loss:
        models = {"student": student, "teacher": teacher, "fake": fake}
        learns = {name: {p.requires_grad for p in model.parameters()} for name, model in models.items()}
        modes = {name: model.training for name, model in models.items()}
        self.seen.append(({name: weights(model) for name, model in models.items()}, learns, modes, clock))
        loss = super().loss(student, teacher, x0, clock, draws, fake)
        return loss._replace(total=loss.total * math.nan) if clock.step in self.bad else loss


@pytest.fixture
def spied(run_fit, tmp_path):
    """Runs a `Spy`, whose steps in `bad` are not finite; returns what it saw."""

    def run(steps=9, bad=(), **options):
        Spy.seen, Spy.bad = [], frozenset(bad)
        run_fit(tmp_path / "run", objective=Spy(), budget=Budget(steps=steps), **options)
        return Spy.seen

    return run


@pytest.mark.heavy
def test_a_step_trains_one_network_and_freezes_the_others(spied, tmp_path):
    seen = spied()
    for step, (_, learns, modes, _) in enumerate(seen):
        who = CYCLE[step % 3]
        assert learns == {name: {name == who} for name in ("student", "teacher", "fake")}
        assert modes == {name: name == who for name in ("student", "teacher", "fake")}
    first, *_ = seen[0]
    assert same(first["fake"], first["student"]) and same(first["teacher"], first["student"])
    for step, (before, after) in enumerate(pairwise(seen)):
        moved = {name for name in before[0] if not same(before[0][name], after[0][name])}
        assert moved == {CYCLE[step % 3]}
    rows = read_stats(tmp_path / "run")
    assert [row["turn"] for row in rows] == [CYCLE[step % 3] for step in range(9)]
    # three steps of warm-up, of each network's own
    assert [row["lr"] for row in rows] == pytest.approx([x * 1e-2 / 3 for x in (1, 2, 1, 3, 3, 2, 3, 3, 3)])


@pytest.mark.heavy
def test_the_average_follows_the_student_in_its_turns_alone(run_fit, tmp_path, tiny_denoiser):
    student = tiny_denoiser(V=300, length=16)
    shadow, updates = weights(student), 0

    def watch(progress):
        nonlocal updates
        if progress.row["turn"] == "student":
            updates += 1
            decay = min(0.7, (1 + updates) / (10 + updates))
            for name, p in student.named_parameters():
                shadow[name].lerp_(p.detach(), 1.0 - decay)

    budget = Budget(steps=8)
    model = run_fit(tmp_path / "run", IDLM(), budget, watch, student=student, ema_decay=0.7)
    assert updates == 4 and same(weights(model), shadow)


@pytest.mark.heavy
def test_the_log_has_a_turn_of_each_network(run_fit, tmp_path):
    run_fit(tmp_path / "run", objective=IDLM(), budget=Budget(steps=12), log_every=5, max_loss=1e9)
    rows = [(row["step"], row["turn"]) for row in read_stats(tmp_path / "run")]
    assert rows == [(1, "fake"), (5, "fake"), (6, "student"), (10, "student"), (11, "fake"), (12, "student")]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("bad", "ends"),
    [
        (range(2, 99, 3), 12),  # only the student's turns: finite turns of the fake do not hide them
        (range(99), 4),
        ((0, 1, 2, 6, 7, 8), None),  # the fake and the student recover
    ],
    ids=["student", "all", "some"],
)
def test_a_network_that_stays_not_finite_ends_the_run(spied, bad, ends):
    if ends is None:
        assert len(spied(steps=9, bad=bad)) == 9
        return
    with pytest.raises(Diverged, match=f"step {ends}: 4 steps in a row whose loss or gradient was not finite"):
        spied(steps=15, bad=bad)


def test_a_high_loss_of_a_fake_is_none_of_the_students(run_fit, tmp_path):
    """The student's is 0 until the fake has moved, and then far below the fake's."""
    run_fit(tmp_path / "run", objective=IDLM(), budget=Budget(steps=24), max_loss=3.0, lr=1e-6)
    rows = read_stats(tmp_path / "run")
    assert (
        max(row["loss"] for row in rows if row["turn"] == "fake")
        > 3.0
        > max(row["loss"] for row in rows if row["turn"] == "student")
    )


def test_samples_without_entropy_end_the_run(run_fit, tmp_path):
    found = iter([3.0, 1.5, 0.9])

    def validate(model, step):
        return {"sample_entropy": next(found)}

    told = r"step 6: drawn rows have an entropy of 0\.900 nats on average, below --min-entropy 1: the model collapses"
    with pytest.raises(Diverged, match=told):
        run_fit(tmp_path / "run", IDLM(), validate=validate, valid_every=2, min_entropy=1.0)
    assert [row.get("sample_entropy") for row in read_stats(tmp_path / "run")] == [None, 3.0, None, 1.5, None, 0.9]
    with pytest.raises(UsageError, match=r"--min-entropy 1\.0: is compared at validations; give --valid-every"):
        TrainConfig(min_entropy=1.0)


def test_networks_in_turns_are_not_sharded():
    with pytest.raises(UsageError, match="--strategy fsdp: idlm trains several networks in turns"):
        check_method(IDLM(), TrainConfig(strategy="fsdp"))


def test_a_frozen_base_is_shared_and_stays_frozen(tiny_denoiser):
    student = tiny_denoiser().requires_grad_(False)
    student.backbone.head.requires_grad_(True)
    fake = copy_of(student, shared=True)
    assert fake.backbone.embedding is student.backbone.embedding
    assert fake.backbone.head.linear.weight is not student.backbone.head.linear.weight
    with turn_of("fake", {"student": student, "fake": fake}):
        assert {name for name, p in fake.named_parameters() if p.requires_grad} == {
            name for name, _ in fake.named_parameters() if ".head." in name
        }
        assert not any(p.requires_grad for p in student.parameters())
    assert student.backbone.head.linear.weight.requires_grad and not student.backbone.embedding.requires_grad


def test_turns_of_one_network_are_steps():
    from mcd.objective.mcd import MCD

    assert [MCD().turn(step) for step in range(3)] == [("student", 0), ("student", 1), ("student", 2)]
