"""The self-test of `mcd doctor`: a short training that is stopped and resumed, and sampling twice, bit by bit."""

import contextlib
import importlib.util
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mcd.cli.doctor_checks import Finding, finding

STEPS, STOP, ROWS, LENGTH = 4, 3, 2, 32
"""Steps of the run, the step at which it is stopped (one after its checkpoint), and the shape of a batch."""


class _Stop(Exception):
    pass


def sampling() -> Iterator[Finding]:
    """The bundled teacher draws the same text twice."""
    import torch

    from mcd.checkpoints.folder import from_pretrained
    from mcd.errors import ModelError
    from mcd.sampler import sample
    from mcd.sampler.ancestral import Ancestral

    started = time.monotonic()
    try:
        model = from_pretrained("demo")
    except ModelError as error:
        yield Finding("sampling", "broken", f"the bundled teacher: {error}", "reinstall mcd-lm")
        return
    drawn = [sample(Ancestral(8), model, ROWS, LENGTH, seed=1)[0] for _ in range(2)]
    count, seconds = sum(p.numel() for p in model.parameters()), time.monotonic() - started
    value = f"the bundled teacher ({count:,} parameters) drew {ROWS} rows twice in {seconds:.1f} s"
    if torch.equal(*drawn):
        yield finding("sampling", f"{value}, the same")
    else:
        yield finding("sampling", f"{value}, and they differ", "one build of torch and one --threads give equal bits")


def training() -> Iterator[Finding]:
    """MCD steps on the bundled teacher: the loss is finite, and a run that was stopped ends with the same bits."""
    if importlib.util.find_spec("lightning_fabric") is None:
        yield finding("training", "not tried: lightning-fabric is missing", "pip install 'mcd-lm[train]'")
        return
    import torch

    from mcd.training.run_folder import read_stats

    started = time.monotonic()
    with TemporaryDirectory(prefix="mcd-doctor-") as name:
        straight, stopped = Path(name) / "straight", Path(name) / "stopped"
        _train(straight)
        with contextlib.suppress(_Stop):
            _train(stopped, stop=STOP)
        _train(stopped)
        losses = [row["loss"] for row in read_stats(straight)]
        files = ("model.safetensors", "model.raw.safetensors")
        same = all((straight / file).read_bytes() == (stopped / file).read_bytes() for file in files)
    value = f"{STEPS} steps of MCD, loss {losses[0]:.2f} to {losses[-1]:.2f}; stopped and resumed"
    value += f", {'equal bits' if same else 'OTHER bits'}; {time.monotonic() - started:.1f} s"
    if not all(math.isfinite(loss) for loss in losses):
        yield Finding("training", "broken", value, "the loss is not finite: try --precision 32-true and another torch")
    elif not same:
        fix = "a resumed run is as good, but not the same; GPUs add in changing order"
        yield Finding("training", "warn" if torch.cuda.is_available() else "broken", value, fix)
    else:
        yield finding("training", value)


SELF_TESTS = (sampling, training)


def _train(out: Path, stop: int | None = None) -> None:
    """Train to the end, or raise _Stop after `stop` steps."""
    import numpy as np

    from mcd.checkpoints.folder import from_pretrained
    from mcd.data.loader import Loader
    from mcd.objective.mcd import MCD
    from mcd.training.config import Budget, TrainConfig
    from mcd.training.loop import Trainer
    from mcd.training.run_folder import RunFolder

    student = from_pretrained("demo").train()
    tokens = np.random.default_rng(0).integers(student.config.vocab_size, size=4096).astype(np.uint16)
    loader = Loader(tokens, LENGTH, ROWS, eos_id=None)
    config = TrainConfig(batch_size=ROWS, lr=1e-4, log_every=1, checkpoint_every=STOP - 1)
    objective, budget = MCD(delta0=2 / LENGTH), Budget(steps=STEPS, rounds=2)

    def watch(progress: Any) -> None:
        if progress.step == stop:
            raise _Stop

    with RunFolder(out, {"objective": asdict(objective), "train": asdict(config) | asdict(budget)}) as run:
        Trainer(student, objective, loader, config, budget, run, {"tokenizer.json": "{}"}, watch=watch).fit()
