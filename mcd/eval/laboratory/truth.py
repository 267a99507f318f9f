"""Cells of languages whose truth is known: what a model's samples are worth, told by the language itself."""

from typing import Any

import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.data.languages.known import LANGUAGES
from mcd.eval.bootstrap import mean_interval
from mcd.eval.diversity import sample_entropies
from mcd.eval.known_language import ExactDenoiser, sampling_floor, truth_metrics
from mcd.eval.laboratory.measure import Cell
from mcd.eval.likelihood import nelbo
from mcd.eval.protocol import protocol_of_dict
from mcd.model.denoiser import Denoiser
from mcd.sampler import Sampler, sample

EXACT = "exact:"
"""`exact:hmm` names the exact denoiser of a language, where a model's name is expected."""


def open_model(source: str, length: int) -> Denoiser:
    """A model by its name, or the exact denoiser of a language."""
    if source.startswith(EXACT):
        return ExactDenoiser(LANGUAGES[source.removeprefix(EXACT)](), length)
    return from_pretrained(source)


def measure_language(
    denoiser: Denoiser,
    sampler: Sampler,
    name: str,
    num: int,
    length: int,
    seed: int,
    model: str,
    round: int | None = None,
) -> Cell:
    """Sample `num` rows and hold them against language `name`; `floor` in the row is what the truth itself reaches."""
    language = LANGUAGES[name]()
    ids, nfe = sample(sampler, denoiser, num, length, seed)
    entropy = mean_interval(sample_entropies(ids), seed=seed)
    drawn = {"samples": num, "length": length, "weights": "ema", "seed": seed, "threads": 1}
    protocol = protocol_of_dict(sampler.protocol() | drawn)
    row: dict[str, Any] = {
        "model": model,
        "language": name,
        "round": round,
        "steps": sampler.steps,
        "nfe": nfe.double().mean().item(),
        "entropy": entropy.value,
        "entropy_lo": entropy.lo,
        "entropy_hi": entropy.hi,
        **truth_metrics(ids, language, seed=seed),
        "floor": sampling_floor(language, num, length) | {"entropy": true_sample_entropy(name, num, length)},
        "protocol": {**protocol.as_dict(), "digest": protocol.digest()},
    }
    return Cell(row, [{"ids": one} for one in ids.tolist()])


def true_sample_entropy(name: str, num: int, length: int) -> float:
    """The mean unigram entropy of a row of the language itself, nats."""
    ids = LANGUAGES[name]().sample_rows(num, length, torch.Generator().manual_seed(0))
    return float(sample_entropies(ids).mean())


def likelihood_row(denoiser: Denoiser, name: str, model: str, seed: int, rows: int = 2048) -> dict[str, Any]:
    """A model's bound on fresh text of the language, beside the language's own entropy, nats a token."""
    language, length = LANGUAGES[name](), denoiser.config.backbone.length
    x0 = language.sample_rows(rows, length, torch.Generator().manual_seed(1_000_003 + seed))
    entropy, error = language.entropy(length)
    bound = nelbo(denoiser, list(x0.split(64)), seed)
    return {
        "model": model,
        "language": name,
        "seed": seed,
        **bound,
        "entropy_true": entropy,
        "entropy_true_se": error,
        "gap": bound["valid_nelbo"] - entropy,
    }
