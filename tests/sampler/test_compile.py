"""`mcd sample --compile`: blocks are compiled once, whatever the sampler and the rows, and draws stay as they are."""

import subprocess
import sys

import pytest

from mcd.errors import MissingCompiler
from mcd.machine import check_compiler

CODE = """
import torch
from torch._dynamo.utils import counters
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.confidence import Confidence

torch.set_num_threads(1)
torch.manual_seed(0)
config = DiTConfig(301, 64, 4, 4, 32, cond_dim=8, gate_init=1.0)
model = Denoiser(DenoiserConfig(config, 300)).eval().requires_grad_(False)
with torch.no_grad():
    model.backbone.head.linear.weight.normal_(std=0.3)
work = (Ancestral(4), 3), (Ancestral(8), 20), (Confidence(4), 3)
plain = [sample(sampler, model, num, 32)[0] for sampler, num in work]
z = torch.randint(301, (16, 32))
exact = model.hidden(z, torch.ones(16))
model.backbone.compile_blocks()
drawn = [sample(sampler, model, num, 32)[0] for sampler, num in work]
flips = sum((a != b).sum().item() for a, b in zip(plain, drawn))
with torch.inference_mode():
    rough = model.hidden(z, torch.ones(16))
assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
assert 0 < (rough - exact).abs().max() < 1e-4, "nothing was compiled, or something else"
assert flips <= 3, flips
"""


@pytest.mark.slow
def test_blocks_are_compiled_once():
    """In a process of its own: the checks of annotations that tests add cannot be compiled."""
    try:
        check_compiler()
    except MissingCompiler as error:
        pytest.skip(str(error))
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
