"""The backbone: published sizes, and a second forward pass written from the description of MDLM's DiT."""

import math
from dataclasses import replace

import pytest
import torch

from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import SIZES, DiT, DiTConfig

COUNTS = {"tiny": 80_061_266, "duo-tiny": 33_789_010, "small": 169_627_218, "medium": 424_477_010}
COUNTS["large"] = 863_158_098


@pytest.mark.parametrize("name", SIZES)
def test_published_parameter_counts(name):
    with torch.device("meta"):
        model = DiT(DiTConfig(rows=50_258, cond_dim=128, **SIZES[name]))
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]


def slow_layer_norm(x, weight):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight


def slow_gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def slow_silu(x):
    return x / (1 + torch.exp(-x))


def slow_attention(w, x, heads):
    """Loops over rows, heads and positions; rotary pairs (i, i + d/2) turned by hand."""
    B, L, D = x.shape
    d = D // heads
    inv_freq = 1.0 / (10_000 ** (torch.arange(0, d, 2).float() / d))
    angle = torch.einsum("i,j->ij", torch.arange(L).float(), inv_freq)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    out = torch.empty_like(x)
    for b in range(B):
        qkv = x[b] @ w["qkv.weight"].T  # rows: all of q, then k, then v, each head after head
        for h in range(heads):
            q, k, v = (qkv[:, part * D + h * d : part * D + (h + 1) * d] for part in range(3))
            turned = []
            for a in (q, k):
                left, right = a[:, : d // 2], a[:, d // 2 :]
                turned.append(torch.cat((left * cos - right * sin, right * cos + left * sin), -1))
            for i in range(L):
                weights = torch.exp(turned[1] @ turned[0][i] / math.sqrt(d))
                out[b, i, h * d : (h + 1) * d] = (weights / weights.sum()) @ v
    return out @ w["out.weight"].T


def slow_forward(w, config, x, sigma):
    """Features and logits of embedded tokens x, from the state dict alone."""

    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}

    half = 128
    angle = sigma.float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    c = torch.cat((angle.cos(), angle.sin()), -1).to(x.dtype)
    c = slow_silu(c @ w["time.mlp.0.weight"].T + w["time.mlp.0.bias"])
    c = slow_silu(c @ w["time.mlp.2.weight"].T + w["time.mlp.2.bias"])
    D = config.hidden
    for i in range(config.layers):
        block = part(f"blocks.{i}.")
        six = (c @ block["adaLN.weight"].T + block["adaLN.bias"])[:, None]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (six[..., j * D : (j + 1) * D] for j in range(6))
        y = slow_layer_norm(x, block["norm1.weight"]) * (1 + scale_a) + shift_a
        x = x + gate_a * slow_attention(part(f"blocks.{i}.attention."), y, config.heads)
        y = slow_layer_norm(x, block["norm2.weight"]) * (1 + scale_m) + shift_m
        y = slow_gelu_tanh(y @ block["mlp.0.weight"].T + block["mlp.0.bias"])
        x = x + gate_m * (y @ block["mlp.2.weight"].T + block["mlp.2.bias"])
    two = (c @ w["head.adaLN.weight"].T + w["head.adaLN.bias"])[:, None]
    features = slow_layer_norm(x, w["head.norm.weight"]) * (1 + two[..., D:]) + two[..., :D]
    return features, features @ w["head.linear.weight"].T + w["head.linear.bias"]


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_forward_agrees_with_the_slow_twin(tiny_denoiser, seeded, time_conditioned):
    model = tiny_denoiser(heads=4, length=12, time_conditioned=time_conditioned).double()
    model.config = replace(model.config, time_conditioned=time_conditioned)
    z = torch.randint(0, 24, (3, 9), generator=seeded(1))
    t = torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64)
    sigma = -torch.log(1 - 0.999 * t) if time_conditioned else torch.zeros_like(t)
    w = model.backbone.state_dict()
    features, logits = slow_forward(w, model.config.backbone, w["embedding"][z], sigma)
    hidden = model.hidden(z, t)
    torch.testing.assert_close(hidden, features.flatten(0, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.logits(hidden), logits.flatten(0, 1)[:, :-1], rtol=1e-10, atol=1e-10)


def test_a_fresh_model_is_uniform_and_its_blocks_are_the_identity(seeded):
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(DiTConfig(rows=24, hidden=16, layers=2, heads=2, length=8), mask_id=23)).eval()
    x = torch.randn(2, 8, 16, generator=seeded(0))
    cond = torch.randn(2, 128, generator=seeded(1))
    for block in model.backbone.blocks:
        assert torch.equal(block(x, cond[:, None], model.backbone.rotary), x)
    z = torch.randint(0, 24, (2, 8), generator=seeded(2))
    log_p = model.log_x_theta(model.hidden(z, torch.ones(2)))
    torch.testing.assert_close(log_p, torch.full_like(log_p, -math.log(23)))


def test_open_gates_let_the_branches_in(seeded):
    torch.manual_seed(0)
    model = DiT(DiTConfig(rows=24, hidden=16, layers=1, heads=2, length=8, gate_init=1.0))
    bias = model.blocks[0].adaLN.bias.view(6, 16)
    assert torch.equal(bias.sum(1), torch.tensor([0.0, 0.0, 16.0, 0.0, 0.0, 16.0]))
    x = torch.randn(2, 8, 16, generator=seeded(0))
    assert not torch.allclose(model.blocks[0](x, torch.zeros(2, 1, 128), model.rotary), x)


@pytest.mark.parametrize("process", ["masked", "autoregressive", "uniform"])
@pytest.mark.parametrize("time_conditioned", [False, True])
def test_rows_asked_for_are_those_of_all(tiny_denoiser, seeded, time_conditioned, process):
    """The last block computes only the rows wanted, in any order: values and gradients are as if it did all."""
    model = tiny_denoiser(time_conditioned=time_conditioned, process=process).double()
    z, t = torch.randint(0, 23, (3, 9), generator=seeded(0)), torch.tensor([0.1, 0.5, 0.9]).double()
    rows = torch.tensor([26, 0, 3, 17, 4])
    some, every = model.hidden(z, t, rows=rows), model.hidden(z, t)[rows]
    torch.testing.assert_close(some, every, rtol=1e-12, atol=1e-12)
    weight = torch.randn(some.shape, generator=seeded(1), dtype=torch.float64)
    names, params = zip(*((n, p) for n, p in model.named_parameters() if "head.linear" not in n), strict=True)
    fast, slow = (torch.autograd.grad((h * weight).sum(), params, allow_unused=True) for h in (some, every))
    for name, a, b in zip(names, fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=name)
    assert model.hidden(z, t, rows=rows[:0]).shape == (0, 16)


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_in_groups_a_row_is_the_same_whoever_else_is_asked_for(tiny_denoiser, seeded, time_conditioned):
    model = tiny_denoiser(time_conditioned=time_conditioned, hidden=32)
    z, t = torch.randint(0, 23, (3, 16), generator=seeded(0)), torch.tensor([0.1, 0.5, 0.9])
    with torch.inference_mode():
        every = model.hidden(z, t, rows=torch.arange(48), group=4)
        for rows in ([7], [7, 40, 3], list(range(47, -1, -5))):
            assert torch.equal(model.hidden(z, t, rows=torch.tensor(rows), group=4), every[rows])
    torch.testing.assert_close(every, model.hidden(z, t), rtol=1e-4, atol=1e-5)


def test_a_constant_condition_is_the_affine_part_of_the_norm(tiny_denoiser, seeded):
    """A model without a time input modulates inside its layer norms; told the same sigma row by row, it does not."""
    model = tiny_denoiser()
    for dtype, most in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        backbone = model.to(dtype).backbone
        x = torch.randn(3, 16, 16, generator=seeded(0), dtype=dtype)
        with torch.no_grad():
            folded, plain = (model.logits(backbone(x, torch.zeros(n))) for n in (1, 3))
        torch.testing.assert_close(folded, plain, rtol=most, atol=most)


@pytest.mark.parametrize("rows", [None, torch.tensor([5, 30, 2])])
def test_checkpointing_changes_no_gradient(tiny_denoiser, seeded, rows):
    """Dropout included: a block computed again drops what it dropped before."""
    model = tiny_denoiser(dropout=0.5).train()
    z, t = torch.randint(0, 23, (2, 16), generator=seeded(0)), torch.ones(2)
    found = []
    for model.backbone.checkpointing in (False, True):
        torch.manual_seed(3)
        hidden = model.hidden(z, t, rows=rows)
        params = [p for n, p in model.named_parameters() if "head.linear" not in n]
        found.append((hidden.detach(), *torch.autograd.grad(hidden.square().sum(), params)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_dropout_acts_in_training_only(tiny_denoiser, seeded):
    model = tiny_denoiser(dropout=0.5)
    z, t = torch.randint(0, 24, (2, 16), generator=seeded(0)), torch.ones(2)
    assert torch.equal(model.hidden(z, t), model.hidden(z, t))
    model.train()
    assert not torch.equal(model.hidden(z, t), model.hidden(z, t))


def test_impossible_head_sizes_are_refused():
    for hidden, heads in ((16, 3), (6, 2)):
        with pytest.raises(ValueError, match=f"--hidden {hidden} --heads {heads}: .*even multiple"):
            DiTConfig(rows=8, hidden=hidden, heads=heads)


@pytest.mark.parametrize(
    "name, value",
    [
        ("rows", 0),
        ("hidden", 0),
        ("layers", -1),
        ("heads", 0),
        ("length", 0),
        ("cond_dim", 0),
        ("layers", True),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", math.nan),
        ("gate_init", math.inf),
    ],
)
def test_sizes_out_of_range_name_the_option(name, value):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {value}: must be"):
        DiTConfig(**{"rows": 8, name: value})
