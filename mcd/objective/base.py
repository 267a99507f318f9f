"""The base class of objectives: a frozen dataclass whose fields are its options, with one pure function `loss`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from mcd.model.denoiser import Denoiser, Process
from mcd.options import Options
from mcd.process.draws import Draws


class Clock(NamedTuple):
    """The position in the run: `step` counts from 0 over the whole run, `round` from 0, `progress` is in [0, 1)."""

    step: int = 0
    round: int = 0
    progress: float = 0.0


class Loss(NamedTuple):
    """The loss of a batch: `total` is minimised; `terms`, its parts, `counts` of tokens and `stats` are for the log.

    A distillation's terms are divided by B L, all positions of the batch (as in MDLM and Duo), and sum to `total`.
    stats: what is neither a part of the loss nor a count, such as a reward: (n,) values, of which the log has the mean
    over the whole batch; it leaves out a name without any.
    """

    total: Tensor
    terms: dict[str, Tensor]
    counts: dict[str, Tensor]
    stats: Mapping[str, Tensor] = MappingProxyType({})

    def as_floats(self) -> dict[str, float]:
        """One flat dictionary for the log."""
        means = {name: values.mean() for name, values in self.stats.items() if len(values)}
        parts = {"loss": self.total, **self.terms, **self.counts, **means}
        return {name: value.detach().item() for name, value in parts.items()}


@dataclass(frozen=True)
class Objective(Options, ABC):
    """A method of training. Its fields are options of the command line, and the string below a field is its help.

    distils: whether it is a distillation, which has a teacher and runs in rounds. process: the kind of model it trains.
    snapshots: whether each round begins with teacher := student; otherwise the run keeps its first teacher.
    watched: the `stats` that a progress line shows beside the loss. reads_states: whether the loss reads hidden states
    of the teacher, which must then be a network.
    """

    name: ClassVar[str]
    distils: ClassVar[bool]
    process: ClassVar[Process] = "masked"
    snapshots: ClassVar[bool] = True
    watched: ClassVar[tuple[str, ...]] = ()
    reads_states: ClassVar[bool] = False

    @property
    def needs_teacher(self) -> bool:
        """Whether `loss`, with these options, is given a teacher."""
        return self.distils

    @property
    def turns(self) -> tuple[str, ...]:
        """Who learns in the steps of a run, over and over: "student", or an auxiliary network, by its name.

        An auxiliary network begins as a copy of the student, learns in its own turns with an optimiser of its own, and
        is frozen in those of others. `loss` gets it as a keyword of its name, and `Clock.step` tells whose turn it is.
        """
        return ("student",)

    def turn(self, step: int) -> tuple[str, int]:
        """Who learns in a step, counted from 0 over the whole run, and how many turns it has had before."""
        cycle, place = divmod(step, len(self.turns))
        who = self.turns[place]
        return who, cycle * self.turns.count(who) + self.turns[:place].count(who)

    @classmethod
    def takes(cls, process: Process) -> bool:
        """Whether a run of this method can start from a model of that kind, which in a distillation is the teacher."""
        return process == cls.process

    def check(self, student: Denoiser) -> None:
        """Raise UsageError for a network that the method cannot train as it is set, before anything is written."""

    def equip(self, student: Denoiser, length: int) -> None:
        """Give the student, before a run on rows of `length`, what the method needs and its start does not have."""

    @abstractmethod
    def loss(self, student: Denoiser, teacher: Denoiser | None, x0: Tensor, clock: Clock, draws: Draws) -> Loss:
        """The loss of clean rows x0 (B, L), a batch or a part of one; a pure function of its arguments.

        draws: all randomness of these rows, which of their positions are learnt, and the divisor of the sum. Both are
        on the CPU, wherever the networks are: what is masked is listed there (`flat_rows`), and `Denoiser.hidden` and
        the targets of the head send what they get to the device. Nothing may ask the device for a number.
        """

    def schedule_of_round(self, round: int) -> dict[str, Any]:
        """What changes from round to round, for the log and for `--dry-run`; nothing by default."""
        return {}

    def at_progress(self, progress: float) -> Any:
        """What the method makes of `Clock.progress`, as values that can be compared; None where it ignores it."""
        return None

    def idle_options(self, rounds: int) -> dict[str, str]:
        """The options that have no effect, given the values of the others in a run of `rounds`: option to reason."""
        return {}

    def nothing_to_learn(self, rounds: int) -> str | None:
        """Why the student, a copy of the teacher, has nothing to learn in `rounds` rounds; None where it has.

        A reason begins with the option to change.
        """
        return None

    def without_gap(self) -> "Objective":
        """This method with nothing to learn: for equal weights its distillation term is zero and it has no other.

        By default the options `delta0` and `tau0`, where it has them, are 0 and 1.
        """
        still = {"delta0": 0.0, "tau0": 1.0}
        return replace(self, **{name: value for name, value in still.items() if hasattr(self, name)})
