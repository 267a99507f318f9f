"""Measuring cells: samples of a model, a file of samples, held-out text and its shuffled words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mcd.app.errors import UsageError
from mcd.data.loader import open_loader, spread_rows
from mcd.data.shards import tokenizer_of
from mcd.data.tokenizer import tokenizer_of_model
from mcd.eval.metrics import measure, shuffled
from mcd.eval.protocol import Protocol, protocol_of_dict
from mcd.eval.scorer import Scorer
from mcd.model.denoiser import Denoiser
from mcd.sampler import Sampler, sample


@dataclass(frozen=True)
class Cell:
    """One row of metrics.json and the samples it was measured on."""

    row: dict[str, Any]
    samples: list[dict[str, Any]]


def measure_model(
    denoiser: Denoiser,
    sampler: Sampler,
    scorer: Scorer | None,
    num: int,
    length: int,
    seed: int,
    weights: Literal["ema", "raw"],
    model: str,
    round: int | None = None,
) -> Cell:
    """Sample `num` rows and measure them."""
    assert denoiser.folder is not None
    tokenizer = tokenizer_of_model(denoiser.folder, denoiser.config.vocab_size)
    ids, nfe = sample(sampler, denoiser, num, length, seed)
    texts = [tokenizer.decode(row) for row in ids.tolist()]
    protocol = Protocol(
        **sampler.protocol(), length=length, weights=weights, seed=seed, threads=torch.get_num_threads()
    )
    mean_nfe = nfe.double().mean().item()
    row = measure(
        ids.numpy(), texts, scorer, protocol, model=model, round=round, steps=sampler.steps, nfe=mean_nfe, seed=seed
    )
    samples = [
        {"row": i, "seed": seed, "steps": sampler.steps, "nfe": calls, "ids": row_ids, "text": text}
        for i, (calls, row_ids, text) in enumerate(zip(nfe.tolist(), ids.tolist(), texts, strict=True))
    ]
    return Cell(row, [{"model": model, "round": round, **one} for one in samples])


def measure_file(path: Path, scorer: Scorer | None, seed: int) -> dict[str, Any]:
    """Measure the samples of a file, which carries their protocol.

    Raises UsageError when its rows are of several requests, or one is there twice.
    """
    from mcd.app.evaluate import read_samples

    rows = read_samples(path)
    for key in ("model", "weights_sha256", "round", "steps", "seed", "template", "protocol"):
        if any(row.get(key) != rows[0].get(key) for row in rows):
            raise UsageError(f"{path}: holds samples that differ in {key}; measure them apart")
    numbers = [row["row"] for row in rows if row.get("row") is not None]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{path}: holds a row twice; every sample must be another row")
    protocol = protocol_of_dict(rows[0].get("protocol") or {})
    nfe = [row["nfe"] for row in rows if row.get("nfe") is not None]
    return measure(
        [row["ids"] for row in rows],
        [row["text"] for row in rows],
        scorer,
        protocol,
        model=rows[0].get("model") or path.stem,
        steps=rows[0].get("steps"),
        nfe=sum(nfe) / len(nfe) if nfe else None,
        seed=seed,
    )


def held_out_rows(folder: Path, num: int, length: int | None, seed: int, scorer: Scorer | None) -> list[dict[str, Any]]:
    """Two reference rows: held-out text as it is (`text`) and with its words in random order (`shuffled`).

    folder: prepared data; the rows are spread evenly over its held-out documents.
    """
    loader = open_loader(folder, "valid", 1, length)
    tokenizer = tokenizer_of(folder)
    ids = spread_rows(loader, num).tolist()
    texts = [tokenizer.decode(row) for row in ids]
    protocol = Protocol(length=loader.length, seed=seed)
    mixed = shuffled(texts, seed)
    mixed_ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in mixed]
    return [
        measure(ids, texts, scorer, protocol, model="text", seed=seed),
        measure(mixed_ids, mixed, scorer, protocol, model="shuffled", seed=seed),
    ]
