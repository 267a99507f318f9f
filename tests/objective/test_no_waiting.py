"""A loss and its gradient ask the networks' device for no number: a GPU would have to finish all its work for it."""

import copy

import pytest
import torch

from mcd.objective import OBJECTIVES
from mcd.objective.adapt import Adapt
from mcd.objective.base import Clock
from mcd.objective.cd4lm import CD4LM
from mcd.objective.duo import Duo
from mcd.objective.ltd import LTD
from mcd.objective.mcd import MCD
from mcd.objective.sdtt import SDTT
from mcd.process.draws import Draws
from mcd.process.transfer import checks_later

V, B, L = 23, 4, 16
VARIANTS = [
    *(kind() for kind in OBJECTIVES.values()),
    MCD(delta0=0.3, region="student", coupling="independent"),
    SDTT(delta0=0.2, k=4, reduction="masked"),
    CD4LM(clamp=5.0, region="both"),
    LTD(trajectory_steps=4, redraft=1.0, target="distribution", region="masked"),
    Adapt(weights="bound"),
    Duo(curriculum=1.0),
]


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("objective", VARIANTS, ids=lambda objective: f"{objective!r:.60}")
def test_no_loss_waits(objective, prompted, tiny_denoiser, seeded, no_numbers):
    """Held on a device that has no numbers: forward and backward pass, with all networks that the method has."""
    student = tiny_denoiser(V=V, length=L, process="masked" if objective.process == "locked" else objective.process)
    teacher = copy.deepcopy(student).requires_grad_(False) if objective.needs_teacher else None
    objective.equip(student, L)
    x0, diffused = torch.randint(V, (B, L), generator=seeded(0)), torch.ones(B, L, dtype=torch.bool)
    diffused[:, :5] = False
    others = {who: copy.deepcopy(student) for who in objective.turns if who != "student"}
    draws = Draws(seeded(1), B, L, diffused=diffused if prompted else None)
    for model in (student, teacher, *others.values()):
        if model is not None:
            model.to("meta")
    for step in range(len(set(objective.turns))):
        with checks_later() as checks:
            with no_numbers():
                loss = objective.loss(student, teacher, x0, Clock(step), draws, **others)
                loss.total.backward()
            checks.clear()
        of_device = {"tokens_corrupted"} if isinstance(objective, Duo) and objective.curriculum else set()
        assert loss.total.is_meta and {name for name, count in loss.counts.items() if count.is_meta} == of_device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("objective", VARIANTS, ids=lambda objective: f"{objective!r:.60}")
def test_no_loss_waits_on_a_gpu(objective, tiny_denoiser, seeded):
    student = tiny_denoiser(V=V, length=L, process="masked" if objective.process == "locked" else objective.process)
    teacher = copy.deepcopy(student).requires_grad_(False) if objective.needs_teacher else None
    objective.equip(student, L)
    others = {who: copy.deepcopy(student) for who in objective.turns if who != "student"}
    for model in (student, teacher, *others.values()):
        if model is not None:
            model.to("cuda")
    x0 = torch.randint(V, (B, L), generator=seeded(0))
    with checks_later():
        torch.cuda.set_sync_debug_mode("error")
        try:
            objective.loss(student, teacher, x0, Clock(), Draws(seeded(1), B, L), **others).total.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
