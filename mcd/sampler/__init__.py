"""How to generate: one file is one sampler, and SAMPLERS lists them."""

from mcd.sampler.ancestral import Ancestral
from mcd.sampler.base import Sampler, Step
from mcd.sampler.cad import CAD
from mcd.sampler.causal import Causal
from mcd.sampler.confidence import Confidence
from mcd.sampler.entropy_bounded import EntropyBounded
from mcd.sampler.gumbel_race import GumbelRace
from mcd.sampler.klass import KLASS
from mcd.sampler.locked import Locked
from mcd.sampler.remdm import ReMDM
from mcd.sampler.rows import sample, states
from mcd.sampler.uniform import Uniform

__all__ = ["DEFAULT_SAMPLER", "SAMPLERS", "Sampler", "Step", "sample", "states"]

SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind
    for kind in (Ancestral, CAD, Causal, Confidence, EntropyBounded, GumbelRace, KLASS, Locked, ReMDM, Uniform)
}

DEFAULT_SAMPLER = {"masked": "ancestral", "locked": "locked", "uniform": "uniform", "autoregressive": "causal"}
"""The sampler of each kind of model when none is named."""
