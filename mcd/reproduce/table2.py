"""Table 2: the loss of round 1. Reverse KL on all tokens the student does not see, forward KL there, and the hybrid.

What FAILED means was written down before any of it ran. A loss fails when
  (a) it, or its gradient, is not finite; or
  (b) it stays above 10 nats a position ten steps running (the uniform prediction of 32 symbols costs 3.5); or
  (c) after the round its validation NELBO is more than 1 nat a token above the teacher's.
(a) and (b) stop the run (`--max-loss`); the same run without the stop then shows what would have come of it.
"""

from pathlib import Path
from typing import Any

import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.data.languages.known import LANGUAGES
from mcd.eval.laboratory.experiment import Experiment, Training
from mcd.eval.laboratory.lab import Lab
from mcd.objective import Clock
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws
from mcd.reproduce.languages import LENGTH, NUM, language_cell, over_seeds
from mcd.reproduce.scales import SEEDS, Scale, language_data, language_student, language_teacher
from mcd.train.run_folder import read_stats

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
    runs, cells = [language_data(LANGUAGE)], []
    for seed in SEEDS:
        teacher = language_teacher(LANGUAGE, seed)
        runs.append(teacher)
        cells += [language_cell(teacher.name, LANGUAGE, n, "mdlm", seed) for n in STEPS]
        for name, options in LOSSES.items():
            log = ("--delta0", str(2 / LENGTH), "--log-every", "1", *options)  # two tokens, as in the paper
            stop = language_student(LANGUAGE, seed, "mcd", f"{name}-r1", (*log, "--max-loss", str(MAX_LOSS)), 1)
            unstopped = language_student(LANGUAGE, seed, "mcd", f"{name}-r1-unstopped", log, 1)
            runs += [Training(stop.name, stop.command, may_fail=True), unstopped]
            cells += [language_cell(unstopped.name, LANGUAGE, n, name, seed) for n in STEPS]
    return Experiment(runs, cells)


def run(scale: Scale, lab: Lab, out: Path) -> dict[str, Any]:
    """Quality after the round; then, for each loss, whether it failed, by which criterion, and its regimes."""
    rows: list[dict[str, Any]] = over_seeds(lab.measure(plan(scale).cells))
    verdicts = [row for seed in SEEDS for row in _verdicts(lab.work, seed)]
    regimes = [row for seed in SEEDS for row in gradients_by_regime(lab.work, seed)]
    return {
        "protocol": {"language": LANGUAGE, "samples": NUM, "length": LENGTH, "criterion": (__doc__ or "").strip()},
        "rows": rows,
        "verdicts": verdicts,
        "regimes": regimes,
    }


def _verdicts(work: Path, seed: int) -> list[dict[str, Any]]:
    from mcd.eval.likelihood import nelbo

    x0 = LANGUAGES[LANGUAGE]().sample_rows(256, LENGTH, torch.Generator().manual_seed(10_000 + seed))
    bound = {}
    teacher = language_teacher(LANGUAGE, seed).name
    for name in (teacher, *(f"{LANGUAGE}/mcd-{loss}-r1-unstopped-s{seed}" for loss in LOSSES)):
        bound[name] = nelbo(from_pretrained(str(work / name)), list(x0.split(32)))["valid_nelbo"]
    rows = []
    for loss in LOSSES:
        stopped = read_stats(work / f"{LANGUAGE}/mcd-{loss}-r1-s{seed}")
        whole = read_stats(work / f"{LANGUAGE}/mcd-{loss}-r1-unstopped-s{seed}")
        rise = bound[f"{LANGUAGE}/mcd-{loss}-r1-unstopped-s{seed}"] - bound[teacher]
        exploded = bool(stopped[-1].get("diverged"))
        reasons = [name for name, holds in (("b", exploded), ("c", rise > MAX_NELBO_RISE)) if holds]
        rows.append(
            {
                "loss": loss,
                "seed": seed,
                "failed": bool(reasons),
                "criteria": reasons,
                "stopped_at_step": stopped[-1]["step"] if exploded else None,
                "first_loss": whole[0]["loss"],
                "last_loss": whole[-1]["loss"],
                "first_grad_norm": whole[0]["grad_norm"],
                "last_grad_norm": whole[-1]["grad_norm"],
                "nelbo_rise": rise,
            }
        )
    return rows


def gradients_by_regime(work: Path, seed: int, batches: int = 8) -> list[dict[str, Any]]:
    """Loss and norm of the gradient that each regime alone would give, at the start of the round (student = teacher).

    Regimes: both masked (reverse KL); revealed to the teacher alone under reverse KL, under forward KL, under CE. The
    gradient of the revealed tokens is that of the loss with them less that of the loss without.
    """
    model = from_pretrained(str(work / language_teacher(LANGUAGE, seed).name))
    language = LANGUAGES[LANGUAGE]()
    names = {
        "both masked": ("both", "reverse", 0.0),
        "both masked, forward": ("both", "forward", 0.0),
        "student masked, reverse": ("student", "reverse", 0.0),
        "student masked, forward": ("student", "forward", 0.0),
        "hybrid": ("both", "reverse", 1.0),
    }
    losses = dict.fromkeys(names, 0.0)
    gradients = {name: torch.zeros(()) for name in names}
    for batch in range(batches):
        generator = torch.Generator().manual_seed(1000 * seed + batch)
        x0 = language.sample_rows(32, LENGTH, generator)
        for name, (region, kl, weight) in names.items():
            objective = MCD(delta0=2 / LENGTH, region=region, kl=kl, ce_weight=weight)  # type: ignore[arg-type]
            model.zero_grad()
            draws = Draws(torch.Generator().manual_seed(batch), len(x0), LENGTH)
            loss = objective.loss(model, model, x0, Clock(), draws)
            loss.total.backward()
            flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            losses[name] += loss.total.item() / batches
            gradients[name] = gradients[name] + flat / batches
    revealed = {
        "revealed, reverse KL": ("student masked, reverse", "both masked"),
        "revealed, forward KL": ("student masked, forward", "both masked, forward"),
        "revealed, CE": ("hybrid", "both masked"),
    }
    rows = [{"regime": n, "loss": losses[n], "grad_norm": gradients[n].norm().item()} for n in names]
    for name, (whole, part) in revealed.items():
        norm = (gradients[whole] - gradients[part]).norm().item()
        rows.append({"regime": name, "loss": losses[whole] - losses[part], "grad_norm": norm})
    return [{"seed": seed, **row} for row in rows]
