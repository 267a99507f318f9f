"""Losses of NELBO, SDTT and Duo-DCD the peers' way: log-probabilities of all positions, which are masked afterwards.

Written from what the code of MDLM, SDTT and Duo computes; nothing is copied. Their draws are those of our methods, so
that losses must agree. Where the public code draws more it is spared here, in its favour: Duo's Gaussian noise of
B x L x V numbers, and the race by which SDTT's teacher draws (here an inverse CDF, over all positions too).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mcd.bench.peers import PeersLoss, mcd_loss, subs
from mcd.bench.peers_dit import PeersDiT
from mcd.model.denoiser import DenoiserConfig
from mcd.objective.base import Clock
from mcd.process.categorical import sample_inverse_cdf
from mcd.process.draws import Draws
from mcd.process.uniform import coupled_pair_uniform

PeersMethod = Callable[[PeersDiT, Any, Tensor, Any, DenoiserConfig, Draws], PeersLoss]
"""Of a student, its teacher (None for NELBO), x0 (B, L) on their device, the objective, what the networks are, and the
draws: the loss in round 0."""


def _mcd(
    student: PeersDiT, teacher: Any, x0: Tensor, objective: Any, config: DenoiserConfig, draws: Draws
) -> PeersLoss:
    assert config.mask_id is not None
    return mcd_loss(student, teacher, x0, objective, config.schedule, config.mask_id, Clock(), draws.generator)


def _nelbo(
    student: PeersDiT, teacher: Any, x0: Tensor, objective: Any, config: DenoiserConfig, draws: Draws
) -> PeersLoss:
    """MDLM's: the weighted cross-entropy at all positions; that of a visible token is 0 under SUBS."""
    assert config.mask_id is not None
    t, u = (a.to(x0.device) for a in (draws.t(objective.t_min, 1.0), draws.u()))
    z_t = torch.where(u > config.schedule.alpha(t)[:, None], config.mask_id, x0)
    log_p = subs(student(z_t), z_t, config.mask_id)
    cross_entropy = -torch.gather(log_p, -1, x0[:, :, None]).squeeze(-1)
    total = (config.schedule.nelbo_weight(t)[:, None] * cross_entropy).sum() / x0.numel()
    return PeersLoss(total, torch.zeros_like(total), total)


def _sdtt(
    student: PeersDiT, teacher: Any, x0: Tensor, objective: Any, config: DenoiserConfig, draws: Draws
) -> PeersLoss:
    """SDTT's: in each of k steps the teacher predicts all positions; what it says of those that it reveals is kept."""
    assert config.mask_id is not None
    mask_id, schedule = config.mask_id, config.schedule
    B, L = x0.shape
    t, u, v = (a.to(x0.device) for a in (draws.t(0.0, 1.0), draws.u(), draws.uniform(L)))
    z_t = torch.where(u > schedule.alpha(t)[:, None], mask_id, x0)
    delta = objective.delta(0)
    with torch.no_grad():
        z, masked = z_t, z_t == mask_id
        targets: Tensor | None = None
        for i in range(1, objective.k + 1):
            log_q = subs(teacher(z), z, mask_id)
            kept = masked
            if i < objective.k:
                kept = masked & (u <= schedule.alpha((t - i * delta).clamp(min=0.0))[:, None])
                ids = sample_inverse_cdf(log_q.flatten(0, 1), v.flatten()).view(B, L)
                z = torch.where(kept, ids, z)
                masked = masked & ~kept
            targets = log_q if targets is None else torch.where(kept[:, :, None], log_q, targets)
    assert targets is not None
    log_p = subs(student(z_t), z_t, mask_id)
    kl = (log_p.exp() * (log_p - targets)).sum(-1)
    total = (kl * (z_t == mask_id)).sum() / x0.numel()
    return PeersLoss(total, total, torch.zeros_like(total))


def _duo_dcd(
    student: PeersDiT, teacher: Any, x0: Tensor, objective: Any, config: DenoiserConfig, draws: Draws
) -> PeersLoss:
    """Duo's `kl-bwd`: the divergence of log-softmaxes at all positions."""
    K, delta = config.vocab_size, objective.delta(0)
    t = draws.t(delta, 1.0).to(x0.device)
    s = (t - delta).clamp(min=0.0)
    u, rival = draws.u().to(x0.device), draws.rival(x0.cpu(), K).to(x0.device)
    pair = coupled_pair_uniform(x0, u, rival, t, s, config.schedule, K)
    log_p = student(pair.z_t, _sigma(config, t)).log_softmax(-1)
    with torch.no_grad():
        log_q = teacher(pair.z_s, _sigma(config, s)).log_softmax(-1)
    total = (log_p.exp() * (log_p - log_q)).sum() / x0.numel()
    return PeersLoss(total, total, torch.zeros_like(total))


def _sigma(config: DenoiserConfig, t: Tensor) -> Tensor:
    """What a network with a time input is told at times t (B,)."""
    return -config.schedule.alpha(t).clamp(min=1e-12).log()


PEERS_LOSSES: dict[str, PeersMethod] = {"mcd": _mcd, "nelbo": _nelbo, "sdtt": _sdtt, "duo-dcd": _duo_dcd}
"""By the name of the method."""
