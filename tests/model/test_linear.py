"""Products by oneDNN against PyTorch's own, and work in padded groups."""

import pytest
import torch
import torch.nn.functional as F

from mcd.model import linear as module
from mcd.model.linear import Linear, in_groups, linear, product, use_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (0,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("narrow", [0, 512])
@pytest.mark.parametrize("onednn", [True, False])
def test_linear_is_the_plain_one(seeded, shape, bias, dtype, narrow, onednn, monkeypatch):
    monkeypatch.setattr(module, "NARROW", narrow)
    monkeypatch.setattr(module, "ONEDNN", onednn and module.ONEDNN)
    x = torch.randn(*shape, 6, generator=seeded(0)).to(dtype).requires_grad_()
    layer = Linear(6, 11, bias=bias).to(dtype)
    y, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(y, expected)
    g = torch.randn(y.shape, generator=seeded(1)).to(dtype)
    fast, slow = (torch.autograd.grad((a * g).sum(), (x, *layer.parameters())) for a in (y, expected))
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b)


def test_transposed_views_need_no_copy(seeded):
    a, b = (torch.randn(9, 9, generator=seeded(n)) for n in (0, 1))
    torch.testing.assert_close(product(a, b.t()), a @ b)
    torch.testing.assert_close(product(a.t(), b.t()), a.t() @ b)
    torch.testing.assert_close(product(a[:, 2:7], b[:, 2:7]), a[:, 2:7] @ b[:, 2:7].t())


def test_the_result_may_be_changed_in_place(seeded):
    x, w = torch.randn(2, 4, 3, generator=seeded(0)), torch.randn(5, 3, generator=seeded(1)).requires_grad_()
    y = linear(x, w)
    y[:, :, 2] += 1.0
    y[0] *= 2.0
    (found,) = torch.autograd.grad(y.sum(), w)
    torch.testing.assert_close(found, (2 * x[0].sum(0) + x[1].sum(0)).expand(5, 3))


def test_only_what_is_asked_for_has_a_gradient(seeded):
    x, w = torch.randn(4, 3, generator=seeded(0)), torch.randn(5, 3, generator=seeded(1)).requires_grad_()
    linear(x, w).sum().backward()
    torch.testing.assert_close(w.grad, x.sum(0).expand(5, 3))
    with torch.no_grad():
        assert not linear(x, w).requires_grad


def test_float32_on_cpus_goes_by_onednn_and_nothing_else(monkeypatch, seeded):
    """Autocast chooses its own precision, and other dtypes PyTorch's own library."""
    asked = []
    monkeypatch.setattr(module.F, "linear", lambda *args: asked.append(args) or torch.zeros(()))
    x, w = torch.randn(4, 3, generator=seeded(0)), torch.randn(5, 3, generator=seeded(1))
    if module.ONEDNN:
        linear(x, w)
        assert not asked
    linear(x.double(), w.double())
    with torch.autocast("cpu", torch.bfloat16):
        linear(x, w)
    assert len(asked) == 2


def test_a_network_made_elsewhere_keeps_its_weights(seeded):
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.GELU(), torch.nn.Linear(5, 4, bias=False))
    x, names = torch.randn(3, 6, generator=seeded(0)), list(network.state_dict())
    expected = network(x)
    use_linear(network)
    assert type(network[0]) is type(network[2]) is Linear and list(network.state_dict()) == names
    torch.testing.assert_close(network(x), expected)


def test_groups_are_padded_and_cut(seeded):
    sizes = []

    def double(x, y):
        sizes.append((len(x), len(y)))
        return x * 2 + y

    x, y = torch.randn(7, 3, generator=seeded(0)), torch.randn(7, 3, generator=seeded(1))
    assert torch.equal(in_groups(3, double, x, y), x * 2 + y) and sizes == [(3, 3)] * 3
    assert torch.equal(in_groups(None, double, x, y), x * 2 + y) and sizes[3:] == [(7, 7)]
    assert torch.equal(in_groups(8, double, x[:1], y[:1]), x[:1] * 2 + y[:1]) and sizes[4:] == [(8, 8)]
    assert in_groups(3, double, x[:0], y[:0]).shape == (0, 3)
