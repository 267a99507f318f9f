"""How often does the number of threads, or of rows per network call, change a draw?

Matrix products may differ in their last bits with the number of threads and the shape of a call. Each setting draws
from the same masked states of text with the same v; a flip is a draw with another result. (In a whole sample, one
flip changes everything after it, so single draws are counted.)

    python benchmarks/flips.py [--model demo] [--draws 200000]
"""

import argparse
from pathlib import Path

import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.cli.data_option import prepared
from mcd.data.loader import open_loader
from mcd.process.categorical import sample_inverse_cdf
from mcd.process.masked import mask
from mcd.process.timestep import sample_u, stratified_t

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="demo")
parser.add_argument("--draws", type=int, default=200_000)
args = parser.parse_args()

model = from_pretrained(args.model)
assert model.folder is not None
loader = open_loader(prepared("sotu", Path("runs/data"), model.folder / "tokenizer.json"), "train", 16, 128)
settings = {"1 thread, 8 rows": (1, 8), "2 threads, 8 rows": (2, 8), "2 threads, 16 rows": (2, 16)}
flips, draws, step = dict.fromkeys(settings, 0), 0, 0
while draws < args.draws:
    generator = torch.Generator().manual_seed(step)
    x0, t = loader.batch(step).x0, stratified_t(16, 1e-3, 1.0, generator)
    z = mask(x0, sample_u(16, 128, generator), model.config.schedule.alpha(t)[:, None], model.mask_id)
    v = torch.rand(z.shape, dtype=torch.float64, generator=generator)
    drawn = {}
    for name, (threads, rows) in settings.items():
        torch.set_num_threads(threads)
        with torch.inference_mode():
            hidden = torch.cat([model.hidden(part, t[:rows]) for part in z.split(rows)])
            parts = zip(hidden.split(128), v.flatten().split(128), strict=True)
            drawn[name] = torch.cat([sample_inverse_cdf(model.log_x_theta(h), v_h) for h, v_h in parts])
    masked = (z == model.mask_id).flatten()
    first = drawn["1 thread, 8 rows"]
    for name, ids in drawn.items():
        flips[name] += int((ids != first)[masked].sum())
    draws, step = draws + int(masked.sum()), step + 1
for name, count in flips.items():
    print(f"{name:20} {count} flips against 1 thread, 8 rows in {draws:,} draws: {1e6 * count / draws:.0f} per million")
