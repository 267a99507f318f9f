"""What `mcd train`, `mcd adapt` and `mcd distill` share: the run folder, validation, progress, and how they end."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from tokenizers import Tokenizer
from torch import Tensor

from mcd.checkpoints.weights import WEIGHTS, parts_of_weights
from mcd.cli.arguments import refused
from mcd.cli.data_checks import check_ids
from mcd.cli.data_option import print_notes
from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import Batch, Loader, open_loader, spread_batch
from mcd.data.manifest import read_manifest
from mcd.data.recipe import is_jinja
from mcd.data.special_tokens import TOKENIZER_CONFIG
from mcd.data.text import Writer
from mcd.data.token_bytes import LOSSY, reads_back, row_bytes
from mcd.data.tokenizer import load_tokenizer
from mcd.eval.bits_per_byte import figures
from mcd.eval.diversity import sample_entropy
from mcd.eval.likelihood import causal_nll, nelbo
from mcd.files import read_json, write_json
from mcd.model.denoiser import Denoiser
from mcd.progress import notice, progress_bar
from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS, sample
from mcd.training.config import Budget
from mcd.training.fitting import batch_that_fits
from mcd.training.loop import Interrupted, Progress, Trainer
from mcd.training.ranks import broadcast, leave, rank
from mcd.training.run_folder import RunFolder, flat_config
from mcd.training.tracking import Tracking

VALID_ROWS = 256
BASE = "base.json"
"""What the autoregressive model under an adapted one says of the validation rows, in its run folder."""
SAMPLE_ROWS, SAMPLE_STEPS, ENTROPY_ROWS = 2, 32, 16


def train_run(
    args: Any,
    budget: Budget,
    student: Denoiser,
    data: Path,
    length: int,
    config: dict[str, Any],
    command: str,
    fabric: Fabric,
    teacher: Denoiser | None = None,
) -> int:
    """Train `student` on rows of `length` of the prepared folder `data`, and show how it goes; returns the exit status.
    Raises Interrupted, in the first process, for a run that was asked to stop.

    args: those of the command. config: what run.json keeps. fabric: that of this process
    (`mcd.training.launch.join`); of several, the first one has the run folder. teacher: see `Trainer`.
    """
    args.objective.check(student)
    with refused():
        student.add_lora(args.lora, args.train.seed)
    if args.train.batch_size == "auto":
        batch_size = _batch_size(args, student, length, fabric, teacher)
        args = replace(args, train=replace(args.train, batch_size=batch_size))
        config = {**config, "train": {**config["train"], "batch_size": batch_size}}
    if rank() == 0 and fabric.device.type == "cuda":
        tf32 = "with" if torch.backends.cuda.matmul.allow_tf32 else "without"
        notice(f"--precision {args.train.precision}; float32 products {tf32} TF32; AdamW is fused")
    loader = open_loader(data, "train", args.train.batch_size, length, args.train.seed)
    valid = open_loader(data, "valid", batch_size=32, length=length)
    if rank() == 0:
        check_ids(args.data, student, data)
    tokenizer = load_tokenizer(data)
    held_out = spread_batch(valid, VALID_ROWS)
    batches, manifest = held_out.split(32), read_manifest(data)
    is_text = manifest["recipe"]["source"] not in LANGUAGES
    bytes = row_bytes(tokenizer, held_out, valid.eos_id) if is_text else None
    if is_text and rank() == 0 and not reads_back(tokenizer):
        print_notes([f"bits per byte are of {LOSSY}"])
    identity = "".join(shard["sha256"] for split in manifest["splits"].values() for shard in split)
    config = {**config, "data_sha256": hashlib.sha256(identity.encode()).hexdigest()}
    texts = {"tokenizer.json": tokenizer.to_str()}
    if is_jinja(template := manifest["recipe"]["template"] or ""):
        texts["chat_template.jinja"] = template
    special = data / TOKENIZER_CONFIG  # the model's end of text, where its tokenizer.json does not say
    if special.is_file() and (student.folder is None or not (student.folder / special.name).is_file()):
        texts[special.name] = special.read_text(encoding="utf-8")

    def validate(model: Denoiser, step: int) -> dict[str, float]:
        file = args.out / "samples" / f"step-{step:08d}.txt"
        ids = write_samples(file, model, tokenizer, loader, ENTROPY_ROWS if args.train.min_entropy else SAMPLE_ROWS)
        found = {} if model.config.process == "locked" else nelbo(model, batches, bytes=bytes)  # it has no likelihood
        return found | ({"sample_entropy": sample_entropy(ids)} if args.train.min_entropy else {})

    measures_base = "base" in config and held_out.diffused is None and args.train.strategy != "fsdp"
    run = RunFolder(args.out, config, command, args.objective.at_progress)
    tracking = Tracking(args.train.track, args.out, flat_config(config))
    with run, tracking, progress_bar(args.out.name) as update:
        if measures_base and bytes is not None and rank() == 0:
            print_notes([_of_base(args.out / BASE, config, student.to(fabric.device), batches, bytes)])

        def show(progress: Progress) -> None:
            row = progress.row
            tracking.log(row)
            whose = f"{row['turn']}'s " if "turn" in row else ""
            loss = "not finite" if row["loss"] is None else f"{row['loss']:.4g}"
            note = f"step {row['step']}  {whose}loss {loss}"
            note += "".join(f"  {name} {row[name]:.4g}" for name in args.objective.watched if row.get(name) is not None)
            if "valid_nelbo" in row:
                note += f"  valid NELBO {row['valid_nelbo']:.3f}"
                note += f" ({row['valid_bpb']:.3f} bits/byte)" if "valid_bpb" in row else ""
            if budget.rounds > 1:
                note = f"round {row['round']}/{budget.rounds}  {note}"
            update(progress.fraction, note)

        trainer = Trainer(
            student, args.objective, loader, args.train, budget, run, texts, validate, show, fabric, teacher
        )
        try:
            trainer.fit()
        except Interrupted:
            if rank() == 0:
                raise
            return 1  # the first process tells
    if rank() == 0:
        ema, raw = (parts_of_weights(args.out / name)[0].name for name in (WEIGHTS["ema"], WEIGHTS["raw"]))
        notice(f"{args.out}: done; {ema} (EMA) and {raw} are in it")
    leave()
    return 0


def _batch_size(args: Any, student: Denoiser, length: int, fabric: Fabric, teacher: Denoiser | None) -> int:
    """What --batch-size auto is: that of the run in --out where there is one, else as many rows as fit."""
    run = args.out / "run.json"
    kept = read_json(run)["config"]["train"]["batch_size"] if run.is_file() and rank() == 0 else None
    found = broadcast(kept) or batch_that_fits(student, args.objective, args.train, length, fabric, teacher)
    if rank() == 0:
        notice(f"--batch-size auto: {found} rows per step" + ("" if kept is None else f", as in {run}"))
    return found


def _of_base(path: Path, config: dict[str, Any], student: Denoiser, batches: list[Batch], bytes: Tensor) -> str:
    """A note of the bits per byte of the autoregressive model on the validation rows; `path` keeps them.

    They are measured once, before the student is trained: its weights are then the published ones.
    """
    if not path.is_file():
        nats = torch.cat([causal_nll(student, batch.x0.to(student.device)).cpu() for batch in batches])
        tokens = torch.tensor([batch.x0.shape[1] for batch in batches for _ in batch.x0])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"base": config["base"], **figures(nats, tokens, bytes)})
    found = read_json(path)["valid_bpb"]
    return f"{config['base']} has {found:.3f} bits per byte on the validation rows, read from left to right (exact)"


def write_samples(path: Path, model: Denoiser, tokenizer: Tokenizer, loader: Loader, rows: int) -> Tensor:
    """Write a few rows of the model in training, framed as its data, to read; returns them, ids (rows, L)."""
    sampler = SAMPLERS[DEFAULT_SAMPLER[model.config.process]](SAMPLE_STEPS)
    ids, _ = sample(sampler, model, rows, loader.length, frame=loader.frame)
    path.parent.mkdir(exist_ok=True)
    writer = Writer(tokenizer, loader.eos_id)
    path.write_text("\n\n".join(writer.text(row) for row in ids.tolist()) + "\n", encoding="utf-8")
    return ids
