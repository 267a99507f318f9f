"""What a distillation changes from round to round: its time gap, and the temperature of its teacher."""

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from mcd.objective.base import Objective
from mcd.options import Decay, Positive


@dataclass(frozen=True)
class WideningGap(Objective):
    """A distillation across a gap of delta0 * delta_growth^r in round r (from 0), at most 1 (paper, Algorithm 1)."""

    delta0: Decay = 1 / 512
    """Time gap t - s of the first round: how far ahead of the student the teacher looks. Begin with about 2 tokens of a
    row: 1/512 at length 1,024, 1/64 at length 128."""
    delta_growth: Annotated[float, Ge(1)] = 2.0
    """Factor of the gap from round to round."""

    def delta(self, round: int) -> float:
        """The time gap of a round, at most 1."""
        return min(1.0, self.delta0 * self.delta_growth**round)

    def idle_options(self, rounds: int) -> dict[str, str]:
        """The growth of the gap, where there is none or one round."""
        if self.delta0 == 0.0:
            return {"--delta-growth": "--delta0 0 has no gap to grow"}
        return {"--delta-growth": "it acts from round to round, and there is one"} if rounds == 1 else {}


@dataclass(frozen=True)
class CoolingTeacher(WideningGap):
    """A widening gap to a teacher of temperature tau0 - tau_step * r, never below tau_min."""

    tau0: Positive = 1.0
    """Teacher's temperature in the first round."""
    tau_step: float = 0.0
    """Decrease of the temperature per round."""
    tau_min: Positive = 0.05
    """Lowest temperature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau0 < self.tau_min:
            raise ValueError(f"--tau-min {self.tau_min} --tau0 {self.tau0}: the first must not be above the second")

    def tau(self, round: int) -> float:
        """The teacher's temperature in a round."""
        return max(self.tau_min, self.tau0 - self.tau_step * round)

    def schedule_of_round(self, round: int) -> dict[str, Any]:
        """The gap and the temperature of a round."""
        return {"delta": self.delta(round), "tau": self.tau(round)}

    def nothing_to_learn(self, rounds: int) -> str | None:
        """Without a gap, a teacher of temperature 1 predicts what its copy predicts."""
        if self.delta0 > 0.0 or any(self.tau(round) != 1.0 for round in range(rounds)):
            return None
        return "--delta0 0: without a gap, a teacher of temperature 1 teaches nothing; give --delta0, or another --tau0"

    def idle_options(self, rounds: int) -> dict[str, str]:
        """Further the step of the temperature, where there is one round."""
        idle = super().idle_options(rounds)
        return idle | {"--tau-step": "it acts from round to round, and there is one"} if rounds == 1 else idle
