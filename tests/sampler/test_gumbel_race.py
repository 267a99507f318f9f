"""The race against the law it claims to draw, step by step and token by token."""

import pytest
import torch

from mcd.process.categorical import sample_gumbel_race, temper
from mcd.sampler.base import row_generator
from mcd.sampler.gumbel_race import GumbelRace

V, L = 23, 16


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_agrees_with_a_twin_that_calls_the_network_at_every_step(model, precision):
    """Keeping the prediction while nothing changes is no approximation for a network without time."""
    steps, dtype = 12, {"fp64": torch.float64, "fp32": torch.float32}[precision]
    sampler = GumbelRace(steps, precision=precision)
    *_, last = sampler.trajectory(model, torch.full((3, L), V), range(3), 5)
    for row in range(3):
        generator, z, calls, changed = row_generator(5, row), torch.full((L,), V), 0, True
        for n in range(steps + 1):
            t = 1 - n * (1 - 1e-5) / steps
            s = 1 - (n + 1) * (1 - 1e-5) / steps
            masked = (z == V).nonzero()[:, 0]
            if not len(masked):
                break
            calls += changed
            alpha_t, alpha_s = 1 - 0.999 * t, 1.0 if n == steps else 1 - 0.999 * s
            log_p = temper(model.log_x_theta(model.hidden(z[None], torch.tensor([t])))[masked])
            drawn = sample_gumbel_race(log_p, alpha_t, alpha_s, dtype, generator)
            changed = bool((drawn < V).any())
            z[masked[drawn < V]] = drawn[drawn < V]
        assert last.z[row].tolist() == z.tolist()
        assert last.nfe[row] == calls


def test_the_share_revealed_in_a_step_is_the_schedules(model):
    """P(revealed from t to s) = (alpha_s - alpha_t) / (1 - alpha_t), independently of the network."""
    rows = 60
    states = list(GumbelRace(4).trajectory(model, torch.full((rows, L), V), range(rows), 0))
    for n in range(4):
        before, after = (states[n].z == V).sum().item(), (states[n + 1].z == V).sum().item()
        alpha_t, alpha_s = (1 - 0.999 * (1 - i * (1 - 1e-5) / 4) for i in (n, n + 1))
        p = (alpha_s - alpha_t) / (1 - alpha_t)
        assert abs(before - after - before * p) < 4.5 * (before * p * (1 - p)) ** 0.5 + 1e-9
