"""The options of drawing text that `mcd sample` and `mcd eval` share."""

import hashlib
from dataclasses import dataclass, fields
from typing import Literal

from mcd.app.arguments import check_threads, choose
from mcd.app.errors import UsageError
from mcd.model.denoiser import Denoiser
from mcd.model.pretrained import WEIGHTS
from mcd.sampler import SAMPLERS, Sampler

MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class SamplingOptions:
    """How text is drawn."""

    length: int | None = None
    """Tokens a row; the longest the model makes by default."""
    sampler: str = "ancestral"
    """ancestral, or gumbel-race (draws as the public MDLM code does)."""
    order: Literal["iid", "stratified"] = "iid"
    """ancestral: when tokens are revealed; stratified reveals equal counts a step."""
    precision: Literal["fp64", "fp32"] = "fp64"
    """gumbel-race: of its uniforms; fp32 shows what low precision does."""
    temperature: float = 1.0
    """Divides the log-probabilities."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with so much mass."""
    weights: Literal["ema", "raw"] = "ema"
    """Weight set of a run folder."""
    threads: int | None = None
    """CPU threads; all cores by default. Bits depend on it."""

    def sampler_of(self, steps: int) -> Sampler:
        """The sampler asked for. Raises UsageError when it is unknown, has no such option, or refuses a value."""
        check_threads(self.threads)
        if steps > MOST_STEPS:
            raise UsageError(f"--steps {steps}: must be at most {MOST_STEPS}")
        kind = choose(self.sampler, SAMPLERS, "sampler")
        known = {field.name for field in fields(kind)}
        for option in ("order", "precision"):
            if option not in known and getattr(self, option) != getattr(SamplingOptions, option):
                raise UsageError(f"--{option} {getattr(self, option)}: sampler {kind.name} has no such option")
        options = {name: getattr(self, name) for name in known if hasattr(self, name)}
        try:
            return kind(steps=steps, **options)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def length_for(self, denoiser: Denoiser) -> int:
        """The length asked for. Raises UsageError when it is beyond the model's."""
        longest = denoiser.config.backbone.length
        length = longest if self.length is None else self.length
        if not 1 <= length <= longest:
            raise UsageError(f"--length {length}: the model makes 1 to {longest} tokens")
        return length


def weights_digest(denoiser: Denoiser, weights: Literal["ema", "raw"]) -> str:
    """Twelve hex digits that tell the weights of a model from any others."""
    assert denoiser.folder is not None
    with (denoiser.folder / WEIGHTS[weights]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
