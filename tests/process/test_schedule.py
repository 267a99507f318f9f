"""Schedules: the inverse inverts, the derivative differentiates, the shortcut equals the formula."""

import pytest
import torch

from mcd.process.schedule import (
    SCHEDULES,
    Cosine,
    Linear,
    LogLinear,
    Schedule,
    config_of_schedule,
    schedule_of_config,
)

ALL = [LogLinear(), LogLinear(eps=0.05), Linear(), Cosine()]
T = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_falls_from_one_and_stays_a_probability(schedule: Schedule):
    alpha = schedule.alpha(T)
    assert alpha[0].item() == pytest.approx(1.0, abs=1e-15)
    assert (alpha.diff() < 0).all()
    assert ((alpha >= 0) & (alpha <= 1)).all()


def test_what_is_left_visible_at_the_end():
    one = torch.ones((), dtype=torch.float64)
    assert LogLinear(eps=1e-3).alpha(one).item() == pytest.approx(1e-3, rel=1e-12)
    assert Linear().alpha(one) == 0
    assert Cosine().alpha(one) == 0


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_inverse(schedule: Schedule):
    alpha = schedule.alpha(T)
    torch.testing.assert_close(schedule.alpha(schedule.t_of_alpha(alpha)), alpha, rtol=0, atol=1e-14)
    early = T[T <= 0.999]  # alpha is flat at t = 1 for `Cosine`, so there t is known from alpha to sqrt(ulp) only
    torch.testing.assert_close(schedule.t_of_alpha(schedule.alpha(early)), early, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_derivative_is_that_of_autograd(schedule: Schedule):
    t = T.clone().requires_grad_()
    (grad,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.alpha_dot(T), grad, rtol=0, atol=1e-14)
    assert (schedule.alpha_dot(T[:-1]) < 0).all()


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_nelbo_weight_shortcut_is_the_formula(schedule: Schedule):
    t = T[1:]
    torch.testing.assert_close(schedule.nelbo_weight(t), Schedule.nelbo_weight(schedule, t), rtol=1e-12, atol=1e-15)
    if not isinstance(schedule, Cosine):
        assert torch.equal(schedule.nelbo_weight(t), 1.0 / t)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_keeps_shape_and_dtype(schedule: Schedule):
    t = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    for value in (schedule.alpha(t), schedule.alpha_dot(t), schedule.t_of_alpha(t), schedule.nelbo_weight(t)):
        assert value.shape == t.shape
        assert value.dtype == t.dtype


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_config_round_trip(schedule: Schedule):
    config = config_of_schedule(schedule)
    assert config["name"] in SCHEDULES
    assert schedule_of_config(config) == schedule


@pytest.mark.parametrize("config", [{"name": "sigmoid"}, {}])
def test_unknown_name(config: dict):
    with pytest.raises(ValueError, match="log-linear, linear, cosine"):
        schedule_of_config(config)
