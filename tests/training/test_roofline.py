"""The model of a GPU's time: its counts of kernels against what PyTorch runs, and what it predicts of our shapes."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import SIZES, DiTConfig
from mcd.model.shapes import on_cpu, on_gpu
from mcd.model.sizes import sizes_of
from mcd.model.targets import TeacherTarget
from mcd.process.categorical import sample_inverse_cdf
from mcd.training import roofline
from mcd.training.estimate import DEVICES, Device

SMALL = sizes_of(DiTConfig(rows=50_258, **SIZES["small"]))
CPU, GPU = on_cpu(768, 50_258), on_gpu(70e9, 768, 50_258)
FREE = ("view", "transpose", "slice", "select", "expand", "squeeze", "split", "chunk", "reshape", "permute", "aten.t.")
FREE += ("alias", "detach", "as_strided", "empty", "unbind", "lift", "local_scalar", "is_")


class Kernels(TorchDispatchMode):
    """Counts the operations that would be kernels of a GPU: all but views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not any(name in str(func) for name in FREE)
        return func(*args, **(kwargs or {}))


def kernels_of(work):
    """The kernels of what `work` does, after it was done once."""
    work()
    with torch.no_grad(), Kernels() as counted:
        work()
    return counted.count


@pytest.fixture
def model_of():
    """A model of that many blocks, in the kernels of long rows."""
    return lambda layers: Denoiser(DenoiserConfig(DiTConfig(41, 16, layers, 2, 160, 8), 40)).eval()


def test_kernels_of_a_call(model_of):
    """A block more, a group of wanted rows more, and the rest."""
    z, t = torch.zeros(2, 160, dtype=torch.int64), torch.zeros(2)
    rows = torch.arange(64)
    small, large = model_of(2), model_of(4)
    two, four = (kernels_of(lambda m=m: m.hidden(z, t, rows=rows, group=64)) for m in (small, large))
    assert (four - two) / 2 == pytest.approx(roofline.BLOCK_LAUNCHES, rel=0.15)
    more = kernels_of(lambda: small.hidden(z, t, rows=rows, group=16))
    assert (more - two) / 3 == pytest.approx(roofline.GROUP_LAUNCHES, rel=0.15)
    assert two == pytest.approx(2 * roofline.BLOCK_LAUNCHES + roofline.END_LAUNCHES + roofline.GROUP_LAUNCHES, rel=0.2)


def test_kernels_of_a_draw_and_of_a_loss(model_of, seeded):
    model = model_of(1)
    hidden, v = torch.randn(32, 16, generator=seeded(0)), torch.rand(32, dtype=torch.float64, generator=seeded(1))
    found = kernels_of(lambda: sample_inverse_cdf(model.logits(hidden), v))
    assert found == pytest.approx(roofline.DRAW_LAUNCHES, rel=0.2)
    model.shapes = replace(model.shapes, chunk_rows=16, block_rows=8)
    with torch.enable_grad():
        hidden.requires_grad_()

        def loss(rows):
            model.head_loss(hidden[:rows], TeacherTarget(model, hidden[:rows].detach(), 0.9))

        loss(32)
        with Kernels() as two:
            loss(32)
        with Kernels() as one:
            loss(16)
    of_chunk = roofline.CHUNK_LAUNCHES + 2 * roofline.TARGET_LAUNCHES
    assert two.count - one.count == pytest.approx(of_chunk, rel=0.2)


@pytest.mark.parametrize("name", ["a100", "h100", "h200"])
def test_what_our_shapes_are_for(name):
    """The claims of docs/performance.md: fewer launches, and not behind the public way."""
    device = DEVICES[name]
    for steps in (8, 32, 1024):
        ours, narrow = (roofline.sampling(SMALL, shapes, 1024, 1024, steps, True) for shapes in (GPU, CPU))
        peers = roofline.peers_sampling(SMALL, device, 1024, 1024, steps, True)
        assert roofline.launches(narrow) > 25 * roofline.launches(ours)
        assert roofline.seconds(ours, device, True, 0.4) < 0.5 * roofline.seconds(peers, device, True, 0.4)
    ours, narrow = (roofline.head_loss(SMALL, shapes, 64 * 1024) for shapes in (GPU, CPU))
    assert narrow.launches > 50 * ours.launches and narrow.bytes > 1.2 * ours.bytes


def test_the_largest_of_three():
    """Each of the three terms in turn, and times that add up."""
    device = DEVICES["a100"]
    work = roofline.Work(launches=10, bytes=2.04e9, products=312e9)
    assert work.seconds(device, True, 1.0) == pytest.approx(1e-3)
    assert work.seconds(device, False, 1.0) == pytest.approx(16e-3)
    assert replace(work, launches=1e4).seconds(device, True, 1.0) == pytest.approx(0.05)
    assert roofline.seconds([(3, work), (1, work * 2)], device, True, 1.0) == pytest.approx(5e-3)


MEASURED = {(256, 1, 8): 2.66, (256, 1, 32): 9.45, (256, 1, 256): 50.3, (256, 8, 32): 77.1, (256, 8, 256): 360.0}
"""Seconds of results/bench/cpu.json, by length, rows and steps."""


@pytest.mark.parametrize("request_, taken", MEASURED.items(), ids=str)
def test_the_model_against_a_measured_cpu(request_, taken):
    """Products at the rate that the same file has for the shapes of a step (docs/performance.md)."""
    length, rows, steps = request_
    cpu = Device("two cores", 184e9, 184e9, 12e9, 20e9, 24e9, 1e9, 1e9, is_cpu=True)
    found = roofline.seconds(roofline.sampling(SMALL, CPU, rows, length, steps, False), cpu, False, 0.87)
    assert taken / 1.5 < found < taken * 1.5
