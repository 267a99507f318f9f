"""Schedules: alpha_t, the probability that a token is visible at time t (the paper's gamma_t).

t = 0 is clean text (alpha = 1), t = 1 is noise (alpha near 0). Every schedule gives its derivative and its inverse,
so nobody differentiates or searches by hand.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


class Schedule(ABC):
    """alpha: [0, 1] -> [0, 1], strictly decreasing. All methods are elementwise on tensors of any shape."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """alpha_t = P(token visible at t)."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha_t / dt, negative."""

    @abstractmethod
    def t_of_alpha(self, alpha: Tensor) -> Tensor:
        """The time at which alpha_t equals `alpha`: the inverse of `alpha` on its range."""

    def nelbo_weight(self, t: Tensor) -> Tensor:
        """-alpha_dot_t / (1 - alpha_t), the weight of the cross-entropy at t in the continuous-time bound.

        Source: MDLM (arXiv 2406.07524), Eq. 10. Exactly 1/t for `LogLinear` and `Linear`.
        """
        return -self.alpha_dot(t) / (1.0 - self.alpha(t))


@dataclass(frozen=True)
class LogLinear(Schedule):
    """alpha_t = 1 - (1 - eps) t, that is -log(alpha) log-linear in t (MDLM, SEDD).

    At t = 1 a share `eps` of the tokens is still visible.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        if type(self.eps) not in (int, float) or not 0 <= self.eps < 1:
            raise ValueError(f"eps {self.eps!r} of the schedule: must be a number in [0, 1)")

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - (1.0 - self.eps) * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -(1.0 - self.eps))

    def t_of_alpha(self, alpha: Tensor) -> Tensor:
        return (1.0 - alpha) / (1.0 - self.eps)

    def nelbo_weight(self, t: Tensor) -> Tensor:
        return 1.0 / t


@dataclass(frozen=True)
class Linear(Schedule):
    """alpha_t = 1 - t: `LogLinear` with eps = 0, so that t = 1 is all mask."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -1.0)

    def t_of_alpha(self, alpha: Tensor) -> Tensor:
        return 1.0 - alpha

    def nelbo_weight(self, t: Tensor) -> Tensor:
        return 1.0 / t


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha_t = 1 - cos(pi/2 (1 - t)) (MaskGIT, MD4): spends more of the time at high noise."""

    # Half-angle forms: 1 - cos loses every digit near t = 1.
    def alpha(self, t: Tensor) -> Tensor:
        return 2.0 * torch.sin(0.25 * math.pi * (1.0 - t)) ** 2

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * (1.0 - t))

    def t_of_alpha(self, alpha: Tensor) -> Tensor:
        return 1.0 - (4.0 / math.pi) * torch.arcsin((0.5 * alpha).sqrt())

    def nelbo_weight(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi / torch.tan(0.5 * math.pi * t)


SCHEDULES: dict[str, type[Schedule]] = {"log-linear": LogLinear, "linear": Linear, "cosine": Cosine}


def schedule_of_config(config: dict) -> Schedule:
    """Build a schedule from `{"name": ..., fields}`, as written by `config_of_schedule`.

    Raises ValueError for a name that is not in `SCHEDULES`.
    """
    fields = dict(config)
    name = fields.pop("name", None)
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
    return SCHEDULES[name](**fields)


def config_of_schedule(schedule: Schedule) -> dict:
    """The JSON form of a schedule; `schedule_of_config` reads it back. Raises ValueError for one not in `SCHEDULES`."""
    name = next((name for name, kind in SCHEDULES.items() if type(schedule) is kind), None)
    if name is None:
        raise ValueError(f"{type(schedule).__name__} is not in SCHEDULES")
    return {"name": name, **asdict(schedule)}  # type: ignore[call-overload]
