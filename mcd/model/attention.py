"""Attention with rotary positions, bidirectional or causal, by PyTorch's scaled_dot_product_attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcd.model.linear import Linear, in_groups, linear

SHORT = {torch.bfloat16: 256, torch.float16: 256}
"""Longest rows, by dtype, that a CPU attends to by two plain products; 128 for the others."""


def rotary_table(length: int, head_dim: int, base: float = 10_000.0) -> Tensor:
    """cos and signed sin of the rotary angles, (2, L, head_dim), half-split (NeoX) layout as in MDLM; float32.

    The first half of the sines is negative, as `rotate` needs them.
    """
    inv_freq = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), inv_freq)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + head_dim/2}) by their position's angle. x: (..., L, head_dim); rotary: its table."""
    cos, sin = rotary.to(x.dtype)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, over (B, H, L, head_dim); causal: each sees itself and those before.

    On CPUs, short rows are quicker by two plain matrix products than by the fused kernel (1.3x a training step at
    L = 128, bfloat16); elsewhere PyTorch chooses its kernel.
    """
    if q.device.type == "cpu" and q.shape[-2] <= SHORT.get(q.dtype, 128):
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if causal:
            ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(ahead, -torch.inf)
        return scores.softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Kept:
    """Keys and values of the positions that were read so far, of n rows that are read from left to right, (n, H, L, d).

    length: L, the most positions.
    """

    def __init__(self, length: int):
        self.length, self.read = length, 0
        self._both: Tensor | None = None

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of m further positions, (n, H, m, d); returns those of all read so far, (n, H, read, d)."""
        if self._both is None:
            n, H, _, d = k.shape
            self._both = k.new_empty(2, n, H, self.length, d)
        start, self.read = self.read, self.read + k.shape[2]
        self._both[:, :, :, start : self.read] = torch.stack((k, v))
        keys, values = self._both[:, :, :, : self.read]
        return keys, values


class SelfAttention(nn.Module):
    """Linear(D -> 3D, no bias), rotary on q and k, attention, Linear(D -> D, no bias)."""

    def __init__(self, hidden: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = Linear(hidden, 3 * hidden, bias=False)
        self.out = Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, rows: Tensor | None = None, group: int | None = None) -> Tensor:
        """What each position gathers, `out` not yet applied. x: (B, L, D); rotary: (2, L, D/H). Returns (B, L, D).

        rows: flat positions (n,) that look at the others; then queries are made for them only, in groups of `group`
        (`in_groups`), and the result is (n, D).
        """
        B, L, D = x.shape
        if rows is None:
            q, k, v = (self._heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        else:
            k, v = (self._heads(part) for part in linear(x, self.qkv.weight[D:]).chunk(2, dim=-1))
            queries = in_groups(group, lambda part: linear(part, self.qkv.weight[:D]), x.flatten(0, 1)[rows])
            q = self._heads(queries.new_zeros(B * L, D).index_copy(0, rows, queries).view(B, L, D))
        attended = attend(rotate(q, rotary), rotate(k, rotary), v, self.causal)
        attended = attended.transpose(1, 2).reshape(B, L, D)
        return attended if rows is None else attended.flatten(0, 1)[rows]

    def read(self, x: Tensor, rotary: Tensor, kept: Kept) -> Tensor:
        """`forward` of a causal network at the next m positions only, x (n, m, D): it looks back at what was `kept`.

        rotary: (2, L, D/H), as of whole rows.
        """
        n, m, D = x.shape
        rotary = rotary[:, kept.read : kept.read + m]
        q, k, v = (self._heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        keys, values = kept.add(rotate(k, rotary), v)
        seen = None  # a single position sees all that is kept
        if m > 1:
            seen = torch.ones(m, kept.read, dtype=torch.bool, device=x.device).tril(kept.read - m)
        attended = F.scaled_dot_product_attention(rotate(q, rotary), keys, values, attn_mask=seen)
        return attended.transpose(1, 2).reshape(n, m, D)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, H, L, D/H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
