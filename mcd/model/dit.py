"""The diffusion transformer of MDLM, SDTT and Duo (arXiv 2406.07524, Appendix; Peebles and Xie 2023 for adaLN).

Shape letters: B batch, L length, D hidden, K rows of embedding and head (real tokens and, if there is one, the mask).
The parameter counts of the published sizes are tests (tests/model/test_dit.py).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mcd.model.attention import Kept, SelfAttention, rotary_table
from mcd.model.backbone import Backbone
from mcd.model.linear import Linear, in_groups
from mcd.options import Decay, Options


@dataclass(frozen=True)
class DiTConfig(Options):
    """Sizes of a backbone. The upper bounds stop slips and traps; the largest published models have a tenth of them."""

    rows: Annotated[int, Ge(1), Le(2**24)]
    """K: rows of embedding and head."""
    hidden: Annotated[int, Ge(1), Le(2**16)] = 768
    """Width."""
    layers: Annotated[int, Ge(1), Le(2**12)] = 12
    """Blocks."""
    heads: Annotated[int, Ge(1), Le(2**12)] = 12
    """Attention heads of each block."""
    length: Annotated[int, Ge(1), Le(2**20)] = 1024
    """Longest sequence."""
    cond_dim: Annotated[int, Ge(1), Le(2**16)] = 128
    """Width of the time embedding. Without time conditioning the embedding is constant, so a small width is enough."""
    dropout: Decay = 0.1
    """Dropout on both branches of a block."""
    gate_init: Annotated[float, Ge(-1e6), Le(1e6)] = 0.0
    """Initial value of the residual gates. 0 is adaLN-zero (MDLM); with 1, short runs learn sooner."""
    causal: bool = False
    """Whether a position sees only itself and those before it (the autoregressive model), not the whole row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(
                f"--hidden {self.hidden} --heads {self.heads}: the first must be an even multiple of the second"
            )

    @property
    def block_parameters(self) -> int:
        """Numbers in the weights of one block: norms, attention, perceptron and modulation."""
        D, C = self.hidden, self.cond_dim
        return 2 * D + 3 * D * D + D * D + 8 * D * D + 5 * D + (C + 1) * 6 * D

    @property
    def parameters(self) -> int:
        """Numbers in all weights of the backbone."""
        K, D, C = self.rows, self.hidden, self.cond_dim
        time = (TimeEmbedding.width + 1) * C + (C + 1) * C
        head = D + (C + 1) * 2 * D + (D + 1) * K
        return K * D + time + self.layers * self.block_parameters + head


SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden": 512, "layers": 8, "heads": 8},
    "duo-tiny": {"hidden": 256, "layers": 8, "heads": 8},
    "small": {"hidden": 768, "layers": 12, "heads": 12},
    "medium": {"hidden": 1024, "layers": 24, "heads": 16},
    "large": {"hidden": 1536, "layers": 24, "heads": 16},
}
"""Published sizes: MDLM tiny, small, medium; Duo tiny; SDTT (and the paper's 863M) large."""


class LayerNorm(nn.Module):
    """Layer normalisation with a scale and no bias, then adaLN; in float32 at least, whatever autocast says."""

    def __init__(self, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """norm(x) w (1 + scale) + shift. x: (B, L, D) or (n, D); shift, scale: broadcastable to x.

        A model without a time input has one shift and one scale for all rows, (1, D) or (1, 1, D): they are then the
        affine part of the normalisation itself, and cost no pass over x.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            scale, shift = self.weight.to(dtype) * (1 + scale.to(dtype)), shift.to(dtype)
            if scale.numel() == self.weight.numel():
                normed = F.layer_norm(x.to(dtype), self.weight.shape, scale.flatten(), shift.flatten(), eps=1e-5)
            else:
                normed = torch.addcmul(shift, F.layer_norm(x.to(dtype), self.weight.shape, eps=1e-5), scale)
        return normed.to(torch.promote_types(x.dtype, self.weight.dtype))


class TimeEmbedding(nn.Module):
    """Sinusoid of width 256 (cosines first, longest period 10,000), then a two-layer SiLU perceptron to cond_dim."""

    width = 256

    def __init__(self, cond_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.width, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma: (B,) = -log alpha_t. Returns SiLU of the embedding, (B, cond_dim)."""
        half = self.width // 2
        freqs = torch.exp(-math.log(10_000.0) * torch.arange(half, device=sigma.device) / half)
        angle = sigma.float()[:, None] * freqs
        sinusoid = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return F.silu(self.mlp(sinusoid.to(next(self.mlp.parameters()).dtype)))


class Block(nn.Module):
    """Pre-norm transformer block whose branches are shifted, scaled and gated by the time embedding (adaLN-zero)."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        D = config.hidden
        self.norm1 = LayerNorm(D)
        self.attention = SelfAttention(D, config.heads, config.causal)
        self.norm2 = LayerNorm(D)
        self.mlp = nn.Sequential(Linear(D, 4 * D), nn.GELU(approximate="tanh"), Linear(4 * D, D))
        self.adaLN = nn.Linear(config.cond_dim, 6 * D)
        nn.init.zeros_(self.adaLN.weight)
        nn.init.zeros_(self.adaLN.bias)
        with torch.no_grad():  # chunks 2 and 5 are the gates of attention and of the perceptron
            self.adaLN.bias.view(6, D)[[2, 5]] = config.gate_init
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, cond: Tensor, rotary: Tensor, rows: Tensor | None = None, group: int | None = None
    ) -> Tensor:
        """x: (B, L, D); cond: (B or 1, 1, cond_dim); rotary: (2, L, head_dim). Returns (B, L, D).

        rows: flat positions (n,); then only they are computed from the attention on, and the result is (n, D). All of
        x is still attended to. `group` as in `Backbone.forward`.
        """
        length = x.shape[1]
        shift1, scale1, *modulation = self.adaLN(cond).chunk(6, dim=-1)
        normed = self.norm1(x, shift1, scale1)
        if rows is None:
            return self._after_attention(x, self.attention(normed, rotary), *modulation)
        attended = self.attention(normed, rotary, rows, group)
        x = x.flatten(0, 1)[rows]
        if len(cond) == 1:
            shared = [m[0] for m in modulation]
            return in_groups(group, lambda x, a: self._after_attention(x, a, *shared), x, attended)
        modulation = [m[rows // length, 0] for m in modulation]
        return in_groups(group, self._after_attention, x, attended, *modulation)

    def read(self, x: Tensor, cond: Tensor, rotary: Tensor, kept: Kept) -> Tensor:
        """`forward` at the next positions, x (n, m, D), of rows that are read from left to right."""
        shift1, scale1, *modulation = self.adaLN(cond).chunk(6, dim=-1)
        return self._after_attention(x, self.attention.read(self.norm1(x, shift1, scale1), rotary, kept), *modulation)

    def _after_attention(
        self, x: Tensor, attended: Tensor, gate1: Tensor, shift2: Tensor, scale2: Tensor, gate2: Tensor
    ) -> Tensor:
        """The output projection of attention, and the perceptron, row by row: (..., D)."""
        branch = self.attention.out(attended)
        x = torch.addcmul(x, gate1, F.dropout(branch, self.dropout, self.training))
        branch = self.mlp(self.norm2(x, shift2, scale2))
        return torch.addcmul(x, gate2, F.dropout(branch, self.dropout, self.training))


class VocabularyHead(nn.Module):
    """Final norm and modulation, kept apart from the projection so that only chosen rows reach the vocabulary."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.norm = LayerNorm(config.hidden)
        self.adaLN = nn.Linear(config.cond_dim, 2 * config.hidden)
        self.linear = nn.Linear(config.hidden, config.rows)
        for p in (*self.adaLN.parameters(), *self.linear.parameters()):
            nn.init.zeros_(p)

    def features(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (..., D) and cond broadcastable to (..., cond_dim), to (..., D), ready for `linear`."""
        shift, scale = self.adaLN(cond).chunk(2, dim=-1)
        return self.norm(x, shift, scale)


class DiT(Backbone):
    """Token embedding, time embedding, blocks and vocabulary head; the two embeddings are not tied."""

    rotary: Tensor

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.rows, config.hidden))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))
        self.time = TimeEmbedding(config.cond_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = VocabularyHead(config)
        self.register_buffer("rotary", rotary_table(config.length, config.hidden // config.heads), persistent=False)

    def table(self) -> Tensor:
        return self.embedding

    def projection(self) -> tuple[Tensor, Tensor]:
        return self.head.linear.weight, self.head.linear.bias

    def shardable_layers(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor, sigma: Tensor, rows: Tensor | None = None, group: int | None = None) -> Tensor:
        """As of any backbone. For `rows` the last block makes queries, output and perceptron for them only."""
        length = x.shape[1]
        cond = self.time(sigma)[:, None]
        rotary = self.rotary[:, :length]
        *earlier, last = self.blocks
        for block in earlier:
            x = self._run(block, x, cond, rotary)
        x = self._run(last, x, cond, rotary, rows, group)
        if rows is None:
            return self.head.features(x, cond)
        if len(cond) == 1:
            return in_groups(group, lambda x: self.head.features(x, cond[0]), x)
        return in_groups(group, self.head.features, x, cond[rows // length, 0])

    def states(self, x: Tensor, sigma: Tensor, layer: int) -> Tensor:
        cond = self.time(sigma)[:, None]
        rotary = self.rotary[:, : x.shape[1]]
        for block in self.blocks[:layer]:
            x = self._run(block, x, cond, rotary)
        return x

    def read(self, x: Tensor, kept: list[Kept]) -> Tensor:
        """Features (n, D) at the last of the next m positions of a causal network, embedded, x (n, m, D), at t = 0.

        kept: of each block, what it has of the positions before; it is completed.
        """
        cond = self.time(x.new_zeros(1))[:, None]
        for block, of_block in zip(self.blocks, kept, strict=True):
            assert isinstance(block, Block)
            x = block.read(x, cond, self.rotary, of_block)
        return self.head.features(x[:, -1], cond[0])

    def _run(self, block: nn.Module, *args: Tensor | int | None) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)
