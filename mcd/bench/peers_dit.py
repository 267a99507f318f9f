"""The diffusion transformer as the public code of MDLM, SDTT and Duo computes it, for comparison of time and memory.

Written from what that code computes: layer norm without fused affine, then scale, then modulation; gates and residuals
as separate operations; cos and sin applied to q and k; logits of all B x L positions. Attention is PyTorch's
scaled_dot_product_attention, which replaces flash attention (Duo's own code uses it too).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig


class PeersLayerNorm(nn.Module):
    """Normalisation, and a scale as an operation of its own."""

    def __init__(self, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, D)."""
        return F.layer_norm(x.float(), [x.shape[-1]]) * self.weight[None, None]


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class _PeersAttention(nn.Module):
    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, D // self.heads).unbind(2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        attended = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(attended.transpose(1, 2).reshape(B, L, D))


class _PeersBlock(nn.Module):
    def __init__(self, hidden: int, heads: int, cond_dim: int, dropout: float):
        super().__init__()
        self.norm1 = PeersLayerNorm(hidden)
        self.attention = _PeersAttention(hidden, heads)
        self.norm2 = PeersLayerNorm(hidden)
        mlp = nn.Linear(hidden, 4 * hidden), nn.GELU(approximate="tanh"), nn.Linear(4 * hidden, hidden)
        self.mlp = nn.Sequential(*mlp)
        self.adaLN = nn.Linear(cond_dim, 6 * hidden)
        self.dropout = dropout

    def forward(self, x: Tensor, cond: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN(cond)[:, None].chunk(6, dim=2)
        branch = self.attention(_modulate(self.norm1(x), shift1, scale1), cos, sin)
        x = x + gate1 * F.dropout(branch, self.dropout, self.training)
        branch = self.mlp(_modulate(self.norm2(x), shift2, scale2))
        return x + gate2 * F.dropout(branch, self.dropout, self.training)


class _PeersTime(nn.Module):
    def __init__(self, cond_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        freqs = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32, device=sigma.device) / 128)
        angle = sigma[:, None].float() * freqs[None]
        return self.mlp(torch.cat((angle.cos(), angle.sin()), dim=-1))


class _PeersHead(nn.Module):
    def __init__(self, hidden: int, cond_dim: int, rows: int):
        super().__init__()
        self.norm = PeersLayerNorm(hidden)
        self.adaLN = nn.Linear(cond_dim, 2 * hidden)
        self.linear = nn.Linear(hidden, rows)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        shift, scale = self.adaLN(cond)[:, None].chunk(2, dim=2)
        return self.linear(_modulate(self.norm(x), shift, scale))


class PeersDiT(nn.Module):
    """(B, L) ids to (B, L, K) logits. Parameters have the names of ours, so that weights can be copied unchanged.

    The network of MDLM and Duo: a model without time input (MDLM's) has its time embedding all the same, which always
    sees 0. Counts its calls in `calls`.
    """

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        size = config.backbone
        assert isinstance(size, DiTConfig)
        self.calls = 0
        self.embedding = nn.Parameter(torch.empty(size.rows, size.hidden))
        self.time = _PeersTime(size.cond_dim)
        self.blocks = nn.ModuleList(
            _PeersBlock(size.hidden, size.heads, size.cond_dim, size.dropout) for _ in range(size.layers)
        )
        self.head = _PeersHead(size.hidden, size.cond_dim, size.rows)
        self.head_dim = size.hidden // size.heads
        self._tables: tuple[Tensor, Tensor] | None = None

    def forward(self, z: Tensor, sigma: Tensor | None = None) -> Tensor:
        """z: (B, L) int64; sigma: (B,) = -log alpha_t, or 0. Returns logits (B, L, K), the mask's among them.

        They are float32, in bfloat16 products too, as CUDA's autocast makes them for what follows.
        """
        self.calls += 1
        x = self.embedding[z]
        cond = F.silu(self.time(x.new_zeros(len(z)) if sigma is None else sigma))
        cos, sin = self._rotary(z.shape[1])
        for block in self.blocks:
            x = block(x, cond, cos, sin)
        return self.head(x, cond).float()

    def _rotary(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, each (L, 1, D/H), kept until another length comes."""
        if self._tables is None or len(self._tables[0]) != length:
            device = self.embedding.device
            inv_freq = 1.0 / 10_000 ** (torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim)
            angle = torch.outer(torch.arange(length, device=device).float(), inv_freq)
            angle = torch.cat((angle, angle), dim=-1)[:, None]
            self._tables = angle.cos(), angle.sin()
        return self._tables


def peers_dit(denoiser: Denoiser) -> PeersDiT:
    """The peers' network over the very weights of a masked or uniform denoiser: tensors are shared, not copied.

    Raises ValueError for a denoiser of another kind.
    """
    if denoiser.config.process not in ("masked", "uniform"):
        raise ValueError("the peers' networks here are masked (MDLM's) or uniform (Duo's)")
    with torch.device("meta"):
        network = PeersDiT(denoiser.config)
    network.load_state_dict(dict(denoiser.backbone.named_parameters()), assign=True)
    return network.train(denoiser.training)
