"""Duo: the bound of uniform-state diffusion, with the Gaussian-guided curriculum, which trains uniform teachers.

Source: Duo (arXiv 2506.10892); the curriculum is its first half, distillation (`duo_dcd`) its second.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.model.targets import RowsTarget
from mcd.objective.base import Clock, Loss, Objective
from mcd.options import Decay, Positive, Share
from mcd.process.draws import Draws
from mcd.process.duality import latent_of_noise, vp_of_snr_root
from mcd.process.schedule import Schedule
from mcd.process.transfer import flat_rows, send
from mcd.process.uniform import corrupt, nelbo_in_parts, tabled_snr_root


@dataclass(frozen=True)
class Duo(Objective):
    """Rao-Blackwellised NELBO at stratified times (`process.uniform.nelbo_tokens`), a mean over all B L tokens.

    During the first `curriculum` of training the network is shown soft tokens softmax(w_t / tau) of the Gaussian latent
    w_t = a onehot(x0) + s eps, instead of z_t = argmax w_t, and t keeps to the window in which alpha_t is between
    alpha_min and alpha_max. The loss remains that of z_t at alpha_t: a / s is the root of the signal-to-noise ratio at
    which Duo's operator gives alpha_t for the model's own K. tau goes from tau_start to tau_end, geometrically.
    The window's defaults are Duo's, gamma in [-3.55, -1.85] at K = 50257, written in alpha. Within it t is uniform in
    the model's own schedule; in the public code it is uniform in gamma.

    `terms` holds the bound without the cap of `max_weight`, and the plain cross-entropy of corrupted tokens. While the
    curriculum lasts both are over its window and with soft tokens, and no bound: compare runs by validation NELBO.
    """

    name: ClassVar[str] = "duo"
    distils: ClassVar[bool] = False
    process: ClassVar[Process] = "uniform"

    t_min: Decay = 1e-3
    """Smallest time; the part of the bound below it is left out."""
    max_weight: Positive = math.inf
    """Largest weight -alpha_dot / (1 - alpha) of a time, about 1 / t; larger weights are reduced to it."""
    curriculum: Share = 0.0
    """First share of the run, in which tokens are soft; 0 for none. Duo uses one half."""
    tau_start: Positive = 1e-3
    """Temperature of the soft tokens when the run begins."""
    tau_end: Positive = 1e-3
    """Temperature of the soft tokens when the curriculum ends."""
    alpha_min: Annotated[float, Gt(0), Lt(1)] = 0.049
    """Smallest alpha_t of the curriculum."""
    alpha_max: Annotated[float, Gt(0), Lt(1)] = 0.945
    """Largest alpha_t of the curriculum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha_min >= self.alpha_max:
            raise ValueError(
                f"--alpha-min {self.alpha_min} --alpha-max {self.alpha_max}: the first must be below the second"
            )

    def at_progress(self, progress: float) -> float | None:
        """tau, the temperature of the soft tokens; None when the curriculum is over."""
        if progress >= self.curriculum:
            return None
        return self.tau_start * (self.tau_end / self.tau_start) ** (progress / self.curriculum)

    def idle_options(self, rounds: int) -> dict[str, str]:
        soft = ("--tau-start", "--tau-end", "--alpha-min", "--alpha-max")
        return dict.fromkeys(soft, "--curriculum 0 has no soft tokens") if self.curriculum == 0.0 else {}

    def window(self, schedule: Schedule) -> tuple[float, float]:
        """The times between which the curriculum draws."""
        alphas = torch.tensor([self.alpha_max, self.alpha_min], dtype=torch.float64)
        low, high = schedule.t_of_alpha(alphas).clamp(0.0, 1.0).tolist()
        return low, high

    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        B, L = x0.shape
        K, schedule, tau = student.config.vocab_size, student.config.schedule, self.at_progress(clock.progress)
        low, high = (self.t_min, 1.0) if tau is None else self.window(schedule)
        t = draws.t(low, high)
        alpha_t, alpha_dot_t = schedule.alpha(t.double())[:, None], schedule.alpha_dot(t.double())[:, None]
        if tau is None:
            rival = draws.rival(x0, K)
            shown = z_t = corrupt(x0, draws.u(), rival, alpha_t, K)
        else:
            levels = (send(level, student.device) for level in vp_of_snr_root(tabled_snr_root(alpha_t, K)))
            w_t = latent_of_noise(send(x0, student.device), send(draws.normal(K), student.device), *levels)
            shown, z_t = torch.softmax(w_t / tau, -1), w_t.argmax(-1)
            if draws.diffused is not None:
                diffused, clean = send(draws.diffused, shown.device), send(x0, shown.device)
                shown = shown.where(diffused[..., None], _one_hot(clean, shown))
                z_t = z_t.where(diffused, clean)
        factor = (self.max_weight * (1.0 - alpha_t) / -alpha_dot_t).clamp(max=1.0)
        states = [send(a, student.device) for a in (z_t, x0, alpha_t, alpha_dot_t)]
        terms_of, x0_flat = nelbo_in_parts(*states), states[1].flatten()
        cross_entropy = torch.empty(B * L, device=student.device)

        def bound_of(log_x_theta: Tensor, rows: slice) -> Tensor:
            cross_entropy[rows] = -log_x_theta.detach().gather(-1, x0_flat[rows, None])[:, 0].float()
            return terms_of(log_x_theta, rows)

        learnt = torch.ones_like(x0, dtype=torch.bool) if draws.diffused is None else draws.diffused
        weight = factor * learnt / draws.divisor
        total, (bound,) = student.head_loss(student.hidden(shown, t), RowsTarget(bound_of, B * L, weight.flatten()))
        terms = {"nelbo": bound[send(flat_rows(learnt), bound.device)].mean().float()}
        if tau is None:
            corrupted = z_t != x0
            of_corrupted = send(flat_rows(corrupted), bound.device)
            terms["cross_entropy"] = cross_entropy[of_corrupted].sum() / max(1, len(of_corrupted))
        else:  # which tokens are corrupted is known on the device only, and nobody waits for it
            corrupted = states[0] != states[1]
            summed = (cross_entropy * corrupted.flatten()).sum()
            terms["cross_entropy"] = summed / corrupted.sum().clamp(min=1)
        counts = {"tokens_corrupted": corrupted.sum(), "tokens": torch.tensor(B * L)}
        return Loss(total, terms, counts)


def _one_hot(ids: Tensor, like: Tensor) -> Tensor:
    """Certain tokens (B, L, K) at ids (B, L), of the dtype of `like` (B, L, K)."""
    return torch.zeros_like(like).scatter_(-1, ids[..., None], 1.0)
