"""`mcd export`: a model to the layout of MDLM on the Hugging Face hub."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mcd.cli.arguments import check_empty, check_out, naming, parse, show_dry_run
from mcd.files import atomic_folder


@dataclass(frozen=True)
class ExportArgs:
    """Write a masked diffusion model in the layout that MDLM's own code reads: config.json and model.safetensors.

    `mcd import` of the result gives back the same model.

    Examples:
      mcd export runs/student --out exported/student
      mcd export runs/student --weights raw --out exported/student-raw
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """MODEL: a folder, a hub id, or demo."""
    out: Path
    """Folder to write; it must be new or empty."""
    layout: Literal["mdlm"] = "mdlm"
    """Layout to write."""
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
    from mcd.checkpoints.export import export_mdlm
    from mcd.checkpoints.locate import locate

    with naming("MODEL", args.model), atomic_folder(args.out) as partial:
        export_mdlm(locate(args.model), partial, args.weights)
    print(f"{args.model} ({args.weights}) written to {args.out} in the layout of MDLM")
    return 0
