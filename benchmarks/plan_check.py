"""How near does `mcd plan` come to what is measured? Memory and time of MCD steps on this CPU, in float32.

Each cell runs in a process of its own: resident memory before anything is made and after the first step (what is held),
the peak of a step above that, and the median time of three steps, in CPU seconds of one thread, which a busy machine
hardly changes. Peaks of the machine are measured as by `mcd plan --device cpu`, by the same clock; the utilisation is
that command's default.

    OMP_NUM_THREADS=1 python benchmarks/plan_check.py --out results/bench/plan.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from mcd.allocator import keep_freed_blocks
from mcd.bench.memory import forget_peak, peak, release_freed, resident
from mcd.bench.models import SMALL, Size
from mcd.bench.sides import Ours
from mcd.cli.plan import measured_cpu
from mcd.machine import machine
from mcd.train.estimate import Setup, memory, seconds

UTILISATION = 0.7
CELLS = {
    "4M, 16 x 128": (Size(rows=2049, length=128, hidden=192, layers=6, heads=3, cond_dim=16), 16, False),
    "4M, 64 x 128": (Size(rows=2049, length=128, hidden=192, layers=6, heads=3, cond_dim=16), 64, False),
    "33M, 8 x 256": (Size(rows=8193, length=256, hidden=512, layers=8, heads=8), 8, False),
    "33M, 8 x 256, checkpointing": (Size(rows=8193, length=256, hidden=512, layers=8, heads=8), 8, True),
    "33M, 8 x 256, dropout": (Size(rows=8193, length=256, hidden=512, layers=8, heads=8, dropout=0.1), 8, False),
    "169M, 2 x 256": (SMALL, 2, False),
    "169M, 8 x 256": (SMALL, 8, False),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path)
parser.add_argument("--cell", choices=CELLS)
args = parser.parse_args()


def measured(name):
    """Held bytes, peak above them, and seconds of a step: called in a process of its own."""
    keep_freed_blocks()
    size, batch, checkpointing = CELLS[name]
    side = Ours()
    torch.randn(64, 64) @ torch.randn(64, 64)  # what the libraries take for themselves
    release_freed()
    before = resident()
    side.build(size, batch, "mcd", {"checkpointing": checkpointing})
    side.step(1)
    release_freed()
    held = resident() - before
    forget_peak()
    side.step(2)
    above = peak() - before - held
    times = []
    for seed in range(3, 6):
        started = time.process_time()
        side.step(seed)
        times.append(time.process_time() - started)
    return {"held_bytes": held, "above_bytes": above, "seconds": statistics.median(times)}


def predicted(name, device):
    """The same by the estimate."""
    size, batch, checkpointing = CELLS[name]
    setup = Setup(size, batch, size.length, checkpointing=checkpointing, on_cpu=True)
    terms = memory(setup)
    held = sum(terms[term] for term in ("weights", "optimiser (AdamW)", "EMA", "teacher"))
    return {
        "held_bytes": held,
        "above_bytes": terms["peak"] - held,
        "seconds": seconds(setup, device, UTILISATION)["step"],
    }


if args.cell:
    print(json.dumps(measured(args.cell)))
    sys.exit()
torch.set_num_threads(1)
cpu = measured_cpu("32-true", time.process_time)
print(f"{cpu.name}: {cpu.flops_fp32 / 1e9:.0f} GFLOP/s, {cpu.bandwidth / 1e9:.1f} GB/s; utilisation {UTILISATION}")
rows = []
for name in CELLS:
    done = subprocess.run([sys.executable, __file__, "--cell", name], capture_output=True, text=True, check=True)
    row = {"name": name, "measured": json.loads(done.stdout), "predicted": predicted(name, cpu)}
    row["ratio"] = {key: row["measured"][key] / row["predicted"][key] for key in row["measured"]}
    rows.append(row)
    shown = ", ".join(
        f"{key.split('_')[0]} {row['predicted'][key] / unit:.2f} -> {row['measured'][key] / unit:.2f} {name_of}"
        for key, unit, name_of in (("held_bytes", 1e9, "GB"), ("above_bytes", 1e9, "GB"), ("seconds", 1, "s"))
    )
    print(f"{name:30}{shown}", flush=True)
if args.out:
    facts = machine() | {"gflops": cpu.flops_fp32 / 1e9, "bandwidth": cpu.bandwidth}
    command = f"python benchmarks/plan_check.py --out {args.out}"
    args.out.write_text(json.dumps({"command": command, "machine": facts, "rows": rows}, indent=2) + "\n")
