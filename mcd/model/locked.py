"""What a network is shown of the locked noise of its row: a draft of each masked token, and when it is revealed.

Two numbers lock a token: u says when it is revealed, and v which token is drawn. A network that sees them can predict
what a sampler of many steps makes of them, and tokens that are revealed together then agree with each other
(`mcd.objective.ltd`). With a real vocabulary v itself says little to the *other* positions. A draft says it in words:
it is the token that the position would become if it were drawn now, the inverse CDF of the present prediction at v.
"""

import math
from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from mcd.process.categorical import sample_shared_cdf
from mcd.process.transfer import send

Shown = Literal["draft", "word", "when", "value"]
"""draft: the token that the position would become now, as a row of a table. word: the same token, as a linear map of
its embedding. when: u. value: v itself."""
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)
"""Of the waves in which u ("when") and v ("value") are shown, each a sine and a cosine."""


def shows_drafts(shown: Collection[Shown]) -> bool:
    """Whether drafts are shown, in one way or both."""
    return "draft" in shown or "word" in shown


class LockedInput(nn.Module):
    """Vectors that are added to the embedding of each masked token; zero at first, so that no prediction changes.

    table: (V, D), a row for each token that may be a draft; None if it is not shown so. map: (D, D), of a draft's
    embedding; None likewise. waves: (F, D), a row for each wave. prior: (V,) log-probabilities from which the first
    drafts are drawn.
    """

    prior: Tensor

    def __init__(self, shown: tuple[Shown, ...], V: int, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(V, width)) if "draft" in shown else None
        self.map = nn.Parameter(torch.zeros(width, width)) if "word" in shown else None
        self.scalars = tuple(name for name in shown if name in ("when", "value"))
        waves = 2 * len(FREQUENCIES) * len(self.scalars)
        self.waves = nn.Parameter(torch.zeros(waves, width)) if waves else None
        self.register_buffer("prior", torch.zeros(V))

    def first_drafts(self, v: Tensor) -> Tensor:
        """The drafts where nothing is predicted yet: the inverse CDF of the prior at v, (B, L) to ids (B, L)."""
        return sample_shared_cdf(self.prior, send(v, self.prior.device))

    def forward(self, masked: Tensor, draft: Tensor, words: Tensor | None, u: Tensor, v: Tensor) -> Tensor:
        """What to add to the embedded tokens, (B, L, D); zero where `masked` (B, L) is not.

        draft: (B, L) ids; words: their embeddings, (B, L, D); u, v: (B, L) in [0, 1]. Where a token is visible, they
        have no effect.
        """
        shown = masked[..., None]
        added = torch.zeros((), device=masked.device)
        if self.table is not None:
            added = added + nn.functional.embedding(draft, self.table) * shown
        if self.map is not None:
            assert words is not None
            added = added + words.to(self.map.dtype) @ self.map * shown
        if self.waves is not None:
            scalars = [{"when": u, "value": v}[name].double() for name in self.scalars]
            turns = [frequency * scalar % 1.0 for scalar in scalars for frequency in FREQUENCIES]
            angles = (2.0 * math.pi * torch.stack(turns, -1)).to(self.waves.dtype)
            added = added + (torch.cat((angles.sin(), angles.cos()), -1) @ self.waves) * shown
        return added
