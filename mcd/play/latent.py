"""The duality at work: the tokens of a text, their Gaussian noise, and what both projections show at a noise level."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mcd.api.model import Model
from mcd.data.token_texts import token_texts
from mcd.errors import DataError
from mcd.process.duality import (
    calibrated_snr_root,
    cdf_noise_margin,
    latent_of_noise,
    project,
    u_of_noise,
    vp_of_snr_root,
)
from mcd.process.masked import mask
from mcd.process.schedule import Schedule

MOST = 20
"""Tokens of a text that are drawn."""
RIVALS = 24
"""Rivals of a token that are drawn: the largest."""
_FAR = 100.0
"""A signal that is drawn in place of stronger ones: no noise reaches it."""


@dataclass(frozen=True)
class Locked:
    """A text and its noise, which settle the whole trajectory.

    words: each token's share of the text; x0 (L,): the ids; eps (L, K): the noise, of K = all ids and the mask;
    u (L,): F_Y of each token's noise margin (`u_of_noise`).
    """

    words: list[str]
    x0: Tensor
    eps: Tensor
    u: Tensor
    mask_id: int
    schedule: Schedule

    @property
    def K(self) -> int:
        """Coordinates of the latent, the mask's included."""
        return self.eps.shape[1]


@dataclass(frozen=True)
class Level:
    """A level of noise: time, probability that a token is visible, and the root of the signal-to-noise ratio."""

    t: float
    alpha: float
    root: float


@dataclass(frozen=True)
class Seen:
    """What is seen of a locked text at a level, per token: its own coordinate (L,) and the largest rivals (L, R), the
    very largest first, in units of the noise; and whether the projection of the latent (`project`) and the scalar rule
    u <= alpha (`mask`) show it, (L,). In these units the rivals stand still, and the own coordinate falls."""

    level: Level
    own: Tensor
    rivals: Tensor
    projected: Tensor
    unmasked: Tensor


def locked(model: Model, text: str, seed: int) -> Locked:
    """A text in the tokens of a model, with noise of a seed. Raises DataError for a text without tokens, or with more
    than `MOST`."""
    ids: list[int] = model.tokenizer.encode(text, add_special_tokens=False).ids
    if not 1 <= len(ids) <= MOST:
        raise DataError(f"the text has {len(ids)} tokens; give one of 1 to {MOST}")
    config = model.denoiser.config
    mask_id = config.vocab_size if config.mask_id is None else config.mask_id
    K, x0 = max(config.vocab_size, mask_id + 1), torch.tensor(ids)
    if bool((x0 == mask_id).any()):
        raise DataError("the text holds the model's mask, which hides nothing; leave it out")
    eps = torch.randn(len(ids), K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    words = [share or "" for share in token_texts(model.tokenizer, ids, mask_id, skip_special_tokens=False)]
    return Locked(words, x0, eps, u_of_noise(eps, x0), mask_id, config.schedule)


def level_of_time(one: Locked, t: float) -> Level:
    """The calibrated level of a time (`calibrated_snr_root`)."""
    alpha = one.schedule.alpha(torch.tensor(t, dtype=torch.float64))
    return Level(t, alpha.item(), calibrated_snr_root(alpha, one.K).item())


def level_of_root(one: Locked, root: float) -> Level:
    """The level at which the root of the signal-to-noise ratio is `root`; at times beyond [0, 1] it is the nearest."""
    alpha = cdf_noise_margin(torch.tensor(root, dtype=torch.float64), one.K)
    return Level(one.schedule.t_of_alpha(alpha).clamp(0.0, 1.0).item(), alpha.item(), root)


def see(one: Locked, level: Level) -> Seen:
    """The latent of a locked text at a level, and both projections of it."""
    alpha_tilde, sigma_tilde = vp_of_snr_root(torch.tensor(min(level.root, _FAR), dtype=torch.float64))
    w_t = latent_of_noise(one.x0, one.eps, alpha_tilde, sigma_tilde)
    own = w_t.gather(-1, one.x0[:, None])[:, 0] / sigma_tilde
    others = w_t.scatter(-1, one.x0[:, None], -torch.inf) / sigma_tilde
    alpha = torch.tensor(level.alpha, dtype=torch.float64)
    return Seen(
        level,
        own,
        others.topk(min(RIVALS, one.K - 1)).values,
        project(w_t, one.x0, one.mask_id) == one.x0,
        mask(one.x0, one.u, alpha, one.mask_id) == one.x0,
    )
