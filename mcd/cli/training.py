"""What `mcd train` and `mcd distill` share: the run folder, validation, progress, and how they end."""

import hashlib
import sys
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from tokenizers import Tokenizer

from mcd.cli.data_option import check_ids
from mcd.cli.errors import fail
from mcd.data.loader import Loader, open_loader, spread_batch
from mcd.data.manifest import read_manifest
from mcd.data.recipe import is_jinja
from mcd.data.special_tokens import NOTES
from mcd.data.text import Writer
from mcd.data.tokenizer import load_tokenizer
from mcd.errors import UsageError
from mcd.eval.likelihood import nelbo
from mcd.model.denoiser import Denoiser
from mcd.model.lora import LoRA
from mcd.objective.base import Objective
from mcd.progress import progress_bar
from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS, sample
from mcd.train.config import Budget, TrainConfig
from mcd.train.launch import join
from mcd.train.loop import Interrupted, Progress, fit
from mcd.train.ranks import leave, rank
from mcd.train.run_folder import FollowedRun, RunConflict, RunFolder

VALID_ROWS = 256
SAMPLE_ROWS, SAMPLE_STEPS = 2, 32


def joined(train: TrainConfig) -> Fabric:
    """This process's part of its job. Raises UsageError for options that so many processes cannot follow."""
    try:
        return join(train)
    except ValueError as error:
        raise UsageError(str(error)) from None


def check_and_adapt(student: Denoiser, data: str, folder: Path, lora: LoRA, seed: int) -> None:
    """See that the prepared `folder` of --data holds nothing that the student never says, then give it its LoRA.

    The first process looks the data through for all. Raises UsageError.
    """
    if rank() == 0:
        check_ids(data, student, folder)
    try:
        student.add_lora(lora, seed)
    except ValueError as error:
        raise UsageError(str(error)) from None


def train_run(
    student: Denoiser,
    objective: Objective,
    loader: Loader,
    train: TrainConfig,
    budget: Budget,
    out: Path,
    config: dict[str, Any],
    data: Path,
    command: str,
    fabric: Fabric,
) -> int:
    """Run `fit` in the folder `out`, shown as it goes; returns the exit status.

    fabric: that of this process (`mcd.train.launch.join`); of several, the first one has the run folder.
    """
    tokenizer = load_tokenizer(data)
    valid = open_loader(data, "valid", batch_size=32, length=loader.length)
    batches = spread_batch(valid, VALID_ROWS).split(32)
    manifest = read_manifest(data)
    identity = "".join(shard["sha256"] for split in manifest["splits"].values() for shard in split)
    template = manifest["recipe"]["template"] or ""
    config = {**config, "data_sha256": hashlib.sha256(identity.encode()).hexdigest()}

    def validate(model: Denoiser, step: int) -> dict[str, float]:
        write_samples(out / "samples" / f"step-{step:08d}.txt", model, tokenizer, loader)
        return nelbo(model, batches)

    try:
        run = RunFolder(out, config, command, objective.at_progress) if rank() == 0 else FollowedRun(out)
    except RunConflict as error:
        raise UsageError(str(error)) from None
    beside = {"chat_template.jinja": template} if is_jinja(template) else {}
    special = data / NOTES[0]  # the model's end of text, where its tokenizer.json does not say
    if special.is_file() and (student.folder is None or not (student.folder / special.name).is_file()):
        beside[special.name] = special.read_text(encoding="utf-8")
    with run, progress_bar(out.name) as update:

        def show(progress: Progress) -> None:
            row = progress.row
            note = f"step {row['step']}  loss {row['loss']:.4g}"
            if "valid_nelbo" in row:
                note += f"  valid NELBO {row['valid_nelbo']:.3f}"
            if budget.rounds > 1:
                note = f"round {row['round']}/{budget.rounds}  {note}"
            update(progress.fraction, note)

        try:
            fit(student, objective, loader, train, budget, run, tokenizer.to_str(), validate, show, fabric, beside)
        except Interrupted as stop:
            return fail(str(stop), 1) if rank() == 0 else 1
    if rank() == 0:
        print(f"{out}: done; model.safetensors (EMA) and model.raw.safetensors are in it", file=sys.stderr)
    leave()
    return 0


def write_samples(path: Path, model: Denoiser, tokenizer: Tokenizer, loader: Loader) -> None:
    """A few rows of the model as it stands, framed as its data, to read while it trains."""
    sampler = SAMPLERS[DEFAULT_SAMPLER[model.config.process]](SAMPLE_STEPS)
    ids, _ = sample(sampler, model, SAMPLE_ROWS, loader.length, frame=loader.frame)
    path.parent.mkdir(exist_ok=True)
    writer = Writer(tokenizer, loader.eos_id)
    path.write_text("\n\n".join(writer.text(row) for row in ids.tolist()) + "\n", encoding="utf-8")
