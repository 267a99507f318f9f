"""The exact denoiser of a synthetic language: its Bayes posterior in place of a network."""

import torch
from torch import Tensor, nn

from mcd.data.languages.known import LANGUAGES, Language
from mcd.errors import ModelError
from mcd.model.backbone import Backbone
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.process.schedule import LogLinear, Schedule

EXACT = "exact:"
"""`exact:hmm` names the exact denoiser of a language, where a model's name is expected."""


def language_of_exact(name: str) -> Language | None:
    """The language whose exact denoiser `name` names; None for the name of a model.

    Raises ModelError for a language that there is not.
    """
    if not name.startswith(EXACT):
        return None
    language = name.removeprefix(EXACT)
    if language not in LANGUAGES:
        raise ModelError(f"{name}: no such language; there are {', '.join(LANGUAGES)}")
    return LANGUAGES[language]()


def exact_denoiser(language: Language, length: int, schedule: Schedule = LogLinear()) -> Denoiser:  # noqa: B008
    """The perfect teacher of a language: a `Denoiser` whose network is the Bayes posterior.

    What a sampler makes of it is the floor of that sampler at that number of steps: every fault left is that of drawing
    tokens in parallel, none of learning. It has no weights, takes no notice of time, and longer calls cost less per
    row: give samplers a large `rows_per_call`. schedule: when samplers and methods reveal tokens; it changes no
    prediction.
    """
    V = language.vocab_size
    config = DiTConfig(V + 1, hidden=2, layers=1, heads=1, length=length, cond_dim=1)  # rows and length count
    return Denoiser(DenoiserConfig(config, mask_id=V, schedule=schedule), Posterior(language))


class Posterior(Backbone):
    """log p(x0_i | visible tokens) of a language instead of a network: ids enter one-hot, logits are the features.

    Features (V,) float32 have no gradient, and `group` changes nothing, since no number depends on a shape. The
    posterior is computed on the CPU in float64, wherever the module is.
    """

    _table: Tensor
    _identity: Tensor  # not a part of the table: oneDNN is slower by orders of magnitude with a strided factor

    def __init__(self, language: Language):
        super().__init__()
        self.language = language
        self.register_buffer("_table", torch.eye(language.vocab_size + 1), persistent=False)
        self.register_buffer("_identity", torch.eye(language.vocab_size), persistent=False)

    def table(self) -> Tensor:
        return self._table

    def forward(self, x: Tensor, sigma: Tensor, rows: Tensor | None = None, group: int | None = None) -> Tensor:
        """As of any backbone. Raises ValueError for soft tokens and for noise, which have no posterior here."""
        ids = x.argmax(-1)
        if not x.equal(self._table[ids]):
            raise ValueError("the exact denoiser takes token ids, no soft tokens and no noise")
        posterior = self.language.posterior(ids.cpu(), self.language.vocab_size).flatten(0, 1)
        chosen = posterior if rows is None else posterior[rows.cpu()]
        return chosen.clamp(min=1e-30).log().float().to(x.device)  # finite at visible tokens, as divergences ask

    def projection(self) -> tuple[Tensor, Tensor]:
        """The identity."""
        return self._identity, torch.zeros(len(self._identity), device=self._identity.device)

    def states(self, x: Tensor, sigma: Tensor, layer: int) -> Tensor:
        """Raises ValueError: there is no block."""
        raise ValueError("the exact denoiser has no hidden states")

    def shardable_layers(self) -> list[nn.Module]:
        return []
