"""Long runs on 2 and 4 processes against the same on one: how far apart they end, in float64.

    python tests/soak/ranks.py --steps 48 --out results/bench/ranks.json

The short form is tests/ranks. Each case is trained whole on one process, and on two and on four (gloo); and once
stopped on two at a third of its steps, and finished on four. `worst_log` is the largest difference of any loss, term,
count or norm of any step, `worst_state` that of any tensor of the last checkpoint (weights, EMA, teacher, Adam's
moments), both over the largest number of their kind.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.data.manifest import read_manifest
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.files import write_json
from mcd.machine import environment
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.ema import EMA
from mcd.training.checkpoint import load_checkpoint
from mcd.training.config import TrainConfig
from mcd.training.optimizer import make_optimizers
from mcd.training.run_folder import read_stats
from mcd.training.state import TrainState, teacher_of

WORKER = Path(__file__).resolve().parents[1] / "ranks" / "worker.py"
CASES: dict[str, dict[str, Any]] = {
    "mcd ddp": {"strategy": "ddp"},
    "mcd fsdp, 2 parts": {"strategy": "fsdp", "accumulate": 2},
    "sdtt ddp": {"method": "sdtt", "strategy": "ddp"},
    "cd4lm fsdp": {"method": "cd4lm", "objective": {}, "strategy": "fsdp"},
    "nelbo fsdp": {"method": "nelbo", "objective": {}, "strategy": "fsdp"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("results/bench/ranks.json"))
    args = parser.parse_args()
    common = {"steps": args.steps, "rounds": 4, "checkpoint_every": args.steps // 6, "batch_size": 8, "lr": 1e-3}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _materials(work)
        alone = {case: {k: v for k, v in options.items() if k != "strategy"} for case, options in CASES.items()}
        halted = {case: options | {"stop": [1, args.steps // 3]} for case, options in CASES.items()}
        _job(work, 1, "1", alone, common)
        for processes in (2, 4):
            _job(work, processes, str(processes), CASES, common)
        _job(work, 2, "2 then 4", halted, common)
        _job(work, 4, "2 then 4", CASES, common)
        rows = [
            {"case": case, "processes": where, **_apart(work / where / case, work / "1" / case, CASES[case], work)}
            for case in CASES
            for where in ("2", "4", "2 then 4")
        ]
    for row in rows:
        print(f"{row['case']:20}{row['processes']:10}log {row['worst_log']:.1e}  state {row['worst_state']:.1e}")
    write_json(args.out, {"command": f"python tests/soak/ranks.py --steps {args.steps}", **environment(), "rows": rows})


def _materials(work: Path) -> None:
    prepare(Recipe(data="sotu", vocab_size=300, length=32), work / "data")
    V = read_manifest(work / "data")["vocab_size"]
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(DiTConfig(V + 1, 32, 2, 2, 32, cond_dim=8, dropout=0.0), V))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    save_pretrained(model, work / "model")


def _job(work: Path, processes: int, where: str, cases: dict[str, dict[str, Any]], common: dict[str, Any]) -> None:
    wanted = [{**common, **options, "out": str(work / where / case)} for case, options in cases.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        str(WORKER),
        str(work / "data"),
        str(work / "model"),
    ]
    subprocess.run([*command, json.dumps(wanted)], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


def _apart(found: Path, expected: Path, options: dict[str, Any], work: Path) -> dict[str, float]:
    logs = [
        [{k: v for k, v in row.items() if k not in ("elapsed_s", "cross_entropy")} for row in read_stats(run)]
        for run in (found, expected)
    ]
    largest = {key: max(abs(row[key]) for row in logs[1]) or 1.0 for key in logs[1][0]}
    log = max(abs(a[key] - b[key]) / largest[key] for a, b in zip(*logs, strict=True) for key in b)
    states = [_state(run, options, work) for run in (found, expected)]
    state = max(
        float((states[0][name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-30))
        for name, tensor in states[1].items()
    )
    return {"worst_log": log, "worst_state": state}


def _state(run: Path, options: dict[str, Any], work: Path) -> dict[str, torch.Tensor]:
    student = from_pretrained(str(work / "model")).double()
    teacher = None if options.get("method") == "nelbo" else teacher_of(student, shared=True)
    state = TrainState(student, teacher, EMA(student, 0.9), make_optimizers(student, TrainConfig()))
    assert load_checkpoint(run / "checkpoints", state)
    return state.tensors()


if __name__ == "__main__":
    main()
