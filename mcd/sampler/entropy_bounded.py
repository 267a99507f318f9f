"""Entropy-bounded unmasking: as many tokens per step as may be drawn together at a bounded price."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mcd.options import NotNegative
from mcd.sampler.base import Sampler
from mcd.sampler.confidence import Confidence, score_of_log_p, share_of_step, surest


@dataclass(frozen=True)
class EntropyBounded(Confidence):
    """The EB-Sampler (Ben-Hamu et al. 2025, arXiv 2505.24857): a budget of entropy per network call.

    Drawing the tokens U of one call independently costs, for a perfect model, the KL divergence from their joint law
    to the product of their marginals, which is their total correlation. It is at most what the entropies leave:

        sum_{l in U} H(x_l | z) - H(x_U | z)  <=  sum_{l in U} H(x_l | z) - max_{l in U} H(x_l | z)

    since a joint entropy is at least that of each part. Of the current block's masked tokens, surest first by `score`,
    a step reveals the most for which the right side is at most `gamma` nats; it grows with every token, so they are the
    longest beginning of the order. Whatever the calls, a row is then off by at most gamma times their number. `gamma` 0
    reveals one token in a call, and with it only tokens that are certain. Entropies are those of the predictions at
    temperature 1.

    The calls are fewer than `steps` where the model is sure. `steps` is their upper bound: a step reveals at least an
    equal share of what is left, as `confidence` does, also beyond the budget. With as many steps as masked tokens a
    share is one token, which is the paper's sampler; its code draws greedily (`greedy`) and in one block.
    """

    name: ClassVar[str] = "entropy-bounded"
    facts: ClassVar = {**Sampler.facts, "grid": "adaptive"}

    score: Literal["entropy", "top", "margin"] = "entropy"
    gamma: NotNegative = 0.1
    """How many nats a network call may lose by drawing tokens independently: the sum of their entropies without the
    largest. 0 reveals one token in a call; more is faster and less careful. It has its full effect only if --steps is
    the number of masked tokens: with fewer, a step reveals at least an equal share of what is left."""

    def _see(self, log_p: Tensor) -> Tensor:
        entropy = -score_of_log_p(log_p, "entropy")
        return torch.stack((score_of_log_p(log_p, self.score), entropy), dim=1)

    def _choose(self, seen: Tensor, left: int) -> Tensor:
        order = surest(seen[:, 0])
        entropy = seen[order, 1]
        lost = entropy.cumsum(0) - entropy.cummax(0).values
        affordable = int((lost <= self.gamma).sum())
        return order[: max(affordable, share_of_step(len(seen), left))]
