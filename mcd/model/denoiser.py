"""`Denoiser`: the one interface that objectives and samplers see, in three calls.

h = denoiser.hidden(z_t, t, rows=rows)   # (n, D): the backbone, and only the rows asked for
log_x_theta = denoiser.log_x_theta(h)    # (n, V): clean-token log-probs after SUBS
loss = denoiser.head_loss(h, target)     # what autograd through log_x_theta would give, without its memory
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mcd.model.adapted.config import AdaptedConfig
from mcd.model.adapted.network import Adapted
from mcd.model.backbone import Backbone
from mcd.model.dit import DiT, DiTConfig
from mcd.model.head import HeadLoss, head_loss
from mcd.model.linear import linear
from mcd.model.locked import LockedInput, Shown
from mcd.model.lora import Base, LoRA, add_factors
from mcd.model.reader import Reader
from mcd.model.shapes import Shapes, shapes_of
from mcd.model.targets import Target, tempered
from mcd.options import Options
from mcd.process.schedule import LogLinear, Schedule
from mcd.process.transfer import send

Process = Literal["masked", "locked", "uniform", "autoregressive"]


@dataclass(frozen=True)
class DenoiserConfig(Options):
    """What a model is: its backbone, its process, and which row is the mask.

    `mask_id` is the last row of a `DiT`, beyond the tokens, or None for uniform diffusion. Of an adapted network it is
    one of the tokens, and forbidden; in uniform diffusion each of its rows is a token, and none is forbidden. An
    autoregressive model (a causal backbone) uses that last row as its start of text. A time-conditioned network sees
    sigma = -log alpha_t; MDLM's sees 0, and adapted ones have no such input.
    locked: what a model of masked diffusion is shown of its row's locked noise (`mcd.model.locked`). Such a model maps
    noise to text: only samplers that carry the noise can draw from it, and it has no likelihood.
    """

    backbone: DiTConfig | AdaptedConfig
    mask_id: int | None
    schedule: Schedule = field(default_factory=LogLinear)
    time_conditioned: bool = False
    locked: tuple[Shown, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.locked and (self.mask_id is None or self.backbone.causal):
            raise ValueError("locked: only a model of masked diffusion can be shown locked noise")
        if isinstance(self.backbone, AdaptedConfig):
            network = self.backbone
            if self.mask_id is None and (network.forbidden or network.tokens < network.rows):
                raise ValueError("mask_id null: noise is of all rows, so each must be a token and none forbidden")
            if self.mask_id is not None and self.mask_id not in network.forbidden:
                raise ValueError(f"mask_id {self.mask_id}: must be an id that is forbidden")
            if self.time_conditioned:
                raise ValueError("time_conditioned: an adapted network has no input of time")
            return
        last = self.backbone.rows - 1
        if self.mask_id not in (None, last):
            raise ValueError(
                f"mask_id {self.mask_id} is not the last of the {self.backbone.rows} rows of the embedding ({last})"
            )
        if self.backbone.causal and self.mask_id is None:
            raise ValueError("a causal backbone needs the extra last row (mask_id), its start of text")
        if self.vocab_size < 1:
            raise ValueError("the vocabulary has no token besides the mask")

    @property
    def process(self) -> Process:
        """What kind of model it is; an objective or a sampler works on one kind."""
        if self.mask_id is None:
            return "uniform"
        return "autoregressive" if self.backbone.causal else "locked" if self.locked else "masked"

    @property
    def vocab_size(self) -> int:
        """V, the columns of predictions: the real tokens, or all K ids where the mask is one of them."""
        if isinstance(self.backbone, AdaptedConfig):
            return self.backbone.rows
        return self.backbone.rows - (self.mask_id is not None)

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Those of the V columns whose probability is always 0, ascending."""
        return self.backbone.forbidden if isinstance(self.backbone, AdaptedConfig) else ()

    @property
    def tokens(self) -> int:
        """How many tokens the model's tokenizer has."""
        return self.backbone.tokens if isinstance(self.backbone, AdaptedConfig) else self.vocab_size


class Denoiser(nn.Module):
    """x_theta(z_t, t): predicts clean tokens from a noisy row, under the SUBS parameterisation when there is a mask."""

    folder: Path | None = None
    lora: LoRA | None = None
    base: Base | None = None
    """The published network whose weights these are, next to which factors are trained; None once they are added."""
    dtype: torch.dtype = torch.float32
    """Of the network's products outside training: bfloat16 runs its blocks under autocast. Weights, features, the
    projection onto the vocabulary, and so logits, stay float32."""
    _shapes: Shapes | None = None

    def __init__(self, config: DenoiserConfig, backbone: Backbone | None = None):
        """backbone: the network; by default a new one as `config.backbone` says."""
        super().__init__()
        self.config = config
        self.backbone = _backbone(config.backbone) if backbone is None else backbone
        self.locked = self._locked_input() if config.locked else None

    @property
    def shapes(self) -> Shapes:
        """How much is done at a time on the device where it is: chosen when first asked for there, and settable."""
        if self._shapes is None or self._shapes.device != self.device.type:
            self._shapes = shapes_of(self.device, self.config.backbone.hidden, self.config.vocab_size)
        return self._shapes

    @shapes.setter
    def shapes(self, shapes: Shapes) -> None:
        """Replace them, by shapes of the same device."""
        self._shapes = shapes

    @property
    def dtype_said(self) -> str | None:
        """What the stamp of a figure says of `dtype`; None for float32."""
        return None if self.dtype == torch.float32 else str(self.dtype).removeprefix("torch.")

    @property
    def mask_id(self) -> int:
        """The mask's id. Raises ValueError for a model of uniform diffusion, which has none."""
        if self.config.mask_id is None:
            raise ValueError("this model has no mask token (uniform diffusion)")
        return self.config.mask_id

    @property
    def blank_id(self) -> int:
        """The id that says "text is wanted here": the mask, or one beyond the vocabulary when there is none."""
        return self.config.vocab_size if self.config.mask_id is None else self.config.mask_id

    @property
    def forbidden(self) -> tuple[int, ...]:
        """As of the configuration."""
        return self.config.forbidden

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.table().device

    def embed(self, z_t: Tensor) -> Tensor:
        """(B, L) ids, or (B, L, K) soft tokens (probabilities over rows, Duo's curriculum), to (B, L, D)."""
        table = self.backbone.table()
        return z_t.to(table.dtype) @ table if z_t.is_floating_point() else nn.functional.embedding(z_t, table)

    def hidden(
        self,
        z_t: Tensor,
        t: Tensor,
        noise: Tensor | None = None,
        rows: Tensor | None = None,
        group: int | None = None,
    ) -> Tensor:
        """Backbone features of the rows asked for.

        z_t: (B, L) ids or (B, L, K) soft tokens; t: (B,) times in [0, 1]; noise: (B, L, D) added to the embedded
        tokens; rows: flat positions b * L + l, int64 (n,), without repetition, all of them when None; group: as in
        `Backbone.forward`. What is on the CPU is sent to the network's device. Returns (n, D). Raises ValueError when L
        is longer than the model's, and where a model that is shown locked noise gets none.
        """
        if self.locked is not None and noise is None:
            raise ValueError("this model is shown locked noise, and got none")
        self._check_length(z_t)
        z_t, t = send(z_t, self.device), send(t, self.device)
        rows = None if rows is None else send(rows, self.device)
        x = self.embed(z_t)
        if noise is not None:
            x = x + noise.to(x.dtype)
        if self.config.time_conditioned:
            sigma = -self.config.schedule.alpha(t).clamp(min=1e-12).log()  # alpha is 0 at t = 1 of some schedules
        else:
            sigma = t.new_zeros(1)
        if self.dtype == torch.float32:
            return self.backbone(x, sigma, rows, group).flatten(0, -2)
        with torch.autocast(x.device.type, self.dtype):
            return self.backbone(x, sigma, rows, group).flatten(0, -2).to(x.dtype)

    def reader(self, rows: int, length: int) -> Reader:
        """Reads rows of at most `length` tokens from left to right, `rows` at a time. Raises ValueError as `Reader`."""
        return Reader(self.backbone, rows, length, self.dtype)

    def features(self, z: Tensor, layer: int) -> Tensor:
        """Hidden states of clean rows z (B, L) behind block `layer`, counted from 1, and no work beyond it: (B, L, D).

        A network with a time input is told t = 0. Raises ValueError when L is longer than the model's, and for a layer
        that the network does not have.
        """
        self._check_length(z)
        if not 1 <= layer <= self.depth:
            raise ValueError(f"layer {layer}: must be 1 to {self.depth}, the blocks of the network")
        x = self.embed(z)
        return self.backbone.states(x, x.new_zeros(1), layer)

    @property
    def depth(self) -> int:
        """How many transformer blocks the network has."""
        return len(self.backbone.shardable_layers())

    def _check_length(self, z: Tensor) -> None:
        if z.shape[1] > self.config.backbone.length:
            raise ValueError(f"length {z.shape[1]} is beyond the model's {self.config.backbone.length}")

    def vocabulary(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Weight (V, D) and bias (V,) of the V columns of the head; the mask of a DiT, its last row, is left out."""
        (weight, bias), V = self.backbone.projection(), self.config.vocab_size
        return weight[:V].to(dtype), bias[:V].to(dtype)

    def logits(self, hidden: Tensor, first: int | None = None) -> Tensor:
        """Raw scores: (n, D) to (n, V), in ascending order of ids; those of forbidden ids are very low.

        first: how many are wanted, where the others only make the product as large as it always is.
        """
        return linear(hidden, *self.vocabulary())[:first]

    def log_x_theta(self, hidden: Tensor, z: Tensor | None = None, tau: float = 1.0) -> Tensor:
        """Log-probs of the clean token after SUBS, float32: (n, D) to (n, V).

        SUBS (MDLM, Section 3.2.3): the mask has probability zero, and a visible token keeps its value. `z` (n,) are
        the input tokens of these rows; None promises that all of them are masked. `tau` divides the raw logits.
        Log-probs of forbidden ids are large and negative, but finite.
        """
        log_p = tempered(self.logits(hidden), tau)
        if z is None or self.config.mask_id is None:
            return log_p
        visible = z != self.mask_id
        log_p = log_p.masked_fill(visible[:, None], -torch.inf)
        log_p[visible, z[visible]] = 0.0
        return log_p

    def head_loss(self, hidden: Tensor, *targets: Target) -> HeadLoss:
        """Losses of rows that are all masked, hidden (n, D), against targets: ids, a teacher, or a loss of your own.

        See `model.head`; all gradients are made in the call, and `total` can be differentiated once.
        """
        return head_loss(hidden, *self.backbone.projection(), self.config.vocab_size, targets, self.shapes)

    def add_lora(self, lora: LoRA, seed: int = 0) -> None:
        """Freeze all weights in place and add trainable factors to the layers (`add_factors`); nothing for rank 0.

        Raises ValueError for a model that has LoRA already, and as `add_factors`.
        """
        if not lora.lora_rank:
            return
        if self.lora is not None:
            raise ValueError(f"--lora-rank {lora.lora_rank}: the model has LoRA already")
        add_factors(lora, self.backbone, seed)
        self.lora = lora

    def add_locked(self, shown: tuple[Shown, ...], prior: Tensor) -> None:
        """Show a model of masked diffusion, in place, the locked noise of its rows; its predictions stay as they are.

        prior: (V,) log-probabilities from which the first drafts are drawn, those of `mcd.model.prior`.
        """
        self.config = replace(self.config, locked=shown)
        wide = torch.promote_types(self.backbone.table().dtype, torch.float32)
        self.locked = self._locked_input().to(self.device, wide)
        self.locked.prior.copy_(prior.clamp(min=-1e6))

    def noise(self, masked: Tensor, draft: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """What a model that is shown its locked noise is given of it: `noise` of `hidden`, (B, L, D).

        masked, draft, u, v: (B, L), see `LockedInput`. What is on the CPU is sent to the network's device.
        """
        assert self.locked is not None
        masked, draft, u, v = (send(x, self.device) for x in (masked, draft, u, v))
        words = None if self.locked.map is None else self.embed(draft)
        return self.locked(masked, draft, words, u, v)

    def _locked_input(self) -> LockedInput:
        return LockedInput(self.config.locked, self.config.vocab_size, self.backbone.table().shape[1])

    def shardable_layers(self) -> list[nn.Module]:
        """The transformer blocks, in order: what FSDP2 shards one by one, before the whole model."""
        return self.backbone.shardable_layers()


def _backbone(config: DiTConfig | AdaptedConfig) -> Backbone:
    return DiT(config) if isinstance(config, DiTConfig) else Adapted(config)
