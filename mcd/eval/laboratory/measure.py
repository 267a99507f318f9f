"""Measuring the samples of a model, and those of a file."""

from dataclasses import replace
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from mcd.data.languages.known import LANGUAGES
from mcd.data.text import writer_of
from mcd.data.tokenizer import tokenizer_of_model
from mcd.errors import UsageError
from mcd.eval.known_language import truth_metrics
from mcd.eval.laboratory.samples_file import Samples
from mcd.eval.laboratory.shares import sample_in_shares
from mcd.eval.metrics import PLAIN, Measurement, Scoring, measure
from mcd.eval.protocol import protocol_of_dict
from mcd.eval.scorer import Scorer, same_vocabulary
from mcd.model.denoiser import Denoiser
from mcd.sampler import Sampler


def measure_model(
    denoiser: Denoiser,
    sampler: Sampler,
    scorer: Scorer | None,
    num: int,
    length: int,
    seed: int,
    *,
    model: str,
    round: int | None = None,
    weights: Literal["ema", "raw"] = "ema",
    scoring: Scoring = PLAIN,
    language: str | None = None,
    frame: tuple[int, int] | None = None,
) -> Measurement:
    """Sample `num` rows and measure them. A denoiser of no folder has no tokenizer: its rows are no text.

    model, round: what the row is called. language: the synthetic language (of LANGUAGES) that also measures the ids
    by its exact likelihood.
    frame: ids of the tokens around each row, which are not measured (see `mcd.sampler.sample`).
    Raises UsageError as `check_scorer`.
    """
    writer = None
    if denoiser.folder is not None:
        tokenizer = tokenizer_of_model(denoiser.folder, denoiser.config.tokens)
        check_scorer(scoring, scorer, tokenizer)
        writer = writer_of(tokenizer, denoiser.folder, scoring.borders)
    ids, nfe = sample_in_shares(sampler, denoiser, num, length, seed, frame=frame)
    protocol = protocol_of_dict(
        sampler.protocol()
        | {
            "borders": writer.borders if writer else None,
            "length": length,
            "frame": True if frame else None,
            "weights": weights,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "dtype": denoiser.dtype_said,
            "shapes": sampler.shapes_said(denoiser, length),
        }
    )
    measured = measure(
        ids.numpy(),
        [writer.documents(row) if writer else "" for row in ids.tolist()],
        scorer,
        protocol,
        model=model,
        round=round,
        steps=sampler.steps,
        nfe=nfe.double().mean().item(),
        scoring=scoring,
        extra=truth_metrics(ids, LANGUAGES[language](), seed=seed) if language else None,
        seed=seed,
    )
    request = {"model": model, "round": round, "seed": seed, "steps": sampler.steps, "protocol": protocol.as_dict()}
    samples = [
        {"row": i, **request, "nfe": calls, "ids": row} | (writer.fields(row) if writer else {})
        for i, (calls, row) in enumerate(zip(nfe.tolist(), ids.tolist(), strict=True))
    ]
    return replace(measured, samples=samples)


def measure_file(samples: Samples, scorer: Scorer | None, seed: int, scoring: Scoring = PLAIN) -> dict[str, Any]:
    """The row of the samples of a file, which carries their protocol. Raises UsageError as `check_samples`."""
    check_samples(samples, scorer is not None, scoring.retokenise)
    first = samples.rows[0]
    nfe = [row["nfe"] for row in samples.rows if row.get("nfe") is not None]
    return measure(
        samples.ids,
        samples.texts,
        scorer,
        replace(protocol_of_dict(first.get("protocol") or {}), borders=samples.borders),
        model=first.get("model") or samples.path.stem,
        steps=first.get("steps"),
        nfe=sum(nfe) / len(nfe) if nfe else None,
        scoring=scoring,
        seed=seed,
    ).row


def check_samples(samples: Samples, scores: bool, retokenise: bool = True) -> None:
    """Check before anything is loaded that the samples of a file can be measured as one set.

    scores: whether there is a scorer. Raises UsageError when the rows are of several requests, or one is duplicated;
    for ids to be scored unchanged, since the file does not carry their tokenizer; and for texts without ids where there
    is no scorer.
    """
    rows, path = samples.rows, samples.path
    if not retokenise:
        raise UsageError(f"--no-retokenise: {path} does not carry the tokenizer of its ids; name the model instead")
    if samples.ids is None and not scores:
        raise UsageError(f"--scorer none: {path} holds texts without token ids, which a scorer must tokenise")
    for key in ("model", "weights_sha256", "round", "steps", "seed", "template", "protocol"):
        if any(row.get(key) != rows[0].get(key) for row in rows):
            raise UsageError(f"{path}: holds samples that differ in {key}; measure them separately")
    numbers = [row["row"] for row in rows if row.get("row") is not None]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{path}: holds a row twice; every sample must be another row")


def check_scorer(scoring: Scoring, scorer: Scorer | None, tokenizer: Tokenizer) -> None:
    """Raise UsageError when the scorer is to score ids of another vocabulary, or has no token to end a document."""
    if scorer is None:
        return
    if scoring.retokenise and scoring.borders == "kept" and scorer.end_id is None:
        raise UsageError(
            f"--borders kept: the scorer {scorer.name} has no end-of-text token to read between documents; give "
            "--borders dropped, with which documents run together, or another scorer"
        )
    if not scoring.retokenise and not same_vocabulary(scorer, tokenizer.get_vocab()):
        raise UsageError(
            f"--no-retokenise: the scorer {scorer.name} has another vocabulary than the text's tokens, and can only "
            "read them as text; leave the option out, or name a scorer with the same tokenizer"
        )
