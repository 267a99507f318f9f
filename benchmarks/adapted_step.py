"""Measure a step of MCD with a Hugging Face network: the sizes of BERT-base, random weights, AdamW, float32.

Ours uses the adapter and the fused head. The usual way computes the logits of all positions with `transformers` for
student and teacher, and the gradient with autograd. Both alternate in one process, on the same draws; the first step
of each is left out. Needs `mcd-lm[hub]`.

    OMP_NUM_THREADS=1 python benchmarks/adapted_step.py --steps 8
"""

import argparse
import copy
import json
import statistics
import time
from functools import partial

import torch
from transformers import BertConfig, BertForMaskedLM

from mcd.model.adapted.config import AdaptedConfig
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.objective import Clock
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws
from mcd.process.masked import coupled_pair

MASK, B, L = 103, 4, 128
NEVER = (0, *range(1, 100), MASK)
"""bert-base-uncased's padding, unused tokens and mask."""


def ours(student, teacher, x0, draws):
    return MCD().loss(student, teacher, x0, Clock(), draws).total


def usual(schedule, student, teacher, x0, draws):
    method, never = MCD(), torch.tensor(NEVER)
    t = draws.t(method.delta(0), 1.0)
    pair = coupled_pair(x0, draws.u(), t, t - method.delta(0), schedule, MASK)
    with torch.no_grad():
        q = (teacher(input_ids=pair.z_s).logits / method.tau(0)).index_fill(-1, never, -1e6).log_softmax(-1)
    p = student(input_ids=pair.z_t).logits.index_fill(-1, never, -1e6).log_softmax(-1)
    kl, ce = (p.exp() * (p - q)).sum(-1), -p.gather(-1, x0[..., None])[..., 0]
    return (kl * (pair.masked_t & pair.masked_s) + ce * pair.revealed).sum() / (B * L)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=8)
args = parser.parse_args()
torch.manual_seed(0)
settings = json.loads(BertConfig().to_json_string(use_diff=False))
config = DenoiserConfig(AdaptedConfig(settings, NEVER, 30522), MASK)
x0 = torch.randint(1000, 30000, (B, L))
sides = {}
for name, network, loss in (
    ("ours", Denoiser(config), ours),
    ("usual", BertForMaskedLM(BertConfig()), partial(usual, config.schedule)),
):
    student, teacher = network.train(), copy.deepcopy(network).eval().requires_grad_(False)
    sides[name] = (loss, student, teacher, torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True), [])
for step in range(args.steps + 1):
    for loss, student, teacher, optimizer, taken in sides.values():
        started = time.perf_counter()
        loss(student, teacher, x0, Draws(torch.Generator().manual_seed(step), B, L)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            taken.append(time.perf_counter() - started)
for name, (*_, taken) in sides.items():
    spread = f"median of {len(taken)}; {min(taken):.2f} to {max(taken):.2f}"
    print(f"{name:6} {statistics.median(taken):6.2f} s a step ({spread})")
print(f"{sum(p.numel() for p in sides['ours'][1].parameters()):,} parameters, {torch.get_num_threads()} thread(s)")
