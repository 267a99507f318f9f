"""Rotary positions and attention, against independent forms."""

import cmath

import pytest
import torch
import torch.nn.functional as F

from mcd.model import attention
from mcd.model.attention import attend, rotary_table, rotate


def test_rotation_is_a_complex_product(seeded):
    """The pair (i, i + d/2) as a complex number, times exp(i position / base^(2i/d))."""
    L, d = 7, 8
    x = torch.randn(L, d, generator=seeded(0), dtype=torch.float64)
    turned = rotate(x, rotary_table(L, d))
    for position in range(L):
        for i in range(d // 2):
            z = complex(x[position, i], x[position, i + d // 2]) * cmath.exp(1j * position / 10_000 ** (2 * i / d))
            assert turned[position, i].item() == pytest.approx(z.real, abs=1e-6)
            assert turned[position, i + d // 2].item() == pytest.approx(z.imag, abs=1e-6)


def test_scores_depend_on_relative_position_alone(seeded):
    L, d = 12, 8
    q, k = torch.randn(2, 1, d, generator=seeded(0), dtype=torch.float64).expand(2, L, d)
    scores = rotate(q, rotary_table(L, d)) @ rotate(k, rotary_table(L, d)).T
    for offset in range(-L + 1, L):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert (scores.diagonal(1)[0] - scores.diagonal(-1)[0]).abs() > 1e-3  # direction matters


def test_the_table_of_a_longer_model_begins_with_that_of_a_shorter_one():
    torch.testing.assert_close(rotary_table(64, 8)[:, :16], rotary_table(16, 8))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_short_path_is_attention(seeded, dtype, tolerance, monkeypatch):
    q, k, v = torch.randn(3, 2, 3, 11, 8, generator=seeded(0), dtype=torch.float64)
    exact = F.scaled_dot_product_attention(q, k, v)
    short = attend(q.to(dtype), k.to(dtype), v.to(dtype))
    assert short.dtype == dtype
    torch.testing.assert_close(short.double(), exact, rtol=0, atol=tolerance)
    monkeypatch.setattr(attention, "SHORT", {torch.float32: 4, torch.float64: 4})
    torch.testing.assert_close(attend(q, k, v), exact)


def test_long_rows_take_the_fused_kernel(seeded, monkeypatch):
    q, k, v = torch.randn(3, 1, 1, 8, 4, generator=seeded(0))
    calls = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **options: calls.append(args) or args[2])
    attend(q, k, v)
    assert not calls
    monkeypatch.setattr(attention, "SHORT", {torch.float32: 4, torch.float64: 4})
    attend(q, k, v)
    assert len(calls) == 1


def test_causal_attention_sees_nothing_ahead(seeded):
    """Against the fused kernel's own causal mode, and: what comes later changes nothing."""
    q, k, v = torch.randn(3, 2, 2, 8, 4, generator=seeded(0))
    ours = attend(q, k, v, causal=True)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    k[..., 5:, :], v[..., 5:, :] = 0.0, 9.0
    torch.testing.assert_close(attend(q, k, v, causal=True)[..., :5, :], ours[..., :5, :])
    assert not torch.allclose(attend(q, k, v, causal=True)[..., 5:, :], ours[..., 5:, :])
