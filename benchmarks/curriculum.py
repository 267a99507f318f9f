"""Does Duo's Gaussian-guided curriculum speed up the training of a uniform model, or reduce the noise of its gradient?

Small models learn a language of known entropy with the same rows, steps and learning rates; the variants differ only
in the first half of the run. "window" draws t from the curriculum's window but shows hard tokens; the others show
soft tokens at a fixed temperature (Duo's 1e-3) or an annealed one (1e-1 to 1e-2, the default of the public code).
Two things are measured: the validation NELBO by steps, and, at fixed weights of the plain run, the noise of the
gradient (the trace of its covariance over fresh batches divided by the squared norm of its mean).

    OMP_NUM_THREADS=1 python benchmarks/curriculum.py --out results/cpu/curriculum.json
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import torch

from mcd.data.languages.known import LANGUAGES
from mcd.eval.likelihood import nelbo
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.objective import Clock
from mcd.objective.duo import Duo
from mcd.process.draws import Draws
from mcd.training.config import TrainConfig
from mcd.training.optimizer import lr_factor, make_optimizers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--language", default="hmm", choices=LANGUAGES)
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--seeds", type=int, default=2)
args = parser.parse_args()

LENGTH, BATCH, EVERY, DRAWS, LR, WARMUP, DECAY = 32, 16, args.steps // 10, 64, 2e-3, 100, 0.3
ARMS = {
    "plain": Duo(),
    "window": Duo(curriculum=0.5, tau_start=1e-9, tau_end=1e-9),
    "tau 1e-3": Duo(curriculum=0.5),
    "tau 1e-1 to 1e-2": Duo(curriculum=0.5, tau_start=1e-1, tau_end=1e-2),
}
SHOWN = {
    "plain": Duo(),
    **{
        name: Duo(curriculum=1.0, tau_start=tau, tau_end=tau)
        for name, tau in {"window": 1e-9, "tau 1e-3": 1e-3, "tau 1e-2": 1e-2, "tau 1e-1": 1e-1}.items()
    },
}
SIZE = {"hidden": 64, "layers": 2, "heads": 2, "cond_dim": 32, "dropout": 0.0, "gate_init": 1.0}

language = LANGUAGES[args.language]()
entropy, _ = language.entropy(LENGTH)
train = language.sample_rows(8192, LENGTH, torch.Generator().manual_seed(1))
valid = language.sample_rows(1024, LENGTH, torch.Generator().manual_seed(2)).split(64)


def batch_of(step: int, seed: int) -> torch.Tensor:
    """The rows of a step, the same for every arm."""
    generator = torch.Generator().manual_seed(10_000 * seed + step)
    return train[torch.randint(0, len(train), (BATCH,), generator=generator)]


def fitted(objective: Duo, seed: int) -> tuple[list[dict], dict[int, Denoiser]]:
    """Validation rows of one training, and the weights after 1/10, 1/2 and all of the steps."""
    torch.manual_seed(seed)
    backbone = DiTConfig(rows=language.vocab_size, length=LENGTH, **SIZE)
    model = Denoiser(DenoiserConfig(backbone, mask_id=None, time_conditioned=True))
    (optimizer,) = make_optimizers(model, TrainConfig(lr=LR, betas=(0.9, 0.98)))
    rows, kept = [], {}
    for step in range(1, args.steps + 1):
        progress = (step - 1) / args.steps
        for group in optimizer.param_groups:
            group["lr"] = LR * lr_factor(step - 1, progress, WARMUP, DECAY)
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        x0 = batch_of(step, seed)
        loss = objective.loss(model, None, x0, Clock(step - 1, 0, progress), Draws(generator, *x0.shape))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % EVERY == 0:
            found = nelbo(model, list(valid))
            rows.append({"step": step, **{k: round(found[k], 4) for k in ("valid_nelbo", "valid_nelbo_se")}})
        if step in (args.steps // 10, args.steps // 2, args.steps):
            kept[step] = copy.deepcopy(model)
    return rows, kept


def gradient_noise(model: Denoiser, objective: Duo, seed: int) -> dict[str, float | None]:
    """Trace of the gradient's covariance over fresh batches, and the squared norm of its mean, both without bias."""
    gradients = []
    for draw in range(DRAWS):
        model.zero_grad()
        generator = torch.Generator().manual_seed(77_777 + 1000 * seed + draw)
        x0 = batch_of(50_000 + draw, seed)
        objective.loss(model, None, x0, Clock(), Draws(generator, *x0.shape)).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double())
    stacked = torch.stack(gradients)
    products = (stacked @ stacked.T).fill_diagonal_(0.0)
    squared_norm = products.sum().item() / (DRAWS * (DRAWS - 1))
    without = (products.sum() - 2 * products.sum(1)) / ((DRAWS - 1) * (DRAWS - 2))  # the same without one of the draws
    error = ((DRAWS - 1) * without.var(unbiased=False)).sqrt().item()
    trace = stacked.var(0).sum().item()
    ratio = trace / squared_norm if squared_norm > 3.0 * error else None  # None: the mean is not told from nought
    return {"trace": trace, "squared_norm": squared_norm, "squared_norm_se": error, "noise_to_signal": ratio}


rows = []
for seed in range(args.seeds):
    for arm, objective in ARMS.items():
        curve, kept = fitted(objective, seed)
        rows += [{"kind": "loss", "seed": seed, "arm": arm, **row} for row in curve]
        print(f"seed {seed} {arm:17}", *(f"{row['valid_nelbo']:.3f}" for row in curve), flush=True)
        if arm == "plain":
            for step, model in kept.items():
                for shown, measured in SHOWN.items():
                    found = gradient_noise(model, measured, seed)
                    rows.append({"kind": "gradient", "seed": seed, "arm": shown, "weights_of_step": step, **found})
                    print(f"seed {seed} gradient at step {step}, {shown:9}", found, flush=True)

protocol = {
    "language": args.language,
    "entropy": entropy,
    "length": LENGTH,
    "batch": BATCH,
    "steps": args.steps,
    "curriculum": "first half of the run",
    "optimizer": f"adamw, lr {LR}, warm-up {WARMUP}, linear decay over the last {DECAY}",
    "size": SIZE,
    "valid": "1024 rows, one draw of t and noise each, the same for all arms; raw weights",
    "gradient": f"{DRAWS} batches at weights of the plain run",
}
args.out.parent.mkdir(parents=True, exist_ok=True)
command = " ".join(["python", "benchmarks/curriculum.py", *sys.argv[1:]])
args.out.write_text(json.dumps({"command": command, "protocol": protocol, "rows": rows}, indent=1) + "\n")
