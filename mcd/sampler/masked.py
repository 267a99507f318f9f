"""What samplers of masked diffusion share: how a masked token is drawn from its prediction, guided if that is asked."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.model.prior import prior
from mcd.options import Guidance
from mcd.process.categorical import Guide, sample_inverse_cdf
from mcd.process.transfer import flat_rows, send
from mcd.sampler.base import Sampler, parts


def of_likeliest(said: dict[str, Any]) -> dict[str, Any]:
    """The protocol of a sampler that takes the likeliest token instead of a draw, whatever its options say."""
    return {name: value for name, value in said.items() if name != "guidance"} | {"temperature": 0.0, "top_p": 1.0}


@dataclass(frozen=True)
class MaskedSampler(Sampler):
    """A sampler of models that have a mask.

    With `guidance` w > 0 a token is drawn from

        p_w(x | z) ~ p(x | z) (p(x | z) / p(x | masks))^w        on the nucleus of p(. | z)

    where p(x | masks) is the model's prediction of a row of masks (`mcd.model.prior`). By Bayes' rule p(x | z) is this
    prior times how well x explains what is visible, and the power 1 + w is taken of the second factor alone: the
    evidence is sharpened, and the prior is not. A temperature sharpens both, and so draws frequent words too often. It
    is classifier-free guidance (arXiv 2207.12598) whose unconditional model is the model itself without any visible
    token, as in arXiv 2410.18514 for prompts. Since that is one constant for all rows, it costs no network call.
    What is drawn is guided, and nothing else: scores of confidence and drafts are those of the prediction itself.
    """

    guidance: Guidance = 0.0
    """How far the evidence of the visible tokens is sharpened, beyond how frequent a token is anyway. 0 does nothing;
    0.5 with --top-p 0.9 makes better text at equal variety in few steps, for no further network calls."""

    def protocol(self) -> dict[str, Any]:
        """As of `Sampler.protocol`; no guidance goes without saying, since older stamps know none."""
        said = super().protocol()
        return said if said["guidance"] else {name: value for name, value in said.items() if name != "guidance"}

    def guide(self, denoiser: Denoiser) -> Guide | None:
        """The prior and the weight of `guidance`; None for none."""
        return Guide(prior(denoiser), self.guidance) if self.guidance else None

    def draw(self, denoiser: Denoiser, hidden: Tensor, v: Tensor) -> Tensor:
        """Ids (m,) at features (m, D), by inverse CDF at v (m,) in float64, with temperature, top_p and guidance."""
        drawn, few, guide = [], denoiser.shapes.few_rows, self.guide(denoiser)
        for part, v_part in zip(parts(hidden, few), v.split(few), strict=True):
            logits = denoiser.logits(part, len(v_part))
            drawn.append(sample_inverse_cdf(logits, v_part, self.temperature, self.top_p, guide))
        return torch.cat(drawn)

    def reveal(self, denoiser: Denoiser, z: Tensor, revealed: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """z (N, L) with the tokens `revealed` (N, L) drawn at v (N, L) from the predictions at t; z is not changed.

        z is on the denoiser's device, `revealed` and v on the CPU. Rows that reveal nothing do not enter the network.
        The second value is the calls made per row, 0 or 1, (N,).
        """
        calls = revealed.any(dim=1)
        active = flat_rows(calls)
        if not len(active):
            return z.clone(), calls.long()
        hidden = []
        for chunk in active.split(self.rows_for(denoiser, z.shape[1])):
            of_chunk = z[send(chunk, z.device)]
            hidden.append(self.hidden(denoiser, of_chunk, torch.full((len(chunk),), t), flat_rows(revealed[chunk])))
        where = flat_rows(revealed)
        ids = self.draw(denoiser, torch.cat(hidden), send(v.flatten()[where], z.device))
        return z.flatten().index_copy(0, send(where, z.device), ids).view_as(z), calls.long()
