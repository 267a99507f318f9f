"""`mcd frontier`: temperature sweeps of models, compared at equal entropy."""

import itertools
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from annotated_types import Ge, Gt, Le

from mcd.cli.arguments import check_out, choose, naming, parse, show_dry_run
from mcd.cli.idle_options import refuse_idle
from mcd.data.text import Borders
from mcd.errors import UsageError
from mcd.options import Count, Guidance, NotNegative, Options, Positive, Seed, Steps, check_distinct
from mcd.table import print_table, shown

MASKED = ("masked", "locked")
"""The processes of masked models."""


@dataclass(frozen=True)
class FrontierArgs(Options):
    """Sample each model at several temperatures and compare the models at equal entropy.

    Cooling lowers Gen PPL and entropy together, so a lower Gen PPL at a lower entropy proves nothing. The first MODEL
    is the teacher with which the others are compared: it is read, by interpolation and with bootstrap intervals, at the
    entropy that each other model has at temperature 1 (and at every --entropy). Models of a synthetic language are
    measured by its exact likelihood and by the total variation of their bigrams instead of Gen PPL.

    Writes frontier.json, frontier.png and frontier.svg; the same command resumes where it was stopped.

    Examples:
      mcd frontier demo runs/student --steps 4 8 --num 128 --out runs/frontier
      mcd frontier demo runs/mcd runs/sdtt --temperatures 0.6 0.8 1.0 1.2 --out runs/frontier
      mcd frontier demo --order low-discrepancy --top-p 1 0.9 --guidance 0 0.5 --steps 8 --out runs/ways
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Models: folders, hub ids, or demo; or exact:LANGUAGE, the exact posterior of a synthetic language; no teacher is
    better."""
    out: Path
    """Folder for frontier.json, its figure, and the measured cells, from which the command resumes."""
    steps: tuple[Steps, ...] = (4, 8, 16)
    """Numbers of steps."""
    temperatures: tuple[Positive, ...] = (0.7, 0.8, 0.9, 1.0, 1.1)
    """Temperatures."""
    top_p: tuple[Annotated[float, Gt(0), Le(1)], ...] = (1.0,)
    """Values of top-p: tokens are drawn from the smallest set whose probabilities sum to this, and 1 is all of them.
    Every value adds a curve over all temperatures for each model. Give 1 and 0.9, for example, to see whether cutting
    off unlikely tokens does better than cooling."""
    guidance: tuple[Guidance, ...] = (0.0,)
    """How far the masked models' evidence of the visible tokens is sharpened, as of `mcd sample`; 0 does nothing. Every
    value adds a curve over all temperatures for each of these models, and every --top-p and --sampler."""
    sampler: tuple[str, ...] = ()
    """Samplers of the masked models, as of `mcd sample`; every one adds a curve for each of these models. By default
    each model has its own. The first of the first MODEL is what all are compared with."""
    order: str | None = None
    """In which order the tokens of masked models are revealed, by samplers that have this option (see `mcd sample`); by
    default that of the sampler. low-discrepancy is the best one in few steps, also for the teacher."""
    entropy: tuple[NotNegative, ...] = ()
    """Further entropies (nats) at which models are compared."""
    num: Annotated[int, Ge(2)] = 128
    """Samples per model, number of steps, way of drawing and temperature."""
    length: int | None = None
    """Tokens per row; the longest each model makes by default."""
    seed: Seed = 0
    """Seed of samples and intervals."""
    scorer: str = "smollm2"
    """Scorer of text: smollm2 (offline), or a folder or hub id of a causal language model."""
    scorer_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 is twice as fast on a machine that has bfloat16 units."""
    borders: Borders = "kept"
    """At the end of a document in a sample, the scorer reads its own end-of-text token (kept), or documents run
    together (dropped)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the networks' matrix products, as of `mcd sample`."""
    jobs: Count = 2
    """Processes, each of one thread; a GPU, where there is one, is used by one process."""
    dry_run: bool = False
    """Print what would be measured and stop."""

    def __post_init__(self) -> None:
        if 0.0 in self.temperatures:
            raise ValueError(
                "--temperatures 0: must be positive; a greedy draw is one point, see `mcd eval --sampler confidence "
                "--greedy`"
            )
        super().__post_init__()
        check_distinct("MODEL", self.models)
        check_distinct("--sampler", self.sampler)
        if not self.steps or not self.top_p or not self.guidance:
            raise ValueError("--steps, --top-p, --guidance: name at least one of each")
        if len(self.models) * len(self.top_p) * len(self.guidance) * max(1, len(self.sampler)) < 2:
            raise ValueError("MODEL: one model has no other to be compared with; name two or more, the teacher first")
        if len(self.temperatures) < 2:
            raise ValueError("--temperatures: a curve needs at least two")
        if 1.0 not in self.temperatures and not self.entropy:
            raise ValueError("--temperatures: add 1, at whose entropy models are compared, or name an --entropy")
        if self.scorer == "none":
            raise ValueError("--scorer none: text cannot be compared without one; leave it out")


class _Way(NamedTuple):
    """How a model is drawn, besides top-p and temperature; None where it has no such option, or its own sampler."""

    model: str
    sampler: str | None
    guidance: float | None


def main(argv: list[str]) -> int:
    args = parse(FrontierArgs, argv, "frontier")
    check_out(args.out, folder=True)
    _check_ways(args)
    processes = _processes(args, argv)
    ways = _ways(args, processes)
    if args.dry_run:
        cells = len(ways) * len(args.steps) * len(args.temperatures) * len(args.top_p)
        return show_dry_run({"models": args.models, "cells": cells, "samples": cells * args.num})
    from mcd.eval.laboratory.curves import curve_of, matched_rows, point_row
    from mcd.eval.laboratory.experiment import Cell, sampler_options
    from mcd.eval.laboratory.lab import Lab
    from mcd.files import write_json
    from mcd.report.curves import draw_curves

    names = {model: model.rstrip("/").split("/")[-1] for model in args.models}
    if len(set(names.values())) < len(names):
        names = {model: model for model in args.models}
    language = _check_models(args, argv)
    groups = {
        (way, steps, top_p): [
            Cell(
                str(Path(way.model).resolve()) if Path(way.model).is_dir() else way.model,
                steps,
                args.num,
                names[way.model],
                length=args.length,
                options=sampler_options(temperature=temperature, top_p=top_p, **options),
                seed=args.seed,
                scorer=args.scorer if language is None else None,
                scorer_precision=args.scorer_precision,
                language=language,
                borders=args.borders,
                dtype=args.dtype,
            )
            for temperature in args.temperatures
        ]
        for (way, options), steps, top_p in itertools.product(ways.items(), args.steps, args.top_p)
    }
    measured = Lab(args.out, args.jobs).measure([cell for cells in groups.values() for cell in cells])
    of_cell = {one.cell: one for one in measured}
    curves = []
    for (way, steps, top_p), cells in groups.items():
        label = names[way.model] + (f" top-p {top_p}" if len(args.top_p) > 1 else "")
        label += f" guidance {way.guidance}" if len(args.guidance) > 1 and way.guidance is not None else ""
        label += f" {way.sampler}" if len(args.sampler) > 1 and way.sampler else ""
        curves.append(curve_of(label, steps, [of_cell[cell] for cell in cells]))
    matched = matched_rows(curves, entropies=args.entropy)
    draw_curves(curves, args.out / "frontier.png")
    rows = [point_row(one) for one in measured]
    result = {"command": f"mcd frontier {shlex.join(argv)}", "rows": rows, "matched": matched}
    write_json(args.out / "frontier.json", result)
    print_matched(matched)
    return 0


def _check_ways(args: FrontierArgs) -> None:
    """Raise UsageError for a sampler or an order that is not known, and for an order that no sampler asks for."""
    from mcd.process.unmasking import ORDERS
    from mcd.sampler import SAMPLERS
    from mcd.sampler.ancestral import Ancestral

    masked = {name: kind for name, kind in SAMPLERS.items() if kind.process == "masked"}
    kinds = [choose(name, masked, "--sampler") for name in args.sampler]
    if args.order is not None:
        choose(args.order, ORDERS, "--order")
        if kinds and not any(issubclass(kind, Ancestral) for kind in kinds):
            raise UsageError(f"--order: {', '.join(args.sampler)} has an order of its own; leave the option out")


def _ways(args: FrontierArgs, processes: dict[str, str]) -> dict[_Way, dict[str, Any]]:
    """The ways in which each model is drawn, and what of them is options of a cell."""
    from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS
    from mcd.sampler.ancestral import Ancestral

    ways = {}
    for model, process in processes.items():
        samplers = args.sampler if args.sampler and process == "masked" else (None,)
        for sampler, guidance in itertools.product(samplers, args.guidance if process in MASKED else (None,)):
            ordered = args.order is not None and issubclass(SAMPLERS[sampler or DEFAULT_SAMPLER[process]], Ancestral)
            options = {"sampler": sampler, "order": args.order if ordered else None, "guidance": guidance}
            given = {name: value for name, value in options.items() if value is not None}
            ways[_Way(model, sampler, guidance)] = given
    return ways


def _processes(args: FrontierArgs, argv: list[str]) -> dict[str, str]:
    """The process of each model, by its config.json. Raises UsageError for a process that has no frontier, and for
    options of other processes. In a dry run a model that is not on this machine, or not yet, counts as masked."""
    from mcd.checkpoints.config import read_config
    from mcd.checkpoints.locate import FETCHED, locate
    from mcd.eval.exact_denoiser import language_of_exact

    processes = dict.fromkeys(args.models, "masked")
    for model in args.models:
        with naming("MODEL", model):
            if language_of_exact(model) is None and (model == "demo" or not args.dry_run or Path(model).is_dir()):
                processes[model] = read_config(locate(model, files=list(FETCHED))).process
        if processes[model] == "autoregressive":
            raise UsageError(
                f"MODEL {model}: is autoregressive and takes one step per token, so that there are no equal numbers of "
                "steps to compare at; measure it by `mcd eval` at several --temperature"
            )
    if "masked" not in processes.values():
        refuse_idle(argv, {"--sampler": "no MODEL is masked"})
    if not any(process in MASKED for process in processes.values()):
        refuse_idle(argv, dict.fromkeys(["--order"] + ["--guidance"] * any(args.guidance), "no MODEL is masked"))
    return processes


def _check_models(args: FrontierArgs, argv: list[str]) -> str | None:
    """The synthetic language of all models, None for text. Raises UsageError for models that do not compare."""
    from mcd.checkpoints.folder import from_pretrained
    from mcd.eval.exact_denoiser import language_of_exact
    from mcd.machine import device
    from mcd.training.trained_on import language_of_model

    if device().type != "cpu":
        refuse_idle(argv, {"--jobs": "there is a GPU, and one process uses it"})
    languages = {}
    for model in args.models:
        with naming("MODEL", model):
            exact = language_of_exact(model)
        if exact is not None:
            if args.length is None:
                raise UsageError(f"--length: {model} makes rows of any length; say how many tokens to compare")
            if args.dtype != "float32":
                raise UsageError(f"--dtype {args.dtype}: {model} is exact, and no network; leave it out")
            languages[model] = exact.name
            continue
        with naming("MODEL", model):
            denoiser = from_pretrained(model)
        languages[model] = language_of_model(denoiser.folder)
        longest = denoiser.config.backbone.length
        if args.length is not None and not 1 <= args.length <= longest:
            raise UsageError(f"--length {args.length}: {model} makes 1 to {longest} tokens")
    if len(set(languages.values())) > 1:
        found = ", ".join(f"{model} of {language or 'text'}" for model, language in languages.items())
        raise UsageError(f"MODEL: are of different languages ({found}); compare those of one")
    language = languages[args.models[0]]
    if language is not None:
        why = f"models of {language} are measured by its exact likelihood, without a scorer"
        refuse_idle(argv, dict.fromkeys(("--scorer", "--scorer-precision", "--borders"), why))
    return language


def print_matched(rows: list[dict[str, Any]]) -> None:
    """The rows at matched entropy as a table on the terminal."""
    short = {"gen_ppl": "PPL", "nll": "NLL", "tv_bigram": "TV-2", "tv_trigram": "TV-3", "tv_class_bigram": "class TV-2"}

    def cells(row: dict[str, Any], prefix: str) -> tuple[str, str]:
        form = ".0f" if row["measure"] == "gen_ppl" else ".3f"
        value, lo, hi = (shown(row[f"{prefix}{key}"], form) for key in ("value", "lo", "hi"))
        return value, "-" if lo == "-" else f"{lo}-{hi}"

    print_table(
        ("model", "of", "steps", "entropy", "value", "interval", "teacher", "interval", "its T"),
        [
            (
                row["model"],
                short[row["measure"]],
                str(row["steps"]),
                f"{row['entropy']:.3f}",
                *cells(row, ""),
                *cells(row, "teacher_"),
                shown(row["teacher_temperature"], ".2f"),
            )
            for row in rows
        ],
        names=2,
    )
