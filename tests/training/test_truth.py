"""Training works: on a language whose truth is known, a small teacher's bound falls towards the entropy, no lower."""

import pytest
import torch

from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import Loader
from mcd.eval.likelihood import nelbo
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.objective.ar import AR
from mcd.objective.duo import Duo
from mcd.objective.nelbo import NELBO
from mcd.training.config import Budget, TrainConfig
from mcd.training.loop import Trainer
from mcd.training.run_folder import RunFolder

L, STEPS = 16, 250
GAPS = {"masked": 0.6, "uniform": 1.1, "autoregressive": 0.1}
"""Nats a token above the entropy that so short a training may leave (measured: 0.43, 0.85 and 0.02)."""


@pytest.mark.slow
@pytest.mark.parametrize("objective", [NELBO(), Duo(), AR()], ids=lambda objective: objective.name)
def test_a_bound_falls_towards_the_entropy(objective, tmp_path):
    """The unigrams' entropy lies 1.9 nats above; within its error a bound never reads below the language's own."""
    language, process = LANGUAGES["markov"](), objective.process
    V = language.vocab_size
    tokens = language.sample_rows(1, 60_000, torch.Generator().manual_seed(0))[0].numpy().astype("uint16")
    rows, mask_id = (V, None) if process == "uniform" else (V + 1, V)
    torch.manual_seed(0)
    backbone = DiTConfig(rows, 48, 2, 3, L, cond_dim=16, dropout=0.0, gate_init=1.0, causal=process == "autoregressive")
    model = Denoiser(DenoiserConfig(backbone, mask_id, time_conditioned=process == "uniform"))
    config = TrainConfig(batch_size=64, lr=5e-3, warmup_steps=20, lr_decay=0.5, betas=(0.9, 0.98), ema_decay=0.95)
    loader = Loader(tokens, length=L, batch_size=64, eos_id=0)
    run = RunFolder(tmp_path / "run", {"train": {"rounds": 1}})
    Trainer(model, objective, loader, config, Budget(steps=STEPS), run, {}).fit()

    x0 = language.sample_rows(2048, L, torch.Generator().manual_seed(1))
    bound = nelbo(model.eval(), list(x0.split(256)))
    entropy, _ = language.entropy(L)
    gap = bound["valid_nelbo"] - entropy
    assert -3 * bound["valid_nelbo_se"] < gap < GAPS[process]
