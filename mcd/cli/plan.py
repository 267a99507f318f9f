"""`mcd plan`: memory and time of a training step on given devices, from first principles."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mcd.cli.arguments import check_out, parse, show_dry_run
from mcd.cli.typed_options import refuse_idle
from mcd.errors import UsageError

GPT2 = 50_258
SIZES_8B = {"hidden": 4096, "layers": 32, "heads": 32}
VOCABULARIES = {"8b": 126_465}
"""LLaDA's and the mask; GPT-2's and the mask for the others."""
SIZE_NAMES = {"small": "169M", "medium": "424M", "large": "863M", "8b": "8B"}
GB = 1e9


@dataclass(frozen=True)
class PlanArgs:
    """Estimate memory and time of a training step: what fits, what it costs, and which term to lower.

    Counted from the sizes of our diffusion transformer and of the MCD step (student forward and backward, teacher
    forward, fused head, AdamW, EMA). Peaks of devices are their makers' figures; how much of a peak is reached is an
    assumption, --utilisation. docs/planning.md says what is counted and how near it comes to what was measured.

    Examples:
      mcd plan
      mcd plan --size large --device h100 --gpus 8 --batch-size 128
      mcd plan --size 8b --gpus 64 --strategy fsdp --checkpoint-activations --batch-size 512
      mcd plan --size demo --device cpu --batch-size 16 --length 128 --precision 32-true
    """

    size: str = "small"
    """small (169M), medium (424M), large (863M), 8b (LLaDA's widths in our blocks), or a model: a folder, or demo."""
    batch_size: int = 128
    """Rows a step, of all devices together."""
    length: int = 1024
    """Tokens a row."""
    gpus: int = 1
    """Devices."""
    device: str = "a100"
    """a100 (80 GB), h100, l40s, or cpu: this machine, whose peaks are measured (some seconds)."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every device has all weights; fsdp: each has a share."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Numbers of the products."""
    accumulate: int = 1
    """Parts that the rows of a device are cut into."""
    checkpoint_activations: bool = False
    """Keep only the input of each block."""
    teacher: bool = True
    """Distillation; --no-teacher for `mcd train`."""
    dropout: float = 0.1
    """Above 0 its masks are kept too."""
    utilisation: float | None = None
    """Share of the peak that the products reach: 0.4 of a GPU and 0.7 of this CPU's by default, both assumed."""
    steps: int = 50_000
    """Of the whole run, for its time."""
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
    from mcd.train.estimate import DEVICES, Setup

    if args.device != "cpu" and args.device not in DEVICES:
        raise UsageError(f"--device {args.device}: known are {', '.join(DEVICES)}, cpu")
    if args.steps < 1:
        raise UsageError(f"--steps {args.steps}: must be at least 1")
    utilisation = (0.7 if args.device == "cpu" else 0.4) if args.utilisation is None else args.utilisation
    if not 0.0 < utilisation <= 1.0:
        raise UsageError(f"--utilisation {utilisation}: must be in (0, 1]")
    config = config_of(args.size, args.length, args.dropout)
    try:
        setup = Setup(
            config,
            args.batch_size,
            args.length,
            devices=args.gpus,
            precision=args.precision,
            strategy=args.strategy,
            distils=args.teacher,
            accumulate=args.accumulate,
            checkpointing=args.checkpoint_activations,
            on_cpu=args.device == "cpu",
        )
    except ValueError as error:
        raise UsageError(str(error).replace("--devices", "--gpus")) from None
    if args.dry_run:
        return show_dry_run(asdict(setup) | {"parameters": setup.parameters, "utilisation": utilisation})
    device = measured_cpu(args.precision) if args.device == "cpu" else DEVICES[args.device]
    estimate = estimated(setup, device, utilisation, args.steps)
    show(estimate)
    if args.json is not None:
        from mcd.files import write_json

        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, estimate)
    return 0


def config_of(size: str, length: int, dropout: float) -> Any:
    """The backbone of --size. Raises UsageError for a name that is none, and ModelError for a folder that is none."""
    from mcd.checkpoints.config import read_config
    from mcd.checkpoints.folder import locate
    from mcd.model.dit import SIZES, DiTConfig

    try:
        if size in SIZE_NAMES:
            widths: dict[str, Any] = {**(SIZES_8B if size == "8b" else SIZES[size])}
            return DiTConfig(VOCABULARIES.get(size, GPT2), length=length, dropout=dropout, **widths)
        if size != "demo" and not Path(size).exists():
            raise UsageError(f"--size {size}: known are {', '.join(SIZE_NAMES)}, demo, or a model's folder")
        return replace(read_config(locate(size)).backbone, length=length, dropout=dropout)
    except ValueError as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from None


def estimated(setup: Any, device: Any, utilisation: float, steps: int) -> dict[str, Any]:
    """All of an estimate, for JSON: bytes, operations, seconds, and whether it fits."""
    from mcd.train.estimate import communication, flops, memory, seconds

    bytes_of, time = memory(setup), seconds(setup, device, utilisation)
    return {
        "setup": asdict(setup) | {"parameters": setup.parameters},
        "device": asdict(device),
        "utilisation": utilisation,
        "memory_bytes": bytes_of,
        "fits": bytes_of["peak"] < 0.92 * device.memory,
        "flops": flops(setup),
        "communication_bytes": communication(setup),
        "seconds": time,
        "tokens_per_second": setup.batch_size * setup.length / time["step"],
        "steps": steps,
        "days": steps * time["step"] / 86_400,
    }


def measured_cpu(precision: str, clock: Callable[[], float] = time.perf_counter) -> Any:
    """This machine as a `Device`: the best of a few large products and of a few copies, and its memory."""
    import torch

    from mcd.machine import usable_memory
    from mcd.model.linear import product
    from mcd.train.estimate import Device

    def best(work: Any, repeats: int = 5) -> float:
        taken = []
        for _ in range(repeats):
            started = clock()
            work()
            taken.append(clock() - started)
        return min(taken)

    n = 1536
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    a, b = (torch.randn(n, n, dtype=dtype) for _ in range(2))
    rate = 2 * n**3 / best(lambda: product(a, b))
    source, target = torch.ones(32 << 20), torch.empty(32 << 20)
    bandwidth = 8 * len(source) / best(lambda: target.copy_(source))
    total, limit = usable_memory()
    memory = float(min(size for size in (total, limit, 2**50) if size is not None))
    return Device(f"this CPU, {torch.get_num_threads()} threads", rate, rate, bandwidth, memory, 1e9, 1e9)


def show(estimate: dict[str, Any]) -> None:
    """The estimate as tables of at most 80 columns, and what to do when it does not fit."""
    setup, device, time = estimate["setup"], estimate["device"], estimate["seconds"]
    sizes = setup["config"]
    print(
        f"{setup['parameters'] / 1e6:,.0f}M parameters (hidden {sizes['hidden']}, {sizes['layers']} layers, "
        f"{sizes['rows']:,} rows), {setup['batch_size']} x {setup['length']} tokens a step"
    )
    print(f"on {setup['devices']} x {device['name']}, {setup['precision']}, {setup['strategy']}\n")
    peak = estimate["memory_bytes"]["peak"]
    _table("memory of a device", estimate["memory_bytes"], GB, "GB")
    _table("operations of a device in a step", estimate["flops"], 1e12, "TFLOP")
    if estimate["communication_bytes"]:
        _table("sent by a device in a step", estimate["communication_bytes"], GB, "GB")
    _table(f"time, at {estimate['utilisation']:.0%} of the peak", time, 1e-3, "ms")
    print(f"{estimate['tokens_per_second']:,.0f} tokens a second; {estimate['steps']:,} steps in {_span(estimate)}")
    if estimate["fits"]:
        print(f"fits: {peak / device['memory']:.0%} of {device['memory'] / GB:.0f} GB")
    else:
        print(f"does not fit: {peak / GB:.1f} of {device['memory'] / GB:.0f} GB (8 % are kept free); {_mend(estimate)}")


def _table(title: str, terms: dict[str, float], unit: float, name: str) -> None:
    print(title)
    for term, value in terms.items():
        print(f"  {term:42}{value / unit:12,.2f} {name}")
    print()


def _span(estimate: dict[str, Any]) -> str:
    days = estimate["days"]
    return f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} hours"


def _mend(estimate: dict[str, Any]) -> str:
    setup, terms = estimate["setup"], estimate["memory_bytes"]
    fixed = sum(terms[name] for name in ("weights", "optimiser (AdamW)", "EMA", "teacher", "gradients"))
    if fixed > 0.8 * estimate["device"]["memory"]:
        if setup["strategy"] == "ddp":
            return "weights and optimiser alone are too many: --strategy fsdp with more --gpus"
        return "weights and optimiser alone are too many: more --gpus"
    if not setup["checkpointing"]:
        return "try --checkpoint-activations, or --accumulate 2 and more"
    return "try a larger --accumulate, or more --gpus"
