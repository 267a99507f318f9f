"""SmolLM2's network with random weights and its tokenizer, as a folder: the control of `mcd adapt smollm2`.

    python benchmarks/random_weights.py fresh
    mcd adapt fresh --steps 160 --out runs/scratch

The folder takes 540 MB.
"""

import argparse
from pathlib import Path

import torch

from mcd.eval.causal_lm import bundled

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="folder to write")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
if args.out.exists():
    parser.error(f"{args.out} is there already; name another folder")
model, tokenizer = bundled()
torch.manual_seed(args.seed)
type(model)(model.config).save_pretrained(args.out)
tokenizer.save_pretrained(args.out)
