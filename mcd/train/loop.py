"""The training loop, one for pre-training and distillation: rounds, snapshots, EMA, logs, checkpoints, resume."""

import contextlib
import copy
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from mcd.data.loader import Loader
from mcd.data.prefetch import Prefetch
from mcd.model.denoiser import Denoiser
from mcd.model.ema import EMA, move_towards
from mcd.model.pretrained import save_pretrained
from mcd.objective.base import Clock, Objective
from mcd.train.checkpoint import load_latest, optimizer_tensors, restore_optimizers, save_checkpoint
from mcd.train.compiler import check_compiler
from mcd.train.config import Budget, TrainConfig
from mcd.train.optimizer import lr_factor, make_optimizers
from mcd.train.run_folder import RunFolder
from mcd.train.step import LossOfStudent, add_gradient, update

HIGH_STEPS = 10
Validate = Callable[[Denoiser, int], dict[str, float]]
"""Called with the EMA model and the step, every `valid_every` steps; what it returns is logged."""


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C or SIGTERM); all work up to `step` is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}; saved. To go on, run the same command again.")
        self.step = step


class Diverged(FloatingPointError):
    """The loss stayed above `max_loss`: there is no point in going on."""


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
) -> Denoiser:
    """Train `student` in place and return its EMA copy; both are saved in the run folder (paper, Algorithm 1).

    Each round begins with a hard snapshot: teacher := raw student, frozen, in evaluation mode; with `teacher_ema` it
    follows at every step instead, and some methods keep their first one. Randomness of step n is seeded by (seed, n)
    and the part of `accumulate`, rows are a function of (seed, n), and checkpoints hold weights, EMA, optimisers and
    the round's teacher: a run killed at any moment and started again ends with the same bits on the same CPU.
    Raises Interrupted after saving when told to stop; FloatingPointError when the loss or its gradient is no longer
    finite, before any weight has changed; Diverged when the loss stays above `max_loss`; ValueError for a model that is
    not of the objective's process; MissingCompiler when `compile` is asked for and the machine has none.
    """
    if objective.process != student.config.process:
        raise ValueError(f"{objective.name} trains {objective.process} models; this one is {student.config.process}")
    if config.teacher_ema and objective.distils and not objective.snapshots:
        raise ValueError(f"--teacher-ema {config.teacher_ema}: {objective.name} keeps its first teacher; leave it out")
    fabric = Fabric(accelerator="auto", devices=1, precision=config.precision)
    fabric.launch()
    if config.compile and fabric.device.type == "cpu":
        check_compiler()
    optimizers = make_optimizers(config.optimizer, student, config.lr, config.betas, config.weight_decay)
    student.to(fabric.device)
    ema = EMA(student, config.ema_decay)
    teacher = copy.deepcopy(student) if objective.distils else None
    step, elapsed, too_high = 0, 0.0, 0

    restored = load_latest(run.checkpoints)
    if restored is not None:
        tensors, meta = restored
        step, elapsed, ema.updates = meta["step"], meta["elapsed_s"], meta["ema_updates"]
        too_high = meta["too_high"]
        _load_part(student, tensors, "student.")
        ema.shadow = {name: tensors[f"ema.{name}"].to(fabric.device) for name in ema.shadow}
        if teacher is not None:
            _load_part(teacher, tensors, "teacher.")
        restore_optimizers(optimizers, tensors)
    run.rewind_log(step)

    module, *wrapped = fabric.setup(LossOfStudent(student), *optimizers)
    if teacher is not None:
        teacher.eval().requires_grad_(False)
    student.backbone.checkpointing = config.checkpoint_activations
    if config.compile:
        for model in (student, teacher):
            if model is not None:
                model.backbone.compile()

    def save() -> None:
        parts = {f"student.{n}": p for n, p in student.state_dict().items()}
        parts |= {f"ema.{n}": p for n, p in ema.shadow.items()} | optimizer_tensors(optimizers)
        if teacher is not None:
            parts |= {f"teacher.{n}": p for n, p in teacher.state_dict().items()}
        meta = {"step": step, "elapsed_s": elapsed, "ema_updates": ema.updates, "too_high": too_high}
        save_checkpoint(run.checkpoints, step, parts, meta)

    steps_per_round = budget.steps_per_round
    snapshots = objective.snapshots and not config.teacher_ema
    with _stop_requests() as stop, Prefetch(loader.batch, fabric.device) as batches:
        while budget.progress(step, elapsed) < 1.0:
            started = time.perf_counter()
            round, in_round = divmod(step, steps_per_round) if steps_per_round else (0, step)
            if teacher is not None and in_round == 0 and (step == 0 or snapshots):
                teacher.load_state_dict(student.state_dict())
            clock = Clock(step, round, budget.progress(step, elapsed))
            factor = lr_factor(step, clock.progress, config.warmup_steps, config.lr_decay)
            module.train()
            loss = add_gradient(fabric, module, objective, teacher, batches.batch(step), clock, config)
            norm = update(module, wrapped, config, factor, step)
            ema.update(student)
            if teacher is not None and config.teacher_ema:
                move_towards(teacher.parameters(), student.parameters(), 1.0 - config.teacher_ema)
            step += 1
            elapsed += time.perf_counter() - started

            done = budget.progress(step, elapsed) >= 1.0
            ends_round = steps_per_round is not None and step % steps_per_round == 0
            validates = validate is not None and config.valid_every and (step % config.valid_every == 0 or done)
            too_high = too_high + 1 if config.max_loss is not None and loss.total > config.max_loss else 0
            diverged = too_high == HIGH_STEPS
            if step % config.log_every == 0 or validates or done or ends_round or diverged:
                row = {"step": step, "round": round + 1, "lr": config.lr * factor, **loss.as_floats()}
                row |= {"grad_norm": float(norm), "elapsed_s": elapsed} | ({"diverged": True} if diverged else {})
                if validate is not None and validates:
                    row |= validate(_ema_model(student, ema), step)
                run.log(row)
                watch(Progress(step, budget.progress(step, elapsed), elapsed, row))
            if diverged:
                raise Diverged(f"step {step}: {HIGH_STEPS} steps with a loss above --max-loss {config.max_loss}")
            if ends_round and budget.rounds > 1:
                _publish(student, ema, run.path / "rounds" / f"{round + 1}", tokenizer_json)
            stopping = stop()
            if step % config.checkpoint_every == 0 or done or stopping:
                save()
            if stopping and not done:
                raise Interrupted(step)
    return _publish(student, ema, run.path, tokenizer_json)


def _load_part(model: Denoiser, tensors: dict[str, Tensor], prefix: str) -> None:
    model.load_state_dict({n.removeprefix(prefix): p for n, p in tensors.items() if n.startswith(prefix)})


def _ema_model(student: Denoiser, ema: EMA) -> Denoiser:
    model = copy.deepcopy(student)
    ema.copy_to(model)
    return model.eval()


def _publish(student: Denoiser, ema: EMA, folder: Path, tokenizer_json: str) -> Denoiser:
    """Write both weight sets as a model folder and return the EMA model."""
    model = _ema_model(student, ema)
    save_pretrained(model, folder, tokenizer_json, raw=student.state_dict())
    model.folder = folder
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
