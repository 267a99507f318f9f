"""Table 2: the loss of round 1. Reverse KL on all tokens the student does not see, forward KL there, and the hybrid.

What FAILED means was written down before any of it ran. A loss fails when
  (a) it, or its gradient, is not finite; or
  (b) it stays above 10 nats per position for ten steps running (the uniform prediction of 32 symbols costs 3.5); or
  (c) after the round its validation NELBO is more than 1 nat per token above the teacher's.
(a) and (b) stop the run (`--max-loss`); the same run without the stop then shows what happens afterwards.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.data.languages.known import LANGUAGES
from mcd.eval.laboratory.experiment import Experiment
from mcd.eval.laboratory.lab import MeasuredCell
from mcd.eval.likelihood import nelbo
from mcd.objective import Clock
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws
from mcd.reproduce.languages import LENGTH, NUM, language_cells, over_seeds
from mcd.reproduce.scales import SEEDS, Scale, language_data, language_student, language_teacher
from mcd.training.run_folder import read_stats

LANGUAGE = "hmm"
STEPS = (4, 8, 16)
MAX_LOSS, MAX_NELBO_RISE = 10.0, 1.0
LOSSES = {
    "kl-bwd": ("--region", "student", "--kl", "reverse", "--ce-weight", "0"),
    "kl-fwd": ("--region", "student", "--kl", "forward", "--ce-weight", "0"),
    "hybrid": (),
}


def plan(scale: Scale) -> Experiment:
    """One round of each loss, three seeds; each once with the stop and once without."""
    trainings, cells = [language_data(LANGUAGE)], []
    for seed in SEEDS:
        teacher = language_teacher(LANGUAGE, seed)
        trainings.append(teacher)
        cells += language_cells(teacher.name, LANGUAGE, STEPS, "mdlm", seed)
        for name, options in LOSSES.items():
            log = ("--delta0", str(2 / LENGTH), "--log-every", "1", *options)  # two tokens, as in the paper
            stop = language_student(LANGUAGE, seed, "mcd", f"{name}-r1", (*log, "--max-loss", str(MAX_LOSS)), 1)
            unstopped = language_student(LANGUAGE, seed, "mcd", f"{name}-r1-unstopped", log, 1)
            trainings += [replace(stop, may_fail=True), unstopped]
            cells += language_cells(unstopped.name, LANGUAGE, STEPS, name, seed)
    return Experiment(trainings, cells)


def result(measured: list[MeasuredCell], scale: Scale, work: Path, out: Path) -> dict[str, Any]:
    """Quality after the round; then, for each loss, whether it failed, by which criterion, and its regimes."""
    return {
        "protocol": {"language": LANGUAGE, "samples": NUM, "length": LENGTH, "criterion": (__doc__ or "").strip()},
        "rows": over_seeds(measured),
        "verdicts": [row for seed in SEEDS for row in _verdicts(work, seed)],
        "regimes": [row for seed in SEEDS for row in gradients_by_regime(work, seed)],
    }


def _verdicts(work: Path, seed: int) -> list[dict[str, Any]]:
    x0 = list(LANGUAGES[LANGUAGE]().sample_rows(256, LENGTH, _generator(10_000 + seed)).split(32))

    def bound(training: str) -> float:
        return nelbo(from_pretrained(str(work / training)), x0)["valid_nelbo"]

    teacher_bound = bound(language_teacher(LANGUAGE, seed).name)
    rows = []
    for loss in LOSSES:
        stopped = read_stats(work / f"{LANGUAGE}/mcd-{loss}-r1-s{seed}")
        unstopped = f"{LANGUAGE}/mcd-{loss}-r1-unstopped-s{seed}"
        stats, rise = read_stats(work / unstopped), bound(unstopped) - teacher_bound
        exploded = bool(stopped[-1].get("diverged"))
        reasons = [name for name, holds in (("b", exploded), ("c", rise > MAX_NELBO_RISE)) if holds]
        rows.append(
            {
                "loss": loss,
                "seed": seed,
                "failed": bool(reasons),
                "criteria": reasons,
                "stopped_at_step": stopped[-1]["step"] if exploded else None,
                "first_loss": stats[0]["loss"],
                "last_loss": stats[-1]["loss"],
                "first_grad_norm": stats[0]["grad_norm"],
                "last_grad_norm": stats[-1]["grad_norm"],
                "nelbo_rise": rise,
            }
        )
    return rows


def gradients_by_regime(work: Path, seed: int, batches: int = 8) -> list[dict[str, Any]]:
    """Loss and gradient norm that each regime alone would give, at the start of the round (student = teacher).

    Regimes: both masked (reverse KL); revealed only to the teacher under reverse KL, under forward KL, under CE. The
    gradient of the revealed tokens is that of the loss with them less that of the loss without.
    """
    model = from_pretrained(str(work / language_teacher(LANGUAGE, seed).name))
    language = LANGUAGES[LANGUAGE]()
    hybrid = MCD(delta0=2 / LENGTH)
    both_masked = replace(hybrid, ce_weight=0.0)
    objectives = {
        "both masked": both_masked,
        "both masked, forward": replace(both_masked, kl="forward"),
        "student masked, reverse": replace(both_masked, region="student"),
        "student masked, forward": replace(both_masked, region="student", kl="forward"),
        "hybrid": hybrid,
    }
    losses = dict.fromkeys(objectives, 0.0)
    gradients = {name: torch.zeros(()) for name in objectives}
    for batch in range(batches):
        x0 = language.sample_rows(32, LENGTH, _generator(1000 * seed + batch))
        for name, objective in objectives.items():
            model.zero_grad()
            loss = objective.loss(model, model, x0, Clock(), Draws(_generator(batch), len(x0), LENGTH))
            loss.total.backward()
            flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            losses[name] += loss.total.item() / batches
            gradients[name] = gradients[name] + flat / batches
    rows = [{"regime": name, "loss": losses[name], "grad_norm": gradients[name].norm().item()} for name in objectives]
    for name, all_tokens, part in (
        ("revealed, reverse KL", "student masked, reverse", "both masked"),
        ("revealed, forward KL", "student masked, forward", "both masked, forward"),
        ("revealed, CE", "hybrid", "both masked"),
    ):
        norm = (gradients[all_tokens] - gradients[part]).norm().item()
        rows.append({"regime": name, "loss": losses[all_tokens] - losses[part], "grad_norm": norm})
    return [{"seed": seed, **row} for row in rows]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
