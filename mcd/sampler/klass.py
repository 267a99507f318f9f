"""KLASS: tokens of which the model is sure, and whose prediction has come to rest."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from mcd.model.denoiser import Denoiser
from mcd.options import Natural, Share
from mcd.sampler.base import Sampler, parts
from mcd.sampler.confidence import Confidence, Watch, score_of_log_p, share_of_step, surest


@dataclass(frozen=True)
class KLASS(Confidence):
    """KL-adaptive stability sampling (Kim et al. 2025, arXiv 2511.05664).

    With p_k the prediction of a token at the k-th network call, the token is ready if

        D_KL(p_{k-j} || p_{k-j-1}) < kl_threshold  for j = 0, ..., history - 1,  and  score(p_k) > threshold.

    A step reveals all ready tokens of the current block; where there are none, the surest, an equal share of what is
    left. The history of a token begins with the first call for its block, so a block begins with `history` calls in
    which nothing is ready. `history` 0 asks for confidence alone.

    The calls are fewer than `steps` where the model is sure. `steps` is their upper bound: a step reveals at least an
    equal share, as `confidence` does, the ready tokens first. With as many steps as masked tokens a share is one token,
    as in the paper. Its code takes the likeliest ids (`greedy`), has blocks of 64, and adds 1e-12 to probabilities; the
    histories of its blocks also count the calls for the blocks before.

    The last features of every token are kept, not its V probabilities: 4 D bytes a token of the rows that are drawn
    together, and one more projection per call.
    """

    name: ClassVar[str] = "klass"
    facts: ClassVar = {**Sampler.facts, "grid": "adaptive"}

    score: Literal["top", "margin"] = "top"
    threshold: Share = 0.9
    kl_threshold: Annotated[float, Gt(0)] = 0.01
    """A prediction is at rest while its KL divergence from that of the call before is below this, in nats."""
    history: Natural = 2
    """For how many calls a prediction must have been at rest, one after the other. 0: confidence is enough."""

    def _watch(self, denoiser: Denoiser, tokens: int) -> Watch:
        features: Tensor | None = None
        rest = torch.full((tokens,), -1, device=denoiser.device)  # calls at rest so far; -1: no prediction yet

        def watch(hidden: Tensor, places: Tensor) -> Tensor:
            nonlocal features
            if features is None:
                features = hidden.new_zeros(tokens, hidden.shape[1])
            score, kl = self._score_and_kl(denoiser, hidden, features[places])
            before = rest[places]
            now = torch.where((before >= 0) & (kl < self.kl_threshold), before + 1, 0)
            features[places], rest[places] = hidden, now
            ready = (score > self.threshold) & (now >= self.history)
            return torch.stack((score, ready.double()), dim=1)

        return watch

    def _score_and_kl(self, denoiser: Denoiser, hidden: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Of features now and at the call before, (m, D) each: the score now, and KL(now || before), float64 (m,)."""
        many, found = denoiser.shapes.many_rows, []
        for part, part_before in zip(parts(hidden, many), parts(before, many), strict=True):
            log_p, log_q = denoiser.log_x_theta(part), denoiser.log_x_theta(part_before)
            found.append(torch.stack((score_of_log_p(log_p, self.score), divergence(log_p, log_q))))
        score, kl = torch.cat(found, dim=1)[:, : len(hidden)]
        return score, kl

    def _choose(self, seen: Tensor, left: int) -> Tensor:
        score, ready = seen.T
        order = surest(score + 2.0 * ready)  # scores are at most 1, so the ready ones come first
        return order[: max(int(ready.sum()), share_of_step(len(seen), left))]


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of predictions (m, V), float64 (m,), in nats; an id with p = 0 counts nothing, whatever q says."""
    log_p, log_q = log_p.double(), log_q.double()
    p = log_p.exp()
    return torch.where(p > 0.0, p * (log_p - log_q), 0.0).sum(-1)
