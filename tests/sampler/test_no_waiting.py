"""The steps of a sampler ask the network's device for no number: a GPU would have to finish all its work for it."""

from dataclasses import replace

import pytest
import torch

from mcd.process.transfer import checks_later
from mcd.sampler import SAMPLERS
from mcd.sampler.causal import Causal
from mcd.sampler.confidence import Confidence
from mcd.sampler.locked import Locked
from mcd.sampler.remdm import ReMDM
from mcd.sampler.uniform import Uniform

V, L = 23, 16
ADAPTIVE = "how many tokens it reveals depends on the prediction"
WAITING = {"gumbel-race": "it repeats public code"} | dict.fromkeys(("cad", "entropy-bounded", "klass"), ADAPTIVE)
VARIANTS = [
    *(kind(5) for name, kind in SAMPLERS.items() if name not in WAITING),
    Confidence(5, block=4, score="margin"),
    Confidence(5, greedy=True),
    Locked(5, greedy=True),
    ReMDM(5, eta=0.5, top_p=0.9),
    Uniform(5, kappa=0.5, tail="greedy", temperature=0.8),
]


@pytest.mark.parametrize("sampler", VARIANTS, ids=repr)
def test_no_step_waits(sampler, tiny_denoiser, no_numbers):
    """Held on a device that has no numbers; the calls made are those of the CPU."""
    model = tiny_denoiser(V=V, length=L, process=sampler.process).requires_grad_(False)
    z = torch.full((5, L), model.blank_id)
    z[:, 3:6] = 1
    rows_per_call = replace(sampler, rows_per_call=2)
    expected = [step.nfe for step in rows_per_call.trajectory(model, z, range(5), 0)]
    model = model.to("meta")
    with checks_later() as checks:
        with no_numbers():
            states = list(rows_per_call.trajectory(model, z, range(5), 0))
        checks.clear()
    assert [step.nfe.tolist() for step in states] == [nfe.tolist() for nfe in expected]
    assert all(step.z.is_meta and step.z.shape == z.shape for step in states)


@pytest.mark.parametrize("name", WAITING)
def test_those_that_wait_are_known(name, tiny_denoiser, no_numbers):
    model = tiny_denoiser(V=V, length=L).requires_grad_(False).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)), no_numbers():
        list(SAMPLERS[name](5).trajectory(model, torch.full((2, L), V), range(2), 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sampler", [v for v in VARIANTS if not isinstance(v, Causal)], ids=repr)
def test_no_step_waits_on_a_gpu(sampler, tiny_denoiser):
    model = tiny_denoiser(V=V, length=L, process=sampler.process).requires_grad_(False).to("cuda")
    trajectory = sampler.trajectory(model, torch.full((5, L), model.blank_id), range(5), 0)
    next(trajectory)
    with checks_later():
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in trajectory:
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")
