"""`mcd bench --gpu`: the check of a GPU, row by row within a time, and its tables."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcd.cli.arguments import show_dry_run
from mcd.errors import UsageError, WorkFailed
from mcd.table import print_table, shown


def check_gpu(json: Path | None, minutes: float, tiny: bool, dry_run: bool, command: str) -> int:
    """Measure, write `json` after each row, and print tables. Raises UsageError where there is no GPU, unless `tiny`,
    and WorkFailed at the end where a row failed."""
    from mcd.bench.check import Check, clean
    from mcd.bench.check import tiny as in_small
    from mcd.bench.gpu import benchmarks
    from mcd.cli.doctor import examine
    from mcd.files import write_json
    from mcd.machine import device, machine
    from mcd.progress import progress_bar

    here = device()
    planned = benchmarks(in_small(here) if tiny else Check(here))
    if dry_run:
        return show_dry_run({"rows": [one.name for one in planned], "minutes": minutes})
    if here.type == "cpu" and not tiny:
        raise UsageError("--gpu: this machine has no CUDA device that PyTorch sees; --tiny runs the same on the CPU")
    started, total, done = time.monotonic(), sum(one.seconds for one in planned), 0.0
    found: dict[str, Any] = {"command": command, "machine": machine(), "device": str(here), "tiny": tiny}
    found["doctor"] = [finding.as_dict() for finding in examine(self_test=False)]
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []

    def keep() -> None:
        if json is not None:
            json.parent.mkdir(parents=True, exist_ok=True)
            seconds = round(time.monotonic() - started, 1)
            write_json(json, {**found, "seconds": seconds, "rows": rows, "left_out": left_out})

    keep()
    with progress_bar("gpu") as update:
        for one in planned:
            update(done / total, one.name)
            if time.monotonic() - started + one.seconds > 60 * minutes:
                left_out.append(one.name)
                keep()
                continue
            try:
                rows.append(one.measure())
            except Exception as error:  # what fails on a GPU that nobody has tried must not cost the other rows
                rows.append({"name": one.name, "error": f"{type(error).__name__}: {error}"[:1000]})
            clean()
            keep()
            done += one.seconds
        update(1.0)
    show([row for row in rows if "error" not in row])
    if left_out:
        print(f"left out, since --minutes {minutes:g} would not be enough: {', '.join(left_out)}")
    if json is not None:
        print(f"{json}: {len(rows)} rows")
    if failed := [f"{row['name']}: {row['error']}" for row in rows if "error" in row]:
        raise WorkFailed("\n".join(failed))
    return 0


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of each kind of row."""
    for row in rows:
        if row["name"] == "gpu_products":
            rates = (f"{name} {row[f'{name}_flops'] / 1e12:.3g} TFLOP/s" for name in ("float32", "bfloat16"))
            copied = f"copies {row['copied_bytes_per_s'] / 1e9:,.0f} GB/s"
            print(f"{row.get('device', 'CPU')}: products in {', '.join(rates)}; {copied}")
    agree = [
        (
            row["method"],
            *(f"{row[f'{dtype}_{what}_differs_by']:.1e}" for dtype in DTYPES for what in ("loss", "gradient")),
        )
        for row in rows
        if "cpu_loss" in row
    ]
    if agree:
        print_table(("differ from the CPU", *(f"{d} {w}" for d in ("fp32", "bf16") for w in ("loss", "grad"))), agree)
    for row in rows:
        if row["name"] == "gpu_agree_draws":
            flips = (f"{row[f'{dtype}_flips_per_million']:.0f} in {dtype}" for dtype in DTYPES)
            print(f"of a million tokens drawn, others than on the CPU: {', '.join(flips)} (of {row['tokens']:,})\n")
    _show_sides(rows)
    for row in rows:
        for side in ("ours", "peers") if row["name"].startswith("gpu_scale") else ():
            grown = (f"{one.get('batch', one.get('rows'))}: {one['tokens_per_s']:,.0f}" for one in row[side])
            print(f"{row['name']}, {side}, tokens/s by rows: {', '.join(grown)}")


def _show_sides(rows: Sequence[dict[str, Any]]) -> None:
    """Steps and drawing, a line for each side."""
    lines = [
        (
            f"{row['name'].removeprefix('gpu_')}, {side}",
            str(row[f"{side}_batch"]),
            f"{row[f'{side}_s']:.3g}",
            shown(row.get(f"{side}_estimated_s"), ".3g"),
            f"{row[f'{side}_tokens_per_s']:,.0f}",
            shown(row.get(f"{side}_share"), ".0%"),
            f"{row[f'{side}_bytes'] / 1e9:.1f}",
            shown(row["ratio"] if side == "ours" else None, ".2f"),
        )
        for row in rows
        if "ours_batch" in row
        for side in ("ours", "peers")
    ]
    if lines:
        print_table(("", "batch", "s", "plan s", "tokens/s", "peak", "GB", "ratio"), lines)


DTYPES = ("float32", "bfloat16")
