"""The shapes of devices: those of a CPU as they are documented, those of a GPU bounded by its memory."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.model.shapes import CALL_BYTES, CHUNK_BYTES, DRAW_BYTES, SHARE, Shapes, on_cpu, on_gpu, shapes_of
from mcd.model.targets import TokenTarget
from mcd.sampler import SAMPLERS, sample

V, L = 23, 16


def test_those_of_a_cpu():
    """Bits of samples on CPUs depend on these numbers."""
    small, ours = on_cpu(768, 50_257), on_cpu(192, 2048)
    assert small == Shapes(
        "cpu", 341, 32, 128, chunk_elements=5 << 20, chunk_rows=96, block_rows=10, kept_bytes=1 << 29
    )
    assert (ours.call_rows(128), ours.chunk_rows) == (4, 2560)
    assert small.call_rows(1024) == 1 and on_cpu(768, 10**7).chunk_rows == 32
    assert shapes_of(torch.device("cpu"), 768, 50_257) == small


def test_those_of_a_large_gpu():
    large = on_gpu(75e9, 768, 50_257)
    assert large.call_rows(1024) == 32 and large.few_rows == 1024 and large.many_rows == 4096
    assert 2**28 / 2 < large.chunk_rows * 50_257 <= 2**28 and large.block_rows == large.chunk_rows // 4


@given(
    st.floats(1e6, 1e12),
    st.integers(2, 8192),
    st.integers(2, 300_000),
)
def test_a_gpu_needs_a_share_of_what_is_free(free, width, V):
    """Each of the four, unless even the smallest shape needs more; and a little less memory changes nothing much."""
    shapes, share = on_gpu(free, width, V), free / SHARE
    assert shapes.call_tokens == 32 or shapes.call_tokens * width * CALL_BYTES <= share
    assert shapes.many_rows == 32 or shapes.many_rows * V * DRAW_BYTES <= share
    assert shapes.chunk_rows == 32 or shapes.chunk_rows * V * CHUNK_BYTES <= share
    assert shapes.kept_bytes == 32 or shapes.kept_bytes <= share
    less = on_gpu(0.9 * free, width, V)
    for name in ("call_tokens", "few_rows", "many_rows", "chunk_rows"):
        value = getattr(shapes, name)
        assert math.log2(value).is_integer() and getattr(less, name) in (value, value // 2)


def gpu_like(model):
    """The shapes of a GPU, for a model on the CPU."""
    width, V = model.config.backbone.hidden, model.config.vocab_size
    return replace(on_gpu(2e9, width, V), device="cpu", few_rows=64, many_rows=256, call_tokens=5 * L)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_depends_on_no_other_in_the_shapes_of_a_gpu(name, tiny_denoiser):
    """Bit for bit, with projections of more rows than a call wants."""
    kind = SAMPLERS[name]
    model = tiny_denoiser(V=V, length=L, process=kind.process).requires_grad_(False)
    model.shapes = gpu_like(model)
    together, _ = sample(kind(4), model, 8, L)
    alone = [sample(kind(4), model, 1, L, first_row=n)[0] for n in range(8)]
    assert torch.equal(together, torch.cat(alone))


def test_a_loss_in_the_shapes_of_a_gpu(tiny_denoiser, seeded):
    """The same loss and gradients as in those of a CPU, up to rounding."""
    model = tiny_denoiser(V=300, hidden=8)
    hidden, ids = torch.randn(200, 8, generator=seeded(0)), torch.randint(300, (200,), generator=seeded(1))
    found = []
    for shapes in (model.shapes, replace(model.shapes, chunk_rows=32, block_rows=8), gpu_like(model)):
        model.shapes = shapes
        model.zero_grad()
        at = hidden.clone().requires_grad_()
        total = model.head_loss(at, TokenTarget(ids)).total
        total.backward()
        found.append((total.detach(), at.grad, model.backbone.head.linear.weight.grad.clone()))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_a_model_that_moves_has_the_shapes_of_its_device(tiny_denoiser):
    model = tiny_denoiser()
    assert model.shapes == on_cpu(16, 23)
    model.shapes = on_gpu(1e9, 16, 23)  # as if it had been on a GPU
    assert model.shapes == on_cpu(16, 23)
