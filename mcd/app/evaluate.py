"""`mcd eval`: measure samples of a model, or of a file."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mcd.app.arguments import check_out, check_seed, set_threads, show_dry_run
from mcd.app.errors import UsageError
from mcd.app.sampling import SamplingOptions, parse_with_sampler, sampler_of

COLUMNS = {
    "model",
    "round",
    "steps",
    "nfe",
    "gen_ppl",
    "gen_ppl_lo",
    "gen_ppl_hi",
    "entropy",
    "repetition_4",
    "distinct_2",
}
"""Keys of a row of metrics.json that the table shows."""


@dataclass(frozen=True)
class EvalArgs:
    """Measure Gen PPL, entropy, repetition and distinct n-grams with 95 % bootstrap intervals, each with its protocol.

    SOURCE is a model (sampled at each of --steps), a .jsonl file written by `mcd sample`, or `sotu` or a prepared data
    folder for its held-out text (the reference rows: as it is, and with its words shuffled).

    Examples:
      mcd eval demo --steps 8 32 128 --num 64 --out metrics.json
      mcd eval student.jsonl --scorer gpt2-large --out metrics.json
      mcd eval sotu --num 64 --out reference.json
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A model (a folder, a hub id, demo), a .jsonl of samples, or held-out text (sotu, or a prepared folder)."""
    out: Path
    """metrics.json to write."""
    scorer: str = "smollm2"
    """smollm2 (offline), none, or a folder or hub id of a causal language model such as gpt2-large."""
    steps: tuple[int, ...] = (8, 32)
    """Numbers of steps."""
    num: int = 64
    """Samples a cell."""
    seed: int = 0
    """Of samples and intervals."""
    sampling: SamplingOptions = SamplingOptions()
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse_with_sampler(EvalArgs, argv, "eval")
    if args.num < 1 or not args.steps or min(args.steps) < 1:
        raise UsageError(f"--num {args.num} --steps {' '.join(map(str, args.steps))}: all must be at least 1")
    check_seed(args.seed)
    samplers = [sampler_of(args, steps) for steps in args.steps]
    if args.dry_run:
        return show_dry_run({"source": args.source, "samplers": [s.protocol() | {"steps": s.steps} for s in samplers]})
    check_out(args.out)
    read_metrics(args.out)

    from mcd.eval.scorer import load_scorer

    set_threads(args.sampling.threads)
    scorer = None if args.scorer == "none" else load_scorer(args.scorer)
    rows = _rows(args, samplers, scorer)
    write_metrics(args.out, rows, f"mcd eval {shlex.join(argv)}")
    print_rows(rows)
    return 0


def _rows(args: EvalArgs, samplers: list[Any], scorer: Any) -> list[dict[str, Any]]:
    from mcd.app.data_of import prepared
    from mcd.app.measure import held_out_rows, measure_file, measure_model
    from mcd.app.watch import watching
    from mcd.data.corpus import BUNDLED
    from mcd.data.shards import MANIFEST

    path = Path(args.source)
    if args.source in BUNDLED or (path / MANIFEST).is_file():
        folder = prepared(args.source, args.out.parent / "data")
        return held_out_rows(folder, args.num, args.sampling.length, args.seed, scorer)
    if path.suffix == ".jsonl" and not path.is_dir():
        return [measure_file(path, scorer, args.seed)]

    from mcd.model.pretrained import from_pretrained

    denoiser = from_pretrained(args.source, args.sampling.weights)
    length = args.sampling.length_for(denoiser)
    rows = []
    with watching("eval") as watch:
        for i, sampler in enumerate(samplers):
            rows.append(
                measure_model(
                    denoiser, sampler, scorer, args.num, length, args.seed, args.sampling.weights, args.source
                ).row
            )
            watch.tell((i + 1) / len(samplers), f"{sampler.steps} steps")
    return rows


def write_metrics(path: Path, rows: list[dict[str, Any]], command: str) -> None:
    """Write `{"command": what was typed, "rows": [...]}` by way of a temporary file."""
    from mcd.train.checkpoint import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": command, "rows": rows})


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.json that is to be written anew; none where there is no file.

    Raises UsageError when it is another file, which is then not to be lost.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(row) >= COLUMNS for row in rows):
        raise UsageError(f"--out {path}: is there, and is damaged or no metrics.json of ours; name a new file")
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The rows as a table on the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("model", overflow="ellipsis", no_wrap=True, min_width=14, max_width=16)
    for heading in ("round", "steps", "NFE", "Gen PPL", "95 % interval", "entropy", "rep-4", "distinct-2"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        ppl, interval = "-", "-"
        if row["gen_ppl"] is not None:
            ppl = f"{row['gen_ppl']:.1f}"
        if row["gen_ppl"] is not None and row["gen_ppl_lo"] is not None and row["gen_ppl_hi"] is not None:
            decimals = 1 if row["gen_ppl_hi"] < 1000 else 0
            interval = f"{row['gen_ppl_lo']:.{decimals}f}-{row['gen_ppl_hi']:.{decimals}f}"
        table.add_row(
            Path(row["model"]).name,
            str(row["round"] or "-"),
            str(row["steps"] or "-"),
            f"{row['nfe']:.1f}" if row["nfe"] is not None else "-",
            ppl,
            interval,
            f"{row['entropy']:.3f}",
            f"{row['repetition_4']:.3f}",
            f"{row['distinct_2']:.3f}",
        )
    Console().print(table)
