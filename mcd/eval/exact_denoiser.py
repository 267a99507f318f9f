"""The exact denoiser of a synthetic language: its Bayes posterior in place of a network."""

import torch
from torch import Tensor, nn

from mcd.data.languages.known import Language
from mcd.model.backbone import Backbone
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig


def exact_denoiser(language: Language, length: int) -> Denoiser:
    """The perfect teacher of a language: a `Denoiser` whose network is the Bayes posterior.

    What a sampler makes of it is the floor of that sampler at that number of steps: every fault left is that of drawing
    tokens in parallel, none of learning. It has no weights, takes no notice of time, and longer calls cost less per
    row: give samplers a large `rows_per_call`.
    """
    V = language.vocab_size
    config = DiTConfig(V + 1, hidden=2, layers=1, heads=1, length=length, cond_dim=1)  # rows and length count
    return Denoiser(DenoiserConfig(config, mask_id=V), Posterior(language))


class Posterior(Backbone):
    """log p(x0_i | visible tokens) of a language instead of a network: ids enter one-hot, logits are the features.

    Features (V,) float32 have no gradient, and `group` changes nothing, since no number depends on a shape.
    """

    def __init__(self, language: Language):
        super().__init__()
        self.language = language
        self._table = torch.eye(language.vocab_size + 1, device=language.start.device)

    def table(self) -> Tensor:
        return self._table

    def forward(self, x: Tensor, sigma: Tensor, rows: Tensor | None = None, group: int | None = None) -> Tensor:
        """As of any backbone. Raises ValueError for soft tokens and for noise, which have no posterior here."""
        ids = x.argmax(-1)
        if not x.equal(self._table[ids]):
            raise ValueError("the exact denoiser takes token ids, no soft tokens and no noise")
        posterior = self.language.posterior(ids, self.language.vocab_size).flatten(0, 1)
        chosen = posterior if rows is None else posterior[rows]
        return chosen.clamp(min=1e-30).log().float()  # finite at visible tokens too, as divergences ask

    def projection(self) -> tuple[Tensor, Tensor]:
        """The identity."""
        return self._table[:-1, :-1], torch.zeros(len(self._table) - 1, device=self._table.device)

    def states(self, x: Tensor, sigma: Tensor, layer: int) -> Tensor:
        """Raises ValueError: there is no block."""
        raise ValueError("the exact denoiser has no hidden states")

    def shardable_layers(self) -> list[nn.Module]:
        return []
