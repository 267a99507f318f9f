"""`mcd reproduce`: run an experiment and write its numbers, figures and samples."""

import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mcd.cli.arguments import check_out, choose, parse, show_dry_run, with_names
from mcd.cli.main import main as run_command
from mcd.cli.typed_options import refuse_idle
from mcd.errors import UsageError

EXPERIMENTS = {
    "table1": "five rounds of MCD, SDTT and Duo-DCD by number of steps",
    "table2": "the loss of round 1: reverse KL everywhere, forward KL, hybrid",
    "table3": "round 1 at a model five times larger",
    "figure1": "from a latent Gaussian path to masks",
    "figure2": "one u, two states, three regimes",
    "figure3": "Gen PPL against steps, round by round",
    "frontier": "all methods at equal entropy: does distillation beat a cooler teacher?",
    "languages": "all methods on languages whose truth is known, three seeds",
    "ablations": "coupling, weights, temperatures, gaps, masks, the teacher's update, size",
    "orders": "what structured reveal orders buy",
    "duality": "the calibration, F_Y, u and the trajectories, checked",
    "precision": "Gumbel races in float32 and float64",
}
ALONE = {"figure1", "figure2", "duality", "precision"}
"""Experiments that train nothing through the laboratory."""
ONE_SCALE = ALONE | {"languages", "ablations", "orders", "table2"}
"""Experiments that a GPU has nothing to add to."""


@dataclass(frozen=True)
class ReproduceArgs:
    """Run one of the paper's experiments: NAME.json (command, protocol, rows), figures and samples below --out.

    Runs for minutes to an hour on two cores; the same command goes on where it was stopped, and experiments share their
    trainings through --work. --scale owt is the papers' own scale, for GPUs: its trainings are listed by --dry-run and
    have not been run by us.

    Examples:
      mcd reproduce duality
      mcd reproduce table1 --jobs 2
      mcd reproduce table1 --scale owt --dry-run
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Which experiment."""
    scale: Literal["cpu", "owt"] = "cpu"
    """cpu (two cores), or owt (the papers' own)."""
    out: Path = Path("results")
    """Folder of results; they go into its subfolder of the scale's name."""
    work: Path = Path("runs/reproduce")
    """Folder of trainings and samples, to go on with."""
    jobs: int = 2
    """Processes, each of one thread."""
    dry_run: bool = False
    """Print what would be trained and measured, as command lines, and stop."""


ReproduceArgs.__doc__ = with_names(ReproduceArgs, EXPERIMENTS)


def main(argv: list[str]) -> int:
    args = parse(ReproduceArgs, argv, "reproduce")
    choose(args.name, EXPERIMENTS, "experiment")
    if args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: must be at least 1")
    if args.name in ONE_SCALE and args.scale != "cpu":
        raise UsageError(f"--scale {args.scale}: {args.name} is of one scale; leave it out")
    if args.name in ALONE:
        refuse_idle(argv, dict.fromkeys(("--jobs", "--work"), f"{args.name} trains nothing and is one task"))
    command = shlex.join(["mcd", "reproduce", args.name, "--scale", args.scale])
    module = importlib.import_module(f"mcd.reproduce.{args.name}")
    if args.dry_run:
        return show_dry_run(_planned(args, module))
    check_out(args.out / args.scale, folder=True)
    return _run(args, module, command)


def _planned(args: ReproduceArgs, module: Any) -> dict[str, Any]:
    if args.name in ALONE:
        return {
            "experiment": args.name,
            "what": EXPERIMENTS[args.name],
            "trainings": [],
            "writes": f"{args.name}.json, .png",
        }
    from mcd.reproduce.scales import SCALES

    plan = module.plan(SCALES[args.scale])
    work = args.work / args.scale
    return {
        "experiment": args.name,
        "trainings": [shlex.join(["mcd", *run.argv(work)]) for run in plan.trainings],
        "cells": len(plan.cells),
    }


def _run(args: ReproduceArgs, module: Any, command: str) -> int:
    from mcd.files import write_json
    from mcd.reproduce.pages import page

    out = args.out / args.scale
    out.mkdir(parents=True, exist_ok=True)
    if args.name in ALONE:
        result = module.run(out)
    else:
        from mcd.eval.laboratory.lab import Lab
        from mcd.reproduce.scales import SCALES

        lab = Lab(args.work / args.scale, run_command, args.jobs)
        scale = SCALES[args.scale]
        lab.train(module.plan(scale).trainings)
        result = module.run(scale, lab, out)
    result = {"command": command, **result}
    write_json(out / f"{args.name}.json", result)
    text = page(args.name, result)
    if text is not None:
        (out / f"{args.name}.md").write_text(text, encoding="utf-8")
    print(f"{out / args.name}.json: {len(result['rows'])} rows")
    return 0
