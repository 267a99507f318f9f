"""Confidence-adaptive decoding: as many tokens per step as the model is sure of."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mcd.options import Count, Natural
from mcd.sampler.base import Sampler
from mcd.sampler.confidence import Confidence, surest


@dataclass(frozen=True)
class CAD(Confidence):
    """The decoding of CD4LM (arXiv 2601.02236): blocks from left to right, in each the tokens above a threshold.

    A step reveals the k surest tokens of the current block, where k is the number that reach the threshold, but at
    least 1 and at most `cap`. The last step that a block may take (its share of `steps`) reveals all that is left of
    it; with as many steps as masked tokens, as in the paper, that is one at most. The calls are fewer than `steps` when
    the model is sure. The paper decodes greedily: `--greedy`. Its rule that the end of a text is not generated early is
    left out: it belongs to answers of instruction models.
    """

    name: ClassVar[str] = "cad"
    facts: ClassVar = {**Sampler.facts, "grid": "adaptive"}

    block: Natural = 32
    """Masked tokens per block; blocks are filled from left to right. 0: the whole row is one block."""
    threshold: float = 0.95
    """How sure the model must be of a token, by its --score, to reveal it together with others. The paper has 0.95; a
    lower value reveals more tokens in a step, which is faster and less careful. It has an effect only if --steps is
    near the number of masked tokens: with fewer, the steps reveal more than the model is sure of. For the scores top
    and margin the value is in [0, 1]; for entropy it is minus the entropy in nats, at most 0, such as -0.2."""
    cap: Count = 4
    """Most tokens that a step reveals, except the last of a block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score == "random":
            raise ValueError("--score random: has no threshold; known are top, margin, entropy")
        if not (self.threshold <= 0.0 if self.score == "entropy" else 0.0 <= self.threshold <= 1.0):
            allowed = "at most 0 for --score entropy" if self.score == "entropy" else "in [0, 1]"
            raise ValueError(f"--threshold {self.threshold}: must be {allowed}")

    def _choose(self, seen: Tensor, left: int) -> Tensor:
        score = seen[:, 0]
        count = len(score) if left == 1 else min(max(int((score >= self.threshold).sum()), 1), self.cap)
        return surest(score)[:count]
