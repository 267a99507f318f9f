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
from mcd.errors import Diverged, UsageError, WorkFailed
from mcd.model.denoiser import Denoiser
from mcd.model.ema import EMA
from mcd.objective.base import Clock, Objective
from mcd.training.checkpoint import load_checkpoint, save_checkpoint
from mcd.training.config import Budget, TrainConfig, check_method
from mcd.training.diagnosis import diagnose
from mcd.training.launch import join
from mcd.training.optimizer import lr_factor, make_optimizers
from mcd.training.ranks import barrier, largest, others_needed, rank
from mcd.training.run_folder import RunFolder
from mcd.training.state import Learner, Skeleton, TrainState, copy_of, teacher_of, turn_of
from mcd.training.step import LossOfStudent, add_gradient, of_whole_batch, update

HIGH_STEPS = 10
BAD_STEPS = 4
Validate = Callable[[Denoiser, int], dict[str, float]]
"""Called with the EMA model and the step, every `valid_every` steps; what it returns is logged, and `sample_entropy`
in it is compared with `min_entropy`."""


class Interrupted(WorkFailed):
    """Training was asked to stop (Ctrl-C or SIGTERM); all work up to `step` is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}; saved. To resume, run the same command again.")
        self.step = step


@dataclass
class Progress:
    """What the loop shows its watcher after each logged step: the step, the fraction of the run that is done, and the
    row of stats.jsonl."""

    step: int
    fraction: float
    row: dict[str, Any]


@dataclass
class Trainer:
    """A run of `student` on the rows of `loader`, in a run folder (paper, Algorithm 1).

    texts: files that are saved with the model, by name: its tokenizer.json, the chat template of the data.
    validate: see `Validate`. watch: called after each logged step. fabric: that of this process, by `join`; on all
    processes but the first, `run` writes nothing. teacher: one without weights, which stays as it is; by default the
    teacher begins as a copy of the student.
    """

    student: Denoiser
    objective: Objective
    loader: Loader
    config: TrainConfig
    budget: Budget
    run: RunFolder
    texts: Mapping[str, str]
    validate: Validate | None = None
    watch: Callable[[Progress], None] = lambda progress: None
    fabric: Fabric | None = None
    teacher: Denoiser | None = None

    def fit(self) -> Denoiser | None:
        """Train from the last checkpoint to the end and return the EMA model; it and the raw weights are saved.

        Each round begins with a hard snapshot: teacher := raw student, frozen, in evaluation mode; with `teacher_ema`
        it follows at every step instead, and some methods keep their first one. With auxiliary networks each step
        trains one network, and the others are frozen (`Objective.turns`); warm-up counts the turns of a network.
        Randomness of step n is seeded by (seed, n), rows are a function of (seed, n), and checkpoints hold all weights,
        EMA, optimisers and the round's teacher: a run killed at any moment and started again ends with the same bits on
        the same CPU, and on another number of processes with the same numbers up to rounding. A step whose loss or
        gradient is not finite changes no weight; it is counted, and after BAD_STEPS of them in a row the run ends.

        None is returned on all processes but the first. Raises Interrupted after saving when asked to stop; Diverged,
        with what was found, when the loss is no longer finite or stays above `max_loss`, or when samples lack entropy;
        LostRank when another process is gone; UsageError for a model that is not of the objective's process, and as
        `join`.
        """
        process = self.student.config.process
        if not self.objective.takes(process):
            raise UsageError(f"{self.objective.name} trains {self.objective.process} models; this one is {process}")
        self.objective.check(self.student)
        check_method(self.objective, self.config)
        self.fabric = self.fabric or join(self.config)
        with others_needed():
            self._set_up(self.fabric)
            self._train(self.fabric)
            return self._publish(self.run.path)

    def _set_up(self, fabric: Fabric) -> None:
        """Make the state of the run, or read it from its last checkpoint."""
        student, config = self.student, self.config
        student.backbone.checkpointing = config.checkpoint_activations
        teacher = self.teacher
        if teacher is None and self.objective.needs_teacher:
            teacher = teacher_of(student, shared=config.strategy != "fsdp")
        self.objective.equip(student, self.loader.length)
        self.skeleton = Skeleton(student)
        others = {name: copy_of(student, shared=True) for name in sorted({*self.objective.turns} - {"student"})}
        self.models, self.modules = {"student": student, **others}, {}
        for who in self.models:  # each with the gradients of one network, so that processes exchange no others
            with turn_of(who, self.models):
                self.modules[who] = fabric.setup_module(LossOfStudent(self.objective, student, teacher, others))
        self.state = TrainState(student, teacher, EMA(student, config.ema_decay), make_optimizers(student, config))
        self.state.auxiliary = {name: Learner(model, make_optimizers(model, config)) for name, model in others.items()}
        load_checkpoint(self.run.checkpoints, self.state)
        self.run.rewind_log(self.state.counters.step)
        if config.compile:
            for model in (*self.models.values(), teacher):
                if model is not None and model is not self.teacher:
                    model.backbone.compile()

    def _train(self, fabric: Fabric) -> None:
        state, config, budget, turns = self.state, self.config, self.budget, self.objective.turns
        at = state.counters
        with _stop_requests() as stop, Prefetch(self.loader.batch) as batches:
            while self._progress() < 1.0:
                started = time.perf_counter()
                batch, clock = batches.batch(at.step), self._begin_step()
                who, turn = self.objective.turn(at.step)
                lr = config.lr * lr_factor(turn, clock.progress, config.warmup_steps, config.lr_decay)
                with turn_of(who, self.models):
                    parts = add_gradient(fabric, self.modules[who], batch, clock, config)
                norm = float(update(self.modules[who], state.learners[who].optimizers, config.clip_norm, lr))
                state.end_step(who, math.isfinite(norm), config.teacher_ema)
                (at.elapsed_s,) = largest(at.elapsed_s + time.perf_counter() - started)

                done = self._progress() >= 1.0
                ends_round = budget.steps_per_round is not None and at.step % budget.steps_per_round == 0
                validates = self.validate is not None and config.valid_every > 0
                validates = validates and (done or at.step % config.valid_every == 0)
                logs = at.step % config.log_every < len(turns)  # a turn of each network
                logs = logs or validates or done or ends_round or at.bad > 0
                values = of_whole_batch(parts) if logs or config.max_loss is not None else {}
                if config.max_loss is not None and who == "student":
                    at.too_high = at.too_high + 1 if values["loss"] > config.max_loss else 0
                diverged = at.too_high == HIGH_STEPS or at.bad == BAD_STEPS
                if logs or diverged:
                    row = {"round": clock.round + 1, "lr": lr} | ({"turn": who} if len(turns) > 1 else {})
                    self._log(row, {**values, "grad_norm": norm}, diverged, validates)
                if diverged:
                    raise Diverged(self._why(who, batch, clock, fabric))
                if ends_round and budget.rounds > 1:
                    self._publish(self.run.path / "rounds" / f"{clock.round + 1}")
                stopping = largest(float(stop())) == [1.0]
                if at.step % config.checkpoint_every == 0 or done or stopping:
                    save_checkpoint(self.run.checkpoints, state)
                if stopping and not done:
                    raise Interrupted(at.step)

    def _progress(self) -> float:
        return self.budget.progress(self.state.counters.step, self.state.counters.elapsed_s)

    def _begin_step(self) -> Clock:
        """teacher := student where a round begins; the clock of the step."""
        step, per_round = self.state.counters.step, self.budget.steps_per_round
        round, in_round = divmod(step, per_round) if per_round else (0, step)
        snapshots = self.objective.snapshots and not self.config.teacher_ema
        if step == 0 or (in_round == 0 and snapshots):
            self.state.snapshot()
        return Clock(step, round, self._progress())

    def _log(self, row: dict[str, Any], values: dict[str, float], diverged: bool, validates: bool) -> None:
        """Write a row of stats.jsonl, where what is not finite is null; with the NELBO if it `validates`."""
        at = self.state.counters
        row = {"step": at.step, **row}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        row |= {"elapsed_s": at.elapsed_s}
        row |= {"skipped": at.skipped} if at.skipped else {}
        row |= {"diverged": True} if diverged else {}
        if validates:
            model = self._ema_model()
            if model is not None and self.validate is not None and self.fabric is not None:
                row |= self.validate(model.to(self.fabric.device), at.step)
            barrier()
        if rank() == 0:
            self.run.log(row)
            self.watch(Progress(at.step, self._progress(), row))
        if validates and self.config.min_entropy:
            self._check_entropy(row.get("sample_entropy", math.inf if rank() == 0 else -math.inf))

    def _check_entropy(self, found: float) -> None:
        """Raise Diverged, on all processes, when the samples that the first one drew lack entropy."""
        (entropy,), least = largest(found), self.config.min_entropy
        if entropy < least:
            raise Diverged(
                f"step {self.state.counters.step}: drawn rows have an entropy of {entropy:.3f} nats on average, below "
                f"--min-entropy {least:g}: the model collapses. The last checkpoint and the models of the rounds "
                "before are intact; try a smaller --lr, or fewer steps"
            )

    def _why(self, who: str, batch: Batch, clock: Clock, fabric: Fabric) -> str:
        """What is said of a run that diverged in this step."""
        at, config = self.state.counters, self.config
        if at.bad < BAD_STEPS:
            return f"step {at.step}: {HIGH_STEPS} steps with a loss above --max-loss {config.max_loss}"
        found = diagnose(self.modules[who], self.state, who, batch, clock, config)
        return (
            f"step {at.step}: {BAD_STEPS} steps in a row whose loss or gradient was not finite; none changed a weight. "
            f"{found}. The last checkpoint is intact; try a smaller --lr"
        )

    def _ema_model(self) -> Denoiser | None:
        return self.skeleton.filled(self.state.student, self.state.ema.shadow, keep=rank() == 0)

    def _publish(self, folder: Path) -> Denoiser | None:
        """Write both weight sets as a model folder and return the EMA model (None on all but the first process)."""
        model, raw = self._ema_model(), self.skeleton.filled(self.state.student, {}, keep=rank() == 0)
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
