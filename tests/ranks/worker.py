"""One process of several that run the same cases; started by torchrun (see test_ranks.py).

python worker.py DATA MODEL CASES(JSON): each case {"out": FOLDER, "method": NAME, ...options} is trained in float64.
"stop": [rank, step] asks that process to stop in that step, "die": [rank, step] kills it.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.data.loader import open_loader
from mcd.errors import LostRank
from mcd.objective import OBJECTIVES
from mcd.training.config import Budget, TrainConfig
from mcd.training.launch import join
from mcd.training.loop import Interrupted, Trainer
from mcd.training.ranks import end, leave, rank
from mcd.training.run_folder import RunFolder


def run(data: Path, model: str, case: dict) -> None:
    """Train one case; its run folder is what is compared."""
    case = dict(case)
    out, stop, die = Path(case.pop("out")), case.pop("stop", None), case.pop("die", None)
    kind = OBJECTIVES[case.pop("method", "mcd")]

    class Watched(kind):
        def loss(self, student, teacher, x0, clock, draws, **auxiliary):
            for asked, signum in ((stop, signal.SIGTERM), (die, signal.SIGKILL)):
                if asked == [rank(), clock.step + 1]:
                    os.kill(os.getpid(), signum)
            return super().loss(student, teacher, x0, clock, draws, **auxiliary)

    objective = Watched(**case.pop("objective", {"delta0": 0.1}))
    rounds = case.pop("rounds", 2)
    budget = Budget(steps=case.pop("steps", 6), rounds=rounds if objective.distils else 1)
    config = TrainConfig(**{"batch_size": 8, "lr": 1e-2, "log_every": 1, "checkpoint_every": 2} | case)
    fabric = join(config)
    described = {"objective": asdict(objective), "train": asdict(config) | asdict(budget)}
    folder = RunFolder(out, described)
    student = from_pretrained(model).double()
    loader = open_loader(data, "train", config.batch_size)
    try:
        Trainer(student, objective, loader, config, budget, folder, {"tokenizer.json": "{}"}, fabric=fabric).fit()
    except Interrupted:
        assert stop is not None
    except LostRank as lost:
        print(f"lost: {lost}", flush=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in json.loads(sys.argv[3]):
        run(Path(sys.argv[1]), sys.argv[2], each)
    leave()
    end(0)
