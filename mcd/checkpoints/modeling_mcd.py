"""A diffusion transformer trained by mcd, as a model of `transformers`: PyTorch's own attention, and nothing of mcd.

`mcd export --layout transformers` puts a copy of this file beside the weights, so that

    AutoModelForMaskedLM.from_pretrained(FOLDER, trust_remote_code=True)

works where mcd is not installed. The network is that of MDLM, SDTT and Duo (arXiv 2406.07524, Appendix; adaLN of
Peebles and Xie, 2023). The tests compare its logits with those of `mcd.model.denoiser`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class MCDConfig(PretrainedConfig):
    """Sizes of the network; mask_token_id is None for a model of uniform diffusion.

    time_conditioned: whether the network is told how much noise is in its input.
    """

    model_type = "mcd"

    def __init__(
        self,
        vocab_size: int = 2,
        hidden_size: int = 2,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        max_position_embeddings: int = 1,
        cond_dim: int = 1,
        time_conditioned: bool = False,
        mask_token_id: int | None = None,
        **more: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.cond_dim = cond_dim
        self.time_conditioned = time_conditioned
        self.mask_token_id = mask_token_id
        super().__init__(**more)


class LayerNorm(nn.Module):
    """Layer normalisation with a scale and no bias, then adaLN; in float32 at least."""

    def __init__(self, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """norm(x) w (1 + scale) + shift; x (B, L, D), shift and scale (B or 1, 1, D)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        normed = F.layer_norm(x.to(wide), self.weight.shape, eps=1e-5)
        return torch.addcmul(shift.to(wide), normed, self.weight.to(wide) * (1 + scale.to(wide))).to(x.dtype)


class TimeEmbedding(nn.Module):
    """Sinusoid of width 256, cosines first, then a perceptron of two layers."""

    def __init__(self, cond_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma (B,) = -log alpha_t to (B, cond_dim)."""
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(128, device=sigma.device) / 128)
        angle = sigma.float()[:, None] * frequencies
        sinusoid = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return F.silu(self.mlp(sinusoid.to(next(self.mlp.parameters()).dtype)))


class SelfAttention(nn.Module):
    """Full attention with rotary positions in the half-split layout."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, L, D); cos, sin (L, head_dim) as of `Backbone`. Returns (B, L, D)."""
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, dim=-1))
        q, k = (p * cos + p.roll(p.shape[-1] // 2, dims=-1) * sin for p in (q, k))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block whose branches are shifted, scaled and gated by the time embedding."""

    def __init__(self, config: MCDConfig):
        super().__init__()
        D = config.hidden_size
        self.norm1, self.norm2 = LayerNorm(D), LayerNorm(D)
        self.attention = SelfAttention(D, config.num_attention_heads)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(approximate="tanh"), nn.Linear(4 * D, D))
        self.adaLN = nn.Linear(config.cond_dim, 6 * D)

    def forward(self, x: Tensor, cond: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, L, D); cond (B or 1, 1, cond_dim). Returns (B, L, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN(cond).chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x, shift1, scale1), cos, sin)
        return x + gate2 * self.mlp(self.norm2(x, shift2, scale2))


class Head(nn.Module):
    """The final norm and the projection onto the vocabulary."""

    def __init__(self, config: MCDConfig):
        super().__init__()
        self.norm = LayerNorm(config.hidden_size)
        self.adaLN = nn.Linear(config.cond_dim, 2 * config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Logits (B, L, K)."""
        return self.linear(self.norm(x, *self.adaLN(cond).chunk(2, dim=-1)))


class Backbone(nn.Module):
    """Embedding, time embedding, blocks and head; the embedding and the head are not tied."""

    def __init__(self, config: MCDConfig):
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.embedding = nn.Parameter(torch.zeros(config.vocab_size, config.hidden_size))
        self.time = TimeEmbedding(config.cond_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.head = Head(config)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Embedded tokens x (B, L, D) at sigma (B,) or (1,) to logits (B, L, K)."""
        cond = self.time(sigma)[:, None]
        cos, sin = (table.to(x) for table in self._rotary(x.shape[1], x.device))
        for block in self.blocks:
            x = block(x, cond, cos, sin)
        return self.head(x, cond)

    def _rotary(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and signed sin of the angles, (L, head_dim) each."""
        steps = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device)
        angle = torch.outer(
            torch.arange(length, dtype=torch.float32, device=device), 10_000.0 ** -(steps / self.head_dim)
        )
        return torch.cat((angle.cos(), angle.cos()), -1), torch.cat((-angle.sin(), angle.sin()), -1)


class MCDForMaskedLM(PreTrainedModel):
    """Predicts the clean token at every position of a noisy row, as x_theta(z_t, t) of mcd.

    The mask is never predicted: its logit is the lowest finite number. At visible tokens of a masked model the logits
    mean nothing (a visible token keeps its value).
    """

    config_class = MCDConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True

    def __init__(self, config: MCDConfig):
        super().__init__(config)
        self.backbone = Backbone(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: a network without its weights is of no use here."""

    def get_input_embeddings(self) -> nn.Module:
        """Raises NotImplementedError: the embedding is a parameter, and no module."""
        raise NotImplementedError("the embedding is a parameter, model.backbone.embedding")

    def forward(
        self,
        input_ids: Tensor,
        sigma: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Logits (B, L, K) of rows input_ids (B, L).

        labels: (B, L), -100 where nothing is asked; the loss is then the mean cross-entropy of the others.

        sigma: (B,), -log alpha_t, which a model that is conditioned on time needs; others take no notice of it.
        attention_mask: only ones, since no position was padding in training. Raises ValueError for anything else.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("attention_mask: the model was trained on full rows without padding; cut the rows to size")
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"rows of {input_ids.shape[1]} tokens: the longest are {self.config.max_position_embeddings}"
            )
        if not self.config.time_conditioned:
            sigma = torch.zeros(1, device=input_ids.device)
        elif sigma is None:
            raise ValueError("sigma: this model is conditioned on time; give -log alpha_t of each row, (B,)")
        logits = self.backbone(F.embedding(input_ids, self.backbone.embedding), sigma)
        if self.config.mask_token_id is not None:
            column = torch.arange(logits.shape[-1], device=logits.device) == self.config.mask_token_id
            logits = logits.masked_fill(column, torch.finfo(logits.dtype).min)
        loss = None if labels is None else F.cross_entropy(logits.transpose(1, 2).float(), labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return MaskedLMOutput(loss=loss, logits=logits)

    @torch.inference_mode()
    def fill(self, input_ids: Tensor, steps: int = 32, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """Rows (B, L) with a token drawn in place of every mask; all others stay. For models without time conditioning.

        The ancestral sampler of masked diffusion (MDLM, Section 3.2): each mask is revealed in one of the steps, chosen
        at random, and drawn from the prediction at that step, in float64. `mcd sample` has more samplers.
        """
        if self.config.mask_token_id is None or self.config.time_conditioned:
            raise ValueError("fill is for masked models without time conditioning; use mcd for others")
        generator, z = torch.Generator().manual_seed(seed), input_ids.clone()
        masked = (z == self.config.mask_token_id).cpu()
        step = torch.where(masked, torch.randint(steps, z.shape, generator=generator), -1).to(z.device)
        for k in range(steps):
            now = step == k
            if bool(now.any()):
                p = (self(z).logits[now].double() / temperature).softmax(-1)
                v = torch.rand(len(p), 1, generator=generator, dtype=torch.float64).to(p.device)
                z[now] = (p.cumsum(-1) < v).sum(-1).clamp(max=p.shape[-1] - 1)
        return z


MCDConfig.register_for_auto_class()
MCDForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
