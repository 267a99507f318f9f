"""`mcd reproduce`: run an experiment and write its numbers, figures and samples."""

import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mcd.cli.arguments import check_out, choose, parse, show_dry_run, with_names
from mcd.cli.idle_options import refuse_idle
from mcd.cli.main import main as run_command
from mcd.errors import UsageError
from mcd.options import Count, Options

EXPERIMENTS = {
    "table1": "five rounds of MCD, SDTT and Duo-DCD by number of steps",
    "table2": "the loss of round 1: reverse KL everywhere, forward KL, hybrid",
    "table3": "round 1 at a model five times larger",
    "figure1": "from a latent Gaussian path to masks",
    "figure2": "one u, two states, three regimes",
    "figure3": "Gen PPL against steps, round by round",
    "frontier": "all methods on text at equal entropy, in the best order: does distillation beat a cooler teacher?",
    "frontier_languages": "the paper's methods on synthetic languages, in the usual order and in the best one",
    "frontier_methods": "LTD, IDLM and MMD on synthetic languages, in the best order, three seeds",
    "mmd": "MMD on text, next to its cooled teacher at equal entropy",
    "cooling": "top-p next to a temperature, at equal entropy and equal distinct bigrams, on text and exact languages",
    "guidance": "guidance next to a temperature and top-p, on text and languages, and a student that learns from it",
    "truth": "LTD with the exact denoiser as teacher: do half of the calls suffice?",
    "truth_longer": "the same with longer training, and with a vocabulary of 2,048 tokens (english)",
    "languages": "all methods on synthetic languages with exact likelihood, three seeds",
    "ablations": "coupling, weights, temperatures, gaps, masks, the teacher's update, size",
    "orders": "what structured reveal orders gain",
    "duality": "the calibration, F_Y, u and the trajectories, checked",
    "precision": "Gumbel races in float32 and float64",
}
"""Names of modules of `mcd.reproduce`, and what each is about."""
ALONE = {"figure1", "figure2", "duality", "precision"}
"""Experiments that train nothing: their modules have `run(out)`; all others have `plan` and `result`."""
ONE_SCALE = ALONE | {
    *("languages", "frontier_languages", "frontier_methods", "truth", "truth_longer", "ablations", "orders"),
    "table2",
}
"""Experiments to which a GPU has nothing to add."""


@dataclass(frozen=True)
class ReproduceArgs(Options):
    """Run one of the paper's experiments and write NAME.json (command, protocol, rows), figures and samples.

    An experiment takes minutes to an hour on two cores. The same command resumes where it was stopped, and experiments
    share their trainings through --work. --scale owt is the papers' own scale, for GPUs: --dry-run lists its trainings,
    which we have not run.

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
    """Folder of results; they are written to its subfolder named after the scale."""
    work: Path = Path("runs/reproduce")
    """Folder of trainings and samples; what it holds is not done again."""
    jobs: Count = 2
    """Processes, each of one thread."""
    dry_run: bool = False
    """Print what would be trained and measured, as command lines, and stop."""


ReproduceArgs.__doc__ = with_names(ReproduceArgs, EXPERIMENTS)


def main(argv: list[str]) -> int:
    args = parse(ReproduceArgs, argv, "reproduce")
    choose(args.name, EXPERIMENTS, "NAME")
    if args.name in ONE_SCALE and args.scale != "cpu":
        raise UsageError(f"--scale {args.scale}: {args.name} has one scale; leave the option out")
    if args.name in ALONE:
        refuse_idle(argv, dict.fromkeys(("--jobs", "--work"), f"{args.name} trains nothing and is one task"))
    out = args.out / args.scale
    check_out(out, folder=True)
    if args.dry_run:
        return show_dry_run(_planned(args))
    out.mkdir(parents=True, exist_ok=True)
    _write(args, out, _result(args, out))
    return 0


def _planned(args: ReproduceArgs) -> dict[str, Any]:
    if args.name in ALONE:
        what = {"what": EXPERIMENTS[args.name], "trainings": [], "writes": f"{args.name}.json, .png, .svg"}
        return {"experiment": args.name, **what}
    from mcd.reproduce.scales import SCALES

    plan = _module(args).plan(SCALES[args.scale])
    trainings = [shlex.join(["mcd", *training.argv(args.work / args.scale)]) for training in plan.trainings]
    return {"experiment": args.name, "trainings": trainings, "cells": len(plan.cells)}


def _result(args: ReproduceArgs, out: Path) -> dict[str, Any]:
    module = _module(args)
    if args.name in ALONE:
        return module.run(out)
    from mcd.eval.laboratory.lab import Lab
    from mcd.reproduce.scales import SCALES

    lab, scale = Lab(args.work / args.scale, args.jobs), SCALES[args.scale]
    plan = module.plan(scale)
    lab.train(plan.trainings, run_command)
    return module.result(lab.measure(plan.cells), scale, lab.work, out)


def _write(args: ReproduceArgs, out: Path, result: dict[str, Any]) -> None:
    from mcd.files import write_json
    from mcd.reproduce.pages import page

    result = {"command": shlex.join(["mcd", "reproduce", args.name, "--scale", args.scale]), **result}
    write_json(out / f"{args.name}.json", result)
    text = page(args.name, result)
    if text is not None:
        (out / f"{args.name}.md").write_text(text, encoding="utf-8")
    print(f"{out / args.name}.json: {len(result['rows'])} rows")


def _module(args: ReproduceArgs) -> Any:
    return importlib.import_module(f"mcd.reproduce.{args.name}")
