"""Distillation and sampling as the public code computes them, to compare time and memory with ours.

Written from what the code of MDLM, SDTT and Duo computes; nothing is copied. Logits of all B x L positions over the
whole vocabulary, for student and teacher; SUBS over B x L x V; the loss from full-size log-probs, masked afterwards;
sampling by a Gumbel race over B x L x V at every step, with the prediction of the whole batch kept while no row
changed. `docs/performance.md` compares this twin with the public code itself.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mcd.bench.peers_dit import PeersDiT
from mcd.objective.base import Clock
from mcd.objective.mcd import MCD
from mcd.process.schedule import Schedule
from mcd.process.timestep import sample_u, stratified_t

NEGATIVE = -1e6
"""The public code's value for minus infinity."""
END_TIME = 1e-5


def subs(logits: Tensor, z: Tensor, mask_id: int) -> Tensor:
    """SUBS over all positions: logits (B, L, K), which are changed, and ids z (B, L) to log-probs (B, L, K)."""
    logits[:, :, mask_id] += NEGATIVE
    log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    visible = z != mask_id
    log_p[visible] = NEGATIVE
    log_p[visible, z[visible]] = 0.0
    return log_p


@dataclass(frozen=True)
class PeersLoss:
    """The loss of one batch and its two parts."""

    total: Tensor
    distillation: Tensor
    reconstruction: Tensor


def mcd_loss(
    student: PeersDiT,
    teacher: PeersDiT,
    x0: Tensor,
    objective: MCD,
    schedule: Schedule,
    mask_id: int,
    clock: Clock,
    generator: torch.Generator,
) -> PeersLoss:
    """The loss of `MCD` (reverse KL, shared u) of x0 (B, L), from the same draws of the generator, the peers' way.

    Duo's `kl-bwd` on (B, L, K) log-probs, SDTT's place of it (masked tokens only) by a factor per position afterwards,
    and the cross-entropy from the same log-probs.
    """
    B, L = x0.shape
    delta, tau = objective.delta(clock.round), objective.tau(clock.round)
    t = stratified_t(B, delta, 1.0, generator).to(x0.device)
    u = sample_u(B, L, generator).to(x0.device)
    masked_t = u > schedule.alpha(t)[:, None]
    masked_s = u > schedule.alpha((t - delta).clamp(min=0.0))[:, None]
    z_t, z_s = torch.where(masked_t, mask_id, x0), torch.where(masked_s, mask_id, x0)

    log_p = subs(student(z_t), z_t, mask_id)
    with torch.no_grad():
        log_q = subs(teacher(z_s) / tau, z_s, mask_id)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    ce = -torch.gather(log_p, -1, x0[:, :, None]).squeeze(-1)
    distillation = (kl * masked_s).sum() / (B * L)
    reconstruction = objective.ce_weight * (ce * (masked_t & ~masked_s)).sum() / (B * L)
    return PeersLoss(distillation + reconstruction, distillation, reconstruction)


class PeersEMA:
    """Shadow weights, one parameter after another, with a temporary for each product, as MDLM's and SDTT's code."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.decay, self.updates = decay, 0
        self.shadow = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        """shadow -= (1 - decay_n) (shadow - weights)."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for shadow, p in zip(self.shadow, parameters, strict=True):
            shadow.sub_((1.0 - keep) * (shadow - p))


@dataclass(frozen=True)
class PeersStep:
    """One step of the sampler: ids z (B, L) after it, its seconds, and whether it called the network."""

    z: Tensor
    seconds: float
    called: bool


@torch.no_grad()
def sample_cached(
    network: PeersDiT,
    num: int,
    length: int,
    steps: int,
    mask_id: int,
    generator: torch.Generator,
    precision: torch.dtype = torch.float64,
) -> Iterator[PeersStep]:
    """MDLM's `ddpm_cache` for `num` rows: `steps` states, then one more after noise removal (argmax of another call).

    generator: on the device of the network. With float64 log-probs are cast before exp, as Duo's code does on request;
    the race is then float64 too. Every step ends with a question to the device, as in the public code.
    """
    device = network.embedding.device
    z = torch.full((num, length), mask_id, device=device)
    times = torch.linspace(1.0, END_TIME, steps + 1)
    dt = (1.0 - END_TIME) / steps
    p_x0: Tensor | None = None
    for t in times[:-1]:
        started, called = time.perf_counter(), p_x0 is None
        if p_x0 is None:
            p_x0 = subs(network(z), z, mask_id).to(precision).exp()
        move_t, move_s = (torch.full((num, 1, 1), float(chance), device=device) for chance in (t, t - dt))
        q_s = p_x0 * (move_t - move_s)
        q_s[:, :, mask_id] = move_s[:, :, 0].to(precision)
        visible = (z != mask_id).to(z.dtype)
        changed = visible * z + (1 - visible) * _race(q_s, generator)
        if not torch.allclose(changed, z):
            p_x0 = None
        z = changed
        yield PeersStep(z, time.perf_counter() - started, called)
    started = time.perf_counter()
    z = subs(network(z), z, mask_id).argmax(-1)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    yield PeersStep(z, time.perf_counter() - started, True)


def _race(q: Tensor, generator: torch.Generator) -> Tensor:
    """A draw from the masses q (B, L, K) of each position, (B, L)."""
    noise = 1e-10 - (torch.rand(q.shape, dtype=q.dtype, generator=generator, device=q.device) + 1e-10).log()
    return (q / noise).argmax(-1)
