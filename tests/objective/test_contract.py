"""What every method must satisfy, whichever files are in mcd/objective."""

import json
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from mcd.objective import OBJECTIVES, Clock
from mcd.process.draws import Draws

V, L, B = 23, 16, 8
DISTILLING = [name for name, kind in OBJECTIVES.items() if kind.distils]


@pytest.fixture
def x0(seeded):
    return torch.randint(0, V, (B, L), generator=seeded(3))


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    """Each method, with a gap wide enough for rows of 16 where it has one."""
    method = OBJECTIVES[request.param]()
    return replace(method, delta0=0.25) if hasattr(method, "delta0") else method


@pytest.fixture
def tiny(objective, tiny_denoiser):
    """`tiny_denoiser` of the method's process."""
    return partial(tiny_denoiser, process=objective.process)


def loss_of(objective, student, teacher, x0, seed=0, clock=Clock()):  # noqa: B008
    return objective.loss(student, teacher, x0, clock, Draws(torch.Generator().manual_seed(seed), *x0.shape))


def test_the_methods_are_found():
    assert {"nelbo", "mcd"} <= OBJECTIVES.keys()
    assert all(kind.name == name for name, kind in OBJECTIVES.items())


def test_finite_and_accounted_for(objective, tiny, x0):
    loss = loss_of(objective, tiny(), tiny(seed=1), x0)
    assert loss.total.ndim == 0 and loss.total.requires_grad
    readings = loss.as_floats()
    assert all(torch.isfinite(torch.tensor(value)) for value in readings.values())
    assert all(isinstance(value, float | int) for value in readings.values())
    assert not any(term.requires_grad for term in loss.terms.values())
    if objective.distils:
        torch.testing.assert_close(sum(loss.terms.values()), loss.total.detach())
    json.dumps(readings, allow_nan=False)


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_gradient_reaches_every_student_weight_and_no_teacher_weight(objective, tiny, x0, time_conditioned):
    student = tiny(time_conditioned=time_conditioned)
    teacher = tiny(time_conditioned=time_conditioned, seed=1)
    loss_of(objective, student, teacher, x0).total.backward()
    for name, p in student.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in teacher.parameters())
    head = student.backbone.head.linear
    if objective.process == "uniform":
        return
    assert head.weight.grad[V].abs().sum() == 0 and head.bias.grad[V] == 0  # the last row is no prediction


def test_a_function_of_its_arguments_alone(objective, tiny, x0):
    student, teacher = tiny(), tiny(seed=1)
    before = [p.clone() for p in (*student.parameters(), *teacher.parameters())]
    torch.manual_seed(1)
    first = loss_of(objective, student, teacher, x0, seed=5)
    torch.manual_seed(2)
    again = loss_of(objective, student, teacher, x0, seed=5)
    other = loss_of(objective, student, teacher, x0, seed=6)
    assert torch.equal(first.total, again.total) and first.as_floats() == again.as_floats()
    assert objective.process == "autoregressive" or not torch.equal(first.total, other.total)  # it draws nothing
    assert all(torch.equal(a, b) for a, b in zip(before, (*student.parameters(), *teacher.parameters()), strict=True))


@pytest.mark.parametrize("name", DISTILLING)
def test_nothing_to_distil_at_zero_gap_with_equal_weights(name, tiny_denoiser, x0):
    objective = OBJECTIVES[name]().without_gap()
    tiny = partial(tiny_denoiser, process=objective.process)
    loss = loss_of(objective, tiny(), tiny(), x0)
    assert abs(loss.total.item()) < 1e-6
    differing = loss_of(objective, tiny(), tiny(seed=1), x0)
    assert differing.terms["distillation"].item() > 1e-3


def test_options_go_through_json(objective):
    assert type(objective)(**json.loads(json.dumps(asdict(objective)))) == objective
    assert objective == replace(objective)
    json.dumps([objective.schedule_of_round(r) for r in range(5)])


def test_bfloat16_is_close_to_float32(objective, tiny, x0):
    student, teacher = tiny(scale=0.5), tiny(seed=1, scale=0.5)
    exact = loss_of(objective, student, teacher, x0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss_of(objective, student, teacher, x0)
    assert rough.total.dtype == torch.float32
    torch.testing.assert_close(rough.total, exact.total, rtol=0.05, atol=0.02)
    assert rough.counts == exact.counts  # masks do not depend on the precision
    rough.total.backward()


def test_one_row_of_one_token_is_a_batch(objective, tiny):
    for seed in range(20):  # among them draws with nothing masked, and with nothing to distil
        loss = loss_of(objective, tiny(), tiny(seed=1), torch.zeros(1, 1, dtype=torch.int64), seed)
        assert loss.total.isfinite()
        json.dumps(loss.as_floats(), allow_nan=False)
