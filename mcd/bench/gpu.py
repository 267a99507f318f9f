"""Does a GPU do what `mcd plan` says of it? Everything that needs one to be known, measured in some minutes.

Both sides work in one process, one after the other, each with the memory for itself. Products are in bfloat16, as
training and drawing have them on a GPU, draws in float64. `tiny` is the same on a CPU, for the tests.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mcd.bench.agreement import measure_agreement, measure_flips, measure_products
from mcd.bench.benchmark import Benchmark, Row, median_and_spread, row
from mcd.bench.check import SIDES, Check, counted_flops, named_device, peak_bytes, sides_of
from mcd.bench.sampling import ours_of_run, peers_of_run, scaled
from mcd.bench.sides import Peers, Side
from mcd.model.sizes import sizes_of
from mcd.objective import OBJECTIVES
from mcd.training.estimate import UTILISATION, Device
from mcd.training.fitting import largest
from mcd.training.roofline import compared

METHODS = ("mcd", "nelbo", "sdtt", "duo-dcd")
COMPARED = 2
"""Rows of the first step, whose loss both sides give."""


def benchmarks(check: Check) -> list[Benchmark]:
    """The most important first: what is cut off by the time is at the end."""
    found = [Benchmark("gpu_products", 5, partial(measure_products, check))]
    found += [Benchmark(f"gpu_agree_{name}", 4, partial(measure_agreement, check, name)) for name in METHODS]
    found += [Benchmark("gpu_agree_draws", 10, partial(measure_flips, check))]
    drawing = [
        Benchmark(f"gpu_sample_steps{n}", 2 * check.limit + 6, partial(measure_sampling, check, n)) for n in check.steps
    ]
    training = [Benchmark(f"gpu_step_{name}", 25, partial(measure_step, check, name)) for name in METHODS]
    found += [training[0], *drawing, *training[1:]]
    found += [Benchmark("gpu_scale_step", 40, partial(measure_growth_of_step, check))]
    return [*found, Benchmark("gpu_scale_sample", 40, partial(measure_growth_of_sampling, check))]


def measure_step(check: Check, method: str) -> Row:
    """A training step of both sides with as many rows as fit; `*_s` is scaled to the first of `batches`."""
    size, most = replace(check.size, process=OBJECTIVES[method].process), check.batches[0]
    more: dict[str, Any] = {"method": method, "length": size.length, "batch": most}
    more["parameters"] = sizes_of(size).parameters
    for name, side in sides_of(check):
        side.build(size, COMPARED, method, {})
        more[f"{name}_loss"] = side.step(0)["loss"]
        batch = largest(check.batches, partial(_step, side))
        median, spread = median_and_spread([_step(side, batch, seed) for seed in range(1, check.repeats + 1)])
        flops = counted_flops(partial(_step, side, batch))
        more |= {f"{name}_batch": batch, f"{name}_step_s": median, f"{name}_spread": spread, f"{name}_flops": flops}
        more |= {f"{name}_tokens_per_s": batch * size.length / median, f"{name}_flops_per_s": flops / median}
        more[f"{name}_peak_bytes"] = peak_bytes(check.device, partial(_step, side, batch))
    more["losses_differ_by"] = abs(more["ours_loss"] / more["peers_loss"] - 1)
    if (known := named_device(check.device)) is not None:
        more |= {f"{name}_share": more[f"{name}_flops_per_s"] / known.flops_bf16 for name in ("ours", "peers")}
        if method == "mcd":
            estimate = _estimated(check, known)["mcd_step"]
            more |= {f"{name}_estimated_s": estimate[name] for name in ("ours", "peers")}
    seconds = {f"{name}_s": more[f"{name}_step_s"] * most / more[f"{name}_batch"] for name in ("ours", "peers")}
    return row(f"gpu_step_{method}", **seconds, **{f"{n}_bytes": more[f"{n}_peak_bytes"] for n in SIDES}, **more)


def measure_sampling(check: Check, steps: int, rows: int | None = None) -> Row:
    """All `rows` drawn by both sides, the peers in batches that fit; long runs by their first steps, scaled."""
    rows = rows or check.rows
    length = check.size.length
    more: dict[str, Any] = {"rows": rows, "length": length, "steps": steps}
    made: dict[str, int] = {}
    seconds: dict[str, Any] = {}
    bytes: dict[str, Any] = {}
    for name, side in sides_of(check):
        batch = rows if name == "ours" else min(rows, check.peers_rows)
        side.build(check.size, batch, None, {})
        batches = [batch >> i for i in range(batch.bit_length())]
        batch = largest(batches, partial(_sample, side, steps))
        bytes[f"{name}_bytes"] = peak_bytes(check.device, partial(_sample, side, steps, batch))
        taken = side.sample(steps, seed=1, limit=check.limit)
        if isinstance(side, Peers):
            taken_s, nfe = peers_of_run(taken, steps, length, batch, side.network_call())
        else:
            taken_s, nfe = ours_of_run(taken, steps, length, batch)
        made[name] = len(taken["seconds"])
        seconds[f"{name}_s"] = taken_s * rows / batch
        more |= {f"{name}_batch": batch, f"{name}_nfe": nfe, f"{name}_tokens_per_s": batch * length / taken_s}
    if (known := named_device(check.device)) is not None:
        found = {one["steps"]: one for one in _estimated(check, known, rows)["drawing"]}.get(steps)
        more |= {f"{name}_estimated_s": found[name] for name in SIDES} if found else {}
    more |= {f"{name}_how": "the whole run" if n >= steps else scaled(n, steps) for name, n in made.items()}
    return row(f"gpu_sample_steps{steps}", **seconds, **bytes, **more)


def measure_growth_of_step(check: Check) -> Row:
    """Tokens per second of an MCD step, from one row on to as many as fit."""
    grown: dict[str, Any] = {}
    for name, side in sides_of(check):
        side.build(check.size, 1, "mcd", {})
        grown[name] = []
        for batch in reversed(check.batches[::2]):
            try:
                _step(side, batch)
            except torch.OutOfMemoryError:
                break
            median, _ = median_and_spread([_step(side, batch, seed) for seed in range(1, 3)])
            grown[name].append({"batch": batch, "tokens_per_s": batch * check.size.length / median})
    return row("gpu_scale_step", **grown)


def measure_growth_of_sampling(check: Check) -> Row:
    """Tokens per second of drawing, in the first number of steps, for few rows and more."""
    grown: dict[str, Any] = {name: [] for name in SIDES}
    for rows in (1, 8, 64):
        if rows <= check.rows:
            one = measure_sampling(replace(check, limit=check.limit / 3), check.steps[0], rows)
            for name in SIDES:
                grown[name].append({"rows": rows, "tokens_per_s": one[f"{name}_tokens_per_s"]})
    return row("gpu_scale_sample", **grown, steps=check.steps[0])


def _step(side: Side, batch: int, seed: int = 0) -> float:
    """Seconds of a step on that many rows."""
    side.batch = batch
    for p in side.parameters():
        p.grad = None  # of a step that ran out of memory
    return side.step(seed)["seconds"]


def _sample(side: Side, steps: int, batch: int) -> None:
    side.batch = batch
    side.sample(steps, seed=0, first=1)


def _estimated(check: Check, device: Device, rows: int | None = None) -> dict[str, Any]:
    """What `mcd plan` says of this work on this device."""
    work = (rows or check.rows, check.batches[0], check.size.length)
    return compared(sizes_of(check.size), device, *work, half=True, utilisation=UTILISATION["gpu"])
