"""What every method of the table must satisfy."""

import json
import math
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from mcd.objective import OBJECTIVES

V = 23
DISTILLING = [name for name, kind in OBJECTIVES.items() if kind.distils]


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    """Each method, with a gap wide enough for rows of 16 where it has one."""
    method = OBJECTIVES[request.param]()
    return replace(method, delta0=0.25) if hasattr(method, "delta0") else method


@pytest.fixture
def tiny(objective, tiny_denoiser):
    """`tiny_denoiser` of the kind that the method starts from."""
    return partial(tiny_denoiser, process="masked" if objective.takes("masked") else objective.process)


@pytest.fixture
def student_of(objective, tiny):
    """The same with what the method adds to a student."""

    def build(**options):
        model = tiny(**options)
        objective.equip(model, 16)
        return model

    return build


def test_finite_and_accounted_for(objective, student_of, tiny, x0, loss_of):
    loss = loss_of(objective, (student_of(), tiny(seed=1)), x0)
    assert loss.total.ndim == 0 and loss.total.requires_grad
    readings = loss.as_floats()
    assert all(torch.isfinite(torch.tensor(value)) for value in readings.values())
    assert all(isinstance(value, float | int) for value in readings.values())
    assert not any(term.requires_grad for term in loss.terms.values())
    if objective.distils:
        torch.testing.assert_close(sum(loss.terms.values()), loss.total.detach())
    json.dumps(readings, allow_nan=False)


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_gradient_reaches_every_student_weight_and_no_teacher_weight(
    objective, student_of, tiny, x0, time_conditioned, loss_of
):
    student = student_of(time_conditioned=time_conditioned)
    teacher = tiny(time_conditioned=time_conditioned, seed=1)
    loss_of(objective, (student, teacher), x0).total.backward()
    for name, p in student.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in teacher.parameters())
    head = student.backbone.head.linear
    if objective.process == "uniform":
        return
    assert head.weight.grad[V].abs().sum() == 0 and head.bias.grad[V] == 0  # the last row is no prediction


def test_a_function_of_its_arguments_alone(objective, student_of, tiny, x0, loss_of):
    student, teacher = student_of(), tiny(seed=1)
    before = [p.clone() for p in (*student.parameters(), *teacher.parameters())]
    torch.manual_seed(1)
    first = loss_of(objective, (student, teacher), x0, seed=5)
    torch.manual_seed(2)
    again = loss_of(objective, (student, teacher), x0, seed=5)
    other = loss_of(objective, (student, teacher), x0, seed=6)
    assert torch.equal(first.total, again.total) and first.as_floats() == again.as_floats()
    assert objective.process == "autoregressive" or not torch.equal(first.total, other.total)  # it draws nothing
    assert all(torch.equal(a, b) for a, b in zip(before, (*student.parameters(), *teacher.parameters()), strict=True))


@pytest.mark.parametrize("name", DISTILLING)
def test_nothing_to_distil_at_zero_gap_with_equal_weights(name, tiny_denoiser, x0, loss_of):
    objective = OBJECTIVES[name]().without_gap()
    tiny = partial(tiny_denoiser, process="masked" if objective.takes("masked") else objective.process)
    student = tiny()
    objective.equip(student, 16)
    loss = loss_of(objective, (student, tiny()), x0)
    assert abs(loss.total.item()) < 1e-6
    if name == "mmd":  # compares what is drawn, not weights: without a reward there is nothing, whoever the teacher is
        assert loss_of(objective, (student, tiny(seed=1)), x0).total == 0.0
        return
    differing = loss_of(objective, (student, tiny(seed=1)), x0)
    assert differing.terms["distillation"].item() > 1e-3


def test_options_go_through_json(objective):
    read = json.loads(json.dumps(asdict(objective)))
    read = {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}
    assert type(objective)(**read) == objective
    assert objective == replace(objective)
    json.dumps([objective.schedule_of_round(r) for r in range(5)])


def test_bfloat16_is_close_to_float32(objective, student_of, tiny, x0, loss_of):
    student, teacher = student_of(scale=0.5), tiny(seed=1, scale=0.5)
    exact = loss_of(objective, (student, teacher), x0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss_of(objective, (student, teacher), x0)
    assert rough.total.dtype == torch.float32
    torch.testing.assert_close(rough.total, exact.total, rtol=0.05, atol=0.02)
    assert rough.counts == exact.counts  # masks do not depend on the precision
    rough.total.backward()


@pytest.mark.heavy
def test_one_row_of_one_token_is_a_batch(objective, student_of, tiny, loss_of):
    for seed in range(20):  # among them draws with nothing masked, and with nothing to distil
        loss = loss_of(objective, (student_of(), tiny(seed=1)), torch.zeros(1, 1, dtype=torch.int64), seed)
        assert loss.total.isfinite()
        json.dumps(loss.as_floats(), allow_nan=False)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("nelbo", {"t_min": 0.5}, "--t-min 0.5 --warm-t 0.3: the first must be below the second"),
        ("duo", {"alpha_min": 0.95}, "--alpha-min 0.95 --alpha-max 0.945: the first must be below the second"),
        ("duo", {"alpha_max": 1.0}, r"--alpha-max 1.0: must be in \(0, 1\)"),
        ("mcd", {"delta0": 1.0}, r"--delta0 1.0: must be in \[0, 1\)"),
        ("mcd", {"delta_growth": 0.5}, "--delta-growth 0.5: must be at least 1"),
        ("mcd", {"tau_step": math.inf}, "--tau-step inf: must be finite"),
        ("mcd", {"tau0": 0.01}, "--tau-min 0.05 --tau0 0.01: the first must not be above the second"),
        ("mcd", {"order": "wild"}, "--order wild: known are iid, stratified"),
        ("sdtt", {"k": 0}, "--k 0: must be at least 1"),
        ("cd4lm", {"student_min": 0.95}, "--student-min 0.95 --student-max 0.9: the first must not be above"),
        ("cd4lm", {"clamp": 0.0}, "--clamp 0.0: must be positive"),
        ("idlm", {"order": "wild"}, "--order wild: known are iid, stratified"),
        ("idlm", {"fake_turns": 0}, "--fake-turns 0: must be at least 1"),
        ("idlm", {"max_weight": 0.0}, "--max-weight 0.0: must be positive"),
        ("ltd", {"order": "wild"}, "--order wild: known are iid, stratified"),
        ("ltd", {"pairs": 0}, "--pairs 0: must be at least 1"),
        ("ltd", {"student_steps": ()}, "--student-steps: name at least one"),
        ("ltd", {"shown": ()}, "--shown: name at least one thing"),
        ("ltd", {"shown": ("draft", "draft")}, "--shown: names draft twice"),
        ("mmd", {"groups": 1}, "--groups 1: must be at least 2"),
        ("mmd", {"rows": 1}, "--rows 1: must be at least 2"),
        ("mmd", {"layer": 0}, "--layer 0: must be at least 1"),
        ("mmd", {"bandwidth": 0.0}, "--bandwidth 0.0: must be positive"),
        ("duo-dcd", {"tau_min": 0.0}, "--tau-min 0.0: must be positive"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        OBJECTIVES[name](**options)


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [
        ("mcd", {"delta0": 0.0, "tau0": 1.0, "tau_step": 0.0}, "--delta0 0"),
        ("mcd", {"delta0": 0.0, "tau0": 1.0}, None),  # later rounds are cooler
        ("mcd", {"delta0": 0.0, "tau0": 1.0, "tau_step": 0.0, "coupling": "independent"}, None),
        ("mcd", {"delta0": 0.0}, None),  # tau-only
        ("mcd", {}, None),
        ("duo-dcd", {"delta0": 0.0}, "--delta0 0"),
        ("duo-dcd", {}, None),
        ("sdtt", {"k": 1}, "--k 1"),
        ("sdtt", {"delta0": 0.0}, "--delta0 0"),
        ("sdtt", {"k": 1, "tau0": 0.9}, None),
        ("sdtt", {}, None),
        ("cd4lm", {}, None),
        ("mmd", {"reward_scale": 0.0}, "--reward-scale 0"),
        ("mmd", {}, None),
    ],
)
def test_a_method_says_where_there_is_nothing_to_learn(name, options, option, tiny, loss_of):
    """And then the loss of a copy of the teacher is zero; else it, or its gradient, is not."""
    objective = OBJECTIVES[name](**options)
    why = objective.nothing_to_learn(rounds=2)
    assert why is None if option is None else why is not None and why.startswith(option)
    if option is not None:
        process = objective.process
        loss = loss_of(objective, (tiny(process=process), tiny(process=process)), torch.zeros(2, 8, dtype=torch.int64))
        assert loss.total.abs() < 1e-6
