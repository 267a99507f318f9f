"""What a distillation in rounds changes from one round to the next: its time gap, and its teacher's temperature."""

import math
from dataclasses import dataclass
from typing import Any

from mcd.objective.base import Objective


@dataclass(frozen=True)
class WideningGap(Objective):
    """A distillation across a gap of delta0 * delta_growth^r in round r (from 0), at most 1 (paper, Algorithm 1)."""

    delta0: float = 1 / 512
    """Gap t - s of the first round."""
    delta_growth: float = 2.0
    """Factor of the gap from round to round."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.delta0 < 1.0:
            raise ValueError(f"--delta0 {self.delta0}: must be in [0, 1)")
        if not 1.0 <= self.delta_growth < math.inf:
            raise ValueError(f"--delta-growth {self.delta_growth}: must be at least 1 and finite")

    def delta(self, round: int) -> float:
        """The time gap of a round, at most 1."""
        return min(1.0, self.delta0 * self.delta_growth**round)


@dataclass(frozen=True)
class CoolingTeacher(WideningGap):
    """Further, a teacher of temperature tau0 - tau_step * r, never below tau_min."""

    tau0: float = 1.0
    """Teacher's temperature in the first round."""
    tau_step: float = 0.0
    """By how much the temperature falls each round."""
    tau_min: float = 0.05
    """Lowest temperature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.tau_step):
            raise ValueError(f"--tau-step {self.tau_step}: must be finite")
        if not 0.0 < self.tau_min <= self.tau0 < math.inf:
            raise ValueError(f"--tau0 {self.tau0}: must be at least --tau-min {self.tau_min}, which must be positive")

    def tau(self, round: int) -> float:
        """The teacher's temperature in a round."""
        return max(self.tau_min, self.tau0 - self.tau_step * round)

    def schedule_of_round(self, round: int) -> dict[str, Any]:
        """The gap and the temperature of a round."""
        return {"delta": self.delta(round), "tau": self.tau(round)}
