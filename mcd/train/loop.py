"""The training loop, one for pre-training and distillation: rounds, snapshots, EMA, logs, checkpoints, resume."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from mcd.checkpoints.folder import save_pretrained
from mcd.data.loader import Batch, Loader, Prefetch
from mcd.model.denoiser import Denoiser
from mcd.model.ema import EMA, move_towards
from mcd.objective.base import Clock, Loss, Objective
from mcd.train.checkpoint import load_checkpoint, save_checkpoint
from mcd.train.compiler import check_compiler
from mcd.train.config import Budget, TrainConfig
from mcd.train.diagnosis import diagnose
from mcd.train.launch import join
from mcd.train.optimizer import lr_factor, make_optimizers
from mcd.train.ranks import barrier, largest, others_needed, part_of, rank
from mcd.train.run_folder import RunFolder
from mcd.train.state import Blank, TrainState, teacher_of, trainable
from mcd.train.step import LossOfStudent, add_gradient, of_all_processes, update

HIGH_STEPS = 10
BAD_STEPS = 4
Validate = Callable[[Denoiser, int], dict[str, float]]
"""Called with the EMA model and the step, every `valid_every` steps; what it returns is logged."""


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C or SIGTERM); all work up to `step` is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}; saved. To go on, run the same command again.")
        self.step = step


class Diverged(FloatingPointError):
    """The loss stayed above `max_loss`, or was not finite some steps in a row: there is no point in going on."""


@dataclass
class Progress:
    """What the loop tells its watcher after each logged step. `fraction` of the run is done."""

    step: int
    fraction: float
    seconds: float
    row: dict[str, Any]


def fit(
    student: Denoiser,
    objective: Objective,
    loader: Loader,
    config: TrainConfig,
    budget: Budget,
    run: RunFolder,
    tokenizer_json: str,
    validate: Validate | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    fabric: Fabric | None = None,
    beside: Mapping[str, str] | None = None,
) -> Denoiser | None:
    """Train `student` and return its EMA copy; both are saved in the run folder (paper, Algorithm 1).

    Each round begins with a hard snapshot: teacher := raw student, frozen, in evaluation mode; with `teacher_ema` it
    follows at every step instead, and some methods keep their first one. Randomness of step n is seeded by (seed, n),
    rows are a function of (seed, n), and checkpoints hold weights, EMA, optimisers and the round's teacher: a run
    killed at any moment and started again ends with the same bits on the same CPU, and on another number of processes
    with the same numbers up to rounding. A step whose loss or gradient is not finite changes no weight; it is counted,
    and after BAD_STEPS of them in a row the run ends.

    beside: texts that are saved with the model, by the names of their files, such as the chat template of the data.
    fabric: that of this process, by `join`; on all but the first, `run` writes nothing and None is returned.
    Raises Interrupted after saving when told to stop; Diverged, with what was found, when the loss is no longer finite
    or stays above `max_loss`; LostRank when another process is gone; ValueError for a model that is not of the
    objective's process; MissingCompiler when `compile` is asked for and the machine has none.
    """
    if objective.process != student.config.process:
        raise ValueError(f"{objective.name} trains {objective.process} models; this one is {student.config.process}")
    if config.teacher_ema and objective.distils and not objective.snapshots:
        raise ValueError(f"--teacher-ema {config.teacher_ema}: {objective.name} keeps its first teacher; leave it out")
    fabric = fabric or join(config)
    if config.compile and fabric.device.type == "cpu":
        check_compiler()
    with others_needed():
        texts = {"tokenizer.json": tokenizer_json, **(beside or {})}
        return _Run(student, objective, config, budget, run, texts, validate, watch, fabric).through(loader)


class _Run:
    """A run from its last checkpoint to its end."""

    def __init__(
        self,
        student: Denoiser,
        objective: Objective,
        config: TrainConfig,
        budget: Budget,
        run: RunFolder,
        texts: Mapping[str, str],
        validate: Validate | None,
        watch: Callable[[Progress], None],
        fabric: Fabric,
    ):
        self.objective, self.config, self.budget, self.run, self.fabric = objective, config, budget, run, fabric
        self.texts, self.validate, self.watch = texts, validate, watch
        student.backbone.checkpointing = config.checkpoint_activations
        self.blank = Blank(student)
        teacher = teacher_of(student, shared=config.strategy != "fsdp") if objective.distils else None
        self.module: Any = fabric.setup_module(LossOfStudent(student, teacher))
        optimizers = make_optimizers(config.optimizer, student, config.lr, config.betas, config.weight_decay)
        wrapped: Any = fabric.setup_optimizers(*optimizers)
        self.wrapped: list[Any] = list(wrapped) if len(optimizers) > 1 else [wrapped]
        self.state = TrainState(student, teacher, EMA(student, config.ema_decay), optimizers)
        load_checkpoint(run.checkpoints, self.state)
        if rank() == 0:
            run.rewind_log(self.state.counters.step)
        if config.compile:
            for model in (student, teacher):
                if model is not None:
                    model.backbone.compile()

    def through(self, loader: Loader) -> Denoiser | None:
        """Train to the end, and publish."""
        at, budget, config = self.state.counters, self.budget, self.config
        pinned = self.fabric.device.type == "cuda"

        def own_rows(step: int) -> Batch:
            return Batch(loader.batch(step, part_of(config.batch_size)).x0, loader.diffused(step))

        with _stop_requests() as stop, Prefetch(own_rows, pinned) as batches:
            while budget.progress(at.step, at.elapsed_s) < 1.0:
                started = time.perf_counter()
                batch, clock = batches.batch(at.step), self._begin_step()
                factor = lr_factor(at.step, clock.progress, config.warmup_steps, config.lr_decay)
                self.state.student.train()
                loss = add_gradient(self.fabric, self.module, self.objective, batch, clock, config)
                norm = float(update(self.module, self.wrapped, config, factor))
                self._end_step(math.isfinite(norm))
                (at.elapsed_s,) = largest(at.elapsed_s + time.perf_counter() - started)

                done = budget.progress(at.step, at.elapsed_s) >= 1.0
                self._tell(clock, loss, norm, config.lr * factor, done)
                if at.bad == BAD_STEPS:
                    found = diagnose(self.module, self.objective, batch, clock, config, self.fabric.device)
                    raise Diverged(
                        f"step {at.step}: {BAD_STEPS} steps in a row whose loss or gradient was not finite; none "
                        f"changed a weight. {found}. The last checkpoint is intact; try a smaller --lr"
                    )
                if at.too_high == HIGH_STEPS:
                    raise Diverged(f"step {at.step}: {HIGH_STEPS} steps with a loss above --max-loss {config.max_loss}")
                if self._ends_round() and budget.rounds > 1:
                    self._publish(self.run.path / "rounds" / f"{clock.round + 1}")
                stopping = largest(float(stop())) == [1.0]
                if at.step % config.checkpoint_every == 0 or done or stopping:
                    save_checkpoint(self.run.checkpoints, self.state)
                if stopping and not done:
                    raise Interrupted(at.step)
        return self._publish(self.run.path)

    def _begin_step(self) -> Clock:
        """Teacher := student where a round begins; the clock of the step."""
        at, state = self.state.counters, self.state
        per_round = self.budget.steps_per_round
        round, in_round = divmod(at.step, per_round) if per_round else (0, at.step)
        snapshots = self.objective.snapshots and not self.config.teacher_ema
        if state.teacher is not None and in_round == 0 and (at.step == 0 or snapshots):
            for follower, leader in zip(*self._teacher_and_student(), strict=True):
                follower.copy_(leader.detach())
        return Clock(at.step, round, self.budget.progress(at.step, at.elapsed_s))

    def _end_step(self, good: bool) -> None:
        """Averages follow a good step; a bad one is counted."""
        at, state, follows = self.state.counters, self.state, self.config.teacher_ema
        at.step += 1
        at.bad = 0 if good else at.bad + 1
        at.skipped += not good
        if good:
            state.ema.update(state.student)
            if state.teacher is not None and follows:
                move_towards(*self._teacher_and_student(), 1.0 - follows)

    def _teacher_and_student(self) -> tuple[list[Any], list[Any]]:
        own = trainable(self.state.student)
        assert self.state.teacher is not None
        return [p for name, p in self.state.teacher.named_parameters() if name in own], list(own.values())

    def _ends_round(self) -> bool:
        per_round = self.budget.steps_per_round
        return per_round is not None and self.state.counters.step % per_round == 0

    def _tell(self, clock: Clock, loss: Loss, norm: float, lr: float, done: bool) -> None:
        """Count a loss that is too high; log the step if it is one of those that are logged, and validate if due."""
        at, config = self.state.counters, self.config
        validates = bool(self.validate and config.valid_every and (at.step % config.valid_every == 0 or done))
        logs = at.step % config.log_every == 0 or validates or done or self._ends_round() or at.bad > 0
        if not logs and config.max_loss is None:
            return
        values = of_all_processes(loss).as_floats()
        at.too_high = at.too_high + 1 if config.max_loss is not None and values["loss"] > config.max_loss else 0
        diverged = at.too_high == HIGH_STEPS or at.bad == BAD_STEPS
        if not logs and not diverged:
            return
        row: dict[str, Any] = {"step": at.step, "round": clock.round + 1, "lr": lr}
        row |= {name: value if math.isfinite(value) else None for name, value in {**values, "grad_norm": norm}.items()}
        row["elapsed_s"] = at.elapsed_s
        row |= {"skipped": at.skipped} if at.skipped else {}
        row |= {"diverged": True} if diverged else {}
        if validates:
            model = self._ema_model()
            if model is not None and self.validate is not None:
                row |= self.validate(model.to(self.fabric.device), at.step)
            barrier()
        if rank() == 0:
            self.run.log(row)
            self.watch(Progress(at.step, self.budget.progress(at.step, at.elapsed_s), at.elapsed_s, row))

    def _ema_model(self) -> Denoiser | None:
        return self.blank.filled(self.state.student, self.state.ema.shadow, keep=rank() == 0)

    def _publish(self, folder: Path) -> Denoiser | None:
        """Write both weight sets as a model folder and return the EMA model (None on all but the first process)."""
        model, raw = self._ema_model(), self.blank.filled(self.state.student, {}, keep=rank() == 0)
        if model is not None and raw is not None:
            save_pretrained(model, folder, raw=raw.state_dict(), beside=self.texts)
            model.folder = folder
        barrier()
        return model


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a request that the loop honours between two steps; a second Ctrl-C is immediate."""
    asked: list[int] = []

    def ask(signum: int, frame: Any) -> None:
        if asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(signum)

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
