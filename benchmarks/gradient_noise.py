"""How many rows does the gradient of `mmd` need, and does it do anything but sharpen predictions?

At a model that is student and teacher at once, and over batches that share their times and masks between settings:

- noise scale (McCandlish et al., arXiv 1812.06162), tr(covariance of a row's gradient) / |mean gradient|^2: a batch of
  that many rows has as much signal as noise. |mean|^2 is estimated without bias from pairs of batches.
- cosine between the mean gradient and that of the mean entropy of predictions. At 1 a step of descent does nothing but
  lower the entropy, as cooling does; at 0 it does so by chance.

Each with the standard error over batches (jackknife); a mean gradient within its error of 0 has no noise scale.

    python benchmarks/gradient_noise.py --model runs/teacher --data data/markov --batches 40 \
        --settings "pairs=apart" "pairs=same,layer=2" "bandwidth=0.5"
"""

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from mcd.checkpoints.folder import from_pretrained
from mcd.data.loader import open_loader
from mcd.model.targets import RowsTarget
from mcd.objective import Clock
from mcd.objective.mmd import MMD
from mcd.process.draws import Draws
from mcd.process.masked import mask
from mcd.process.transfer import flat_rows
from mcd.training.state import teacher_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--batches", type=int, default=40)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--settings", nargs="+", default=["pairs=apart", "pairs=all", "pairs=same"])
args = parser.parse_args()


def method_of(setting: str) -> MMD:
    """The options of a setting, "name=value,name=value"."""
    pairs = (word.split("=") for word in setting.split(","))
    return MMD(**{name: value if name == "pairs" else json.loads(value) for name, value in pairs})


def between(gram: Tensor) -> float:
    """The inner product of two mean gradients, without bias: the mean over pairs of different batches, (n, n)."""
    n = len(gram)
    return float((gram.sum() - gram.trace()) / (n * (n - 1)))


def statistics(gg: Tensor, gh: Tensor, hh: Tensor) -> tuple[float, float, float]:
    """|mean|^2, noise scale in rows, and cosine, of inner products of loss (g) and entropy (h) between batches."""
    signal = between(gg)
    noise = args.batch_size * (float(gg.diagonal().mean()) - signal)
    return signal, noise / signal, between(gh) / max(signal * between(hh), 0.0) ** 0.5 if signal > 0 else math.nan


def jackknife(*grams: Tensor) -> list[float]:
    """The standard errors of `statistics`, over batches."""
    n = len(grams[0])
    kept = [[j for j in range(n) if j != i] for i in range(n)]
    without = torch.tensor([statistics(*(gram[k][:, k] for gram in grams)) for k in kept])
    return (without.std(0, correction=0) * (n - 1) ** 0.5).tolist()


student = from_pretrained(args.model)
loader = open_loader(args.data, "train", args.batch_size)
teacher, weights, L = teacher_of(student, shared=False), list(student.requires_grad_().parameters()), loader.length
methods = {setting: method_of(setting) for setting in args.settings}
gradients: dict[str, list[Tensor]] = {name: [] for name in (*methods, "entropy")}
for step in range(args.batches):
    x0 = loader.batch(step).x0
    for name in gradients:
        draws = Draws(torch.Generator().manual_seed(step), args.batch_size, L)
        if name == "entropy":
            t, u = draws.t(MMD.t_min, 1.0), draws.u()
            z = mask(x0, u, student.config.schedule.alpha(t)[:, None], student.mask_id)
            rows = flat_rows(z == student.mask_id)
            of_rows = RowsTarget(lambda log_p, _: -(log_p.exp() * log_p).sum(-1), len(rows), 1.0 / draws.divisor)
            total = student.head_loss(student.hidden(z, t, rows=rows), of_rows).total
        else:
            total = methods[name].loss(student, teacher, x0, Clock(), draws).total
        found = torch.autograd.grad(total, weights, allow_unused=True)
        gradients[name].append(torch.cat([g.flatten() for g in found if g is not None]))
stacked = {name: torch.stack(found).double() for name, found in gradients.items()}
h = stacked.pop("entropy")
print(f"{args.batches} batches of {args.batch_size} rows")
for name, g in stacked.items():
    grams = g @ g.T, g @ h.T, h @ h.T
    (signal, rows, cosine), (of_signal, _, of_cosine) = statistics(*grams), jackknife(*grams)
    print(
        f"{name:24} |mean|^2 {signal:.2g} +- {of_signal:.1g}, noise scale {rows:,.0f} rows, "
        f"cosine {cosine:+.2f} +- {of_cosine:.2f}"
    )
