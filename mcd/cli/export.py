"""`mcd export`: a model to a layout that the code of others reads."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mcd.cli.arguments import check_empty, check_out, naming, parse, show_dry_run
from mcd.files import atomic_folder


@dataclass(frozen=True)
class ExportArgs:
    """Write a diffusion model so that code other than mcd reads it.

    --layout mdlm writes what MDLM's own code reads, and `mcd import` of the result gives back the same model. --layout
    transformers adds one file of code: AutoModelForMaskedLM.from_pretrained(OUT, trust_remote_code=True) then loads the
    model where mcd is not installed. A network that transformers knows (BERT and others) is written without it.

    Examples:
      mcd export runs/student --out exported/student
      mcd export runs/student --layout transformers --out exported/student-hf
      mcd export runs/student --weights raw --out exported/student-raw
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """MODEL: a folder, a hub id, or demo."""
    out: Path
    """Folder to write; it must be new or empty."""
    layout: Annotated[Literal["mdlm", "transformers"], tyro.conf.arg(aliases=("--to",))] = "mdlm"
    """Layout to write: that of MDLM's code, or a folder for transformers."""
    weights: Literal["ema", "raw"] = "ema"
    """Which weights of a run: the moving average, or the raw weights."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(ExportArgs, argv, "export")
    check_out(args.out, folder=True)
    check_empty(args.out, f"--out {args.out}")
    if args.dry_run:
        return show_dry_run({**asdict(args), "out": str(args.out)})
    from mcd.checkpoints.export import export_mdlm, export_transformers
    from mcd.checkpoints.locate import locate

    with naming("MODEL", args.model), atomic_folder(args.out) as partial:
        export = export_mdlm if args.layout == "mdlm" else export_transformers
        export(locate(args.model), partial, args.weights)
    reader = {"mdlm": "MDLM's code", "transformers": "transformers"}[args.layout]
    print(f"{args.model} ({args.weights}) written to {args.out} in the layout that {reader} reads")
    return 0
