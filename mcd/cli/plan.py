"""`mcd plan`: memory and time of a training step, and time of drawing text, on given devices, from first principles."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le

from mcd.cli.arguments import check_out, naming, parse, refused, show_dry_run
from mcd.cli.idle_options import refuse_idle
from mcd.errors import UsageError
from mcd.options import Count, Decay, Options

if TYPE_CHECKING:
    from mcd.model.adapted.config import AdaptedConfig
    from mcd.model.dit import DiTConfig
    from mcd.training.estimate import Setup

GPT2 = 50_258
"""Rows of the embedding with GPT-2's vocabulary and the mask."""
LLADA = {"rows": 126_465, "hidden": 4096, "layers": 32, "heads": 32}
"""The sizes of `--size 8b`: LLaDA's widths and vocabulary, and the mask."""
GB = 1e9


@dataclass(frozen=True)
class PlanArgs(Options):
    """Estimate memory and time of a training step, and the time of drawing text: whether it fits, and what it costs.

    The estimate is calculated from the sizes of the network and of the MCD step (student forward and
    backward, teacher forward, fused head, AdamW, EMA). Peak rates of devices are the manufacturers' figures; the
    share of the peak that is reached is an assumption, --utilisation. docs/planning.md explains what is counted and
    compares estimates with measurements.

    Examples:
      mcd plan
      mcd plan --size large --device h100 --gpus 8 --batch-size 128
      mcd plan --size 8b --gpus 64 --strategy fsdp --checkpoint-activations --batch-size 512
      mcd plan --size demo --device cpu --batch-size 16 --length 128 --precision 32-true
    """

    size: str = "small"
    """tiny (80M), small (169M), medium (424M), large (863M), 8b (LLaDA's widths in our blocks), duo-tiny (34M), or a
    model: a folder, or demo."""
    batch_size: Count = 128
    """Rows per step, of all devices together."""
    length: Count | None = None
    """Tokens per row; by default 1,024, or the length of the model that --size names."""
    gpus: Count = 1
    """Devices."""
    device: Literal["a100", "h100", "h200", "l40s", "rtx4090", "cpu"] = "a100"
    """a100 (80 GB), h100, h200, l40s, rtx4090, or cpu (this machine; its peak rates are measured in some seconds)."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every device has all weights; fsdp: each has a share."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Precision of the matrix products."""
    accumulate: Count = 1
    """Parts into which the rows of a device are split."""
    checkpoint_activations: bool = False
    """Keep only the input of each block."""
    teacher: bool = True
    """Plan `mcd distill`, which holds a second network, the teacher, and runs it forward in every step. --no-teacher
    plans `mcd train`, which has none."""
    dropout: Decay = 0.1
    """Dropout rate of our transformer; MDLM trains with 0.1. Here it matters only whether it is 0: above 0, each block
    also keeps the masks of the dropped values for its backward pass, which needs memory. A network of Hugging Face has
    its own in config.json."""
    utilisation: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of the peak rate that the products reach. The defaults are 0.4 for a GPU and 0.7 for this CPU; both are
    assumed."""
    steps: Count = 50_000
    """Steps of the whole run, for its time."""
    rows: Count = 1024
    """Rows of text, for the time of drawing them, on all devices together, and of scoring them with GPT-2 large."""
    json: Path | None = None
    """File for the estimate."""
    dry_run: bool = False
    """Print the resolved setup and stop."""


def main(argv: list[str]) -> int:
    args = parse(PlanArgs, argv, "plan")
    if args.gpus == 1:
        refuse_idle(argv, {"--strategy": "there is one device, which has all weights (--gpus)"})
    if args.json is not None:
        check_out(args.json, option="--json")
    from mcd.training.estimate import DEVICES, UTILISATION, estimate, measured_cpu
    from mcd.training.roofline import compared

    setup = _setup(args, argv)
    utilisation = args.utilisation or UTILISATION["cpu" if setup.on_cpu else "gpu"]
    if args.dry_run:
        return show_dry_run(asdict(setup) | {"parameters": setup.parameters, "utilisation": utilisation})
    device = measured_cpu(args.precision) if setup.on_cpu else DEVICES[args.device]
    found = estimate(setup, device, utilisation, args.steps)
    rows, batch = (math.ceil(n / args.gpus) for n in (args.rows, args.batch_size))
    found["roofline"] = compared(setup.sizes, device, rows, batch, setup.length, setup.half, utilisation)
    show(found)
    if args.json is not None:
        from mcd.files import write_json

        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, found)
    return 0


def _setup(args: PlanArgs, argv: list[str]) -> "Setup":
    from mcd.model.dit import DiTConfig
    from mcd.model.sizes import sizes_of
    from mcd.training.estimate import Setup

    config = config_of(args.size, args.length, args.dropout, args.teacher)
    if not isinstance(config, DiTConfig):
        refuse_idle(argv, {"--dropout": f"{args.size} is a network of Hugging Face, whose config.json has its rates"})
    with naming("--size", args.size):
        sizes = sizes_of(config)
    with refused():
        return Setup(
            sizes,
            args.batch_size,
            config.length,
            devices=args.gpus,
            precision=args.precision,
            strategy=args.strategy,
            distils=args.teacher,
            accumulate=args.accumulate,
            checkpointing=args.checkpoint_activations,
            on_cpu=args.device == "cpu",
        )


def config_of(size: str, length: int | None, dropout: float, distils: bool) -> "DiTConfig | AdaptedConfig":
    """The backbone of --size, for rows of `length`. Raises UsageError for an unknown name and for rows longer than a
    teacher takes (`mcd train --init` lengthens a model), and ModelError for a folder without a model."""
    from mcd.checkpoints.config import read_config
    from mcd.checkpoints.locate import locate
    from mcd.model.dit import SIZES, DiTConfig

    sizes: dict[str, dict[str, Any]] = {name: {"rows": GPT2, **widths} for name, widths in SIZES.items()}
    sizes["8b"] = LLADA
    if size in sizes:
        return DiTConfig(**sizes[size], length=length or DiTConfig.length, dropout=dropout)
    if size != "demo" and not Path(size).exists():
        raise UsageError(f"--size {size}: known are {', '.join(sizes)}, demo, or a model's folder")
    with naming("--size", size):
        backbone = read_config(locate(size)).backbone
    if distils and (length or 1) > backbone.length:
        raise UsageError(
            f"--length {length}: a teacher of --size {size} takes 1 to {backbone.length} tokens; --no-teacher plans "
            "`mcd train --init`, which lengthens it"
        )
    if isinstance(backbone, DiTConfig):
        return replace(backbone, length=length or backbone.length, dropout=dropout)
    try:
        return replace(backbone, length=length or backbone.length)
    except ValueError as error:
        raise UsageError(f"--length {length}: {size} cannot be lengthened ({error})") from None


def show(estimate: dict[str, Any]) -> None:
    """Print the estimate in at most 80 columns, and what to do when it does not fit."""
    setup, device, time = estimate["setup"], estimate["device"], estimate["seconds"]
    sizes = setup["sizes"]
    print(
        f"{sizes['parameters'] / 1e6:,.0f}M parameters (hidden {sizes['hidden']}, {sizes['layers']} layers, "
        f"{sizes['rows']:,} rows), {setup['batch_size']} x {setup['length']} tokens/step"
    )
    print(f"on {setup['devices']} x {device['name']}, {setup['precision']}, {setup['strategy']}\n")
    for title, terms, unit, name in (
        ("memory of a device", estimate["memory_bytes"], GB, "GB"),
        ("operations of a device in a step", estimate["flops"], 1e12, "TFLOP"),
        ("sent by a device in a step", estimate["communication_bytes"], GB, "GB"),
        (f"time, at {estimate['utilisation']:.0%} of the peak", time, 1e-3, "ms"),
    ):
        if terms:
            print(title)
            print(*(f"  {term:42}{value / unit:12,.2f} {name}\n" for term, value in terms.items()), sep="")
    days, peak = estimate["days"], estimate["memory_bytes"]["peak"]
    span = f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} hours"
    print(f"{estimate['tokens_per_second']:,.0f} tokens per second; {estimate['steps']:,} steps in {span}")
    if estimate["fits"]:
        print(f"fits: {peak / device['memory']:.0%} of {device['memory'] / GB:.0f} GB")
    else:
        print(f"does not fit: {peak / GB:.1f} of {device['memory'] / GB:.0f} GB (8 % are kept free); {_fix(estimate)}")

    _show_compared(estimate["roofline"], setup["length"])


def _show_compared(found: dict[str, Any], length: int) -> None:
    """Print what kernels, bytes and products take in each way, a line for each number of steps and one for training."""
    titles = {"ours": "ours", "in_cpu_shapes": "in a CPU's shapes", "peers": "the public way"}
    shown = [name for name in titles if name in found["mcd_step"]]
    lines = {f"{row['steps']:,} steps": row for row in found["drawing"]} | {"an MCD step": found["mcd_step"]}
    print(f"\ndrawing {found['rows']:,} rows of {length:,} tokens on each device, and training, by kernels")
    print(f"  {'':12}" + "".join(f"{titles[name]:>21}" for name in shown))
    for title, row in lines.items():
        print(f"  {title:12}" + "".join(f"{row[name]:19,.2f} s" for name in shown))
    print(f"  scoring them with GPT-2 large takes {found['scoring']:,.1f} s")


def _fix(estimate: dict[str, Any]) -> str:
    from mcd.training.estimate import HELD

    setup, terms = estimate["setup"], estimate["memory_bytes"]
    if sum(terms[name] for name in (*HELD, "gradients")) > 0.8 * estimate["device"]["memory"]:
        fsdp = "--strategy fsdp with " if setup["strategy"] == "ddp" else ""
        return f"already weights and optimiser are too large: {fsdp}more --gpus"
    if not setup["checkpointing"]:
        return "try --checkpoint-activations, or --accumulate 2 and more"
    return "try a larger --accumulate, or more --gpus"
